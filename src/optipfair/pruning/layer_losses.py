"""What the model loses where a single layer is pruned, on a sample of the calibration data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from torch import Tensor, nn

from ..arch.view import ModelView, find_mlp
from ..distributed import together, total
from ..errors import DataError
from ..hooks import evaluating
from ..progress import track
from .calibration.stream import capture, copied_layer, logits_after, run_layer
from .compensation.by_layers import Calibrated, cut_copy
from .layers.removal_loss import SAMPLE_TOKENS, loss_sum, sampled, through


def layer_losses(
    view: ModelView,
    batches: Iterable[object],
    found: Calibrated,
    adjust: Callable[[int, nn.Module], None],
    *,
    show_progress: bool = False,
) -> dict[int, float]:
    """By how much a token's loss rises (nats, mean) if one layer is as decided, the others whole.

    Args:
        view: the model; it is left as it was.
        batches: calibration data, of which about 2048 tokens are used.
        found: what was decided for each layer on its own.
        adjust: sets the module attributes of a cut layer's copy that follow its width.

    Raises:
        DataError: a loss that is NaN or Inf, or no sequence of two tokens.
    """
    layers = sorted({cut.layer for cut in found.cuts})
    sample = sampled(batches, SAMPLE_TOKENS)
    stream = capture(view, sample)
    sums = dict.fromkeys([-1, *layers], 0.0)  # -1: nothing is pruned
    rest = [list(range(index + 1, len(view.layers))) for index in range(-1, len(view.layers))]
    with together(), evaluating(view.model):
        for number in track(range(len(sample)), "weighing layers", show_progress, "batch"):

            def add(index: int, hidden: Tensor, number: int = number) -> None:
                end = through(view, stream, number, rest[index + 1], hidden)
                logits = logits_after(view, sample[number], end, stream.forms)
                sums[index] += loss_sum(logits, sample[number])

            hidden = stream.hidden[number]
            add(-1, hidden)
            for layer in view.layers:
                arguments = stream.arguments[number][layer.index]
                if layer.index in sums:
                    copied = copied_layer(layer.module)
                    cut = {cut.mlp for cut in found.cuts if cut.layer == layer.index}
                    specs = [mlp.spec for mlp in layer.mlps if mlp.spec.name in cut]
                    mlps = [find_mlp(layer.index, copied, spec) for spec in specs]
                    cut_copy([mlp for mlp in mlps if mlp is not None], found, layer.index)
                    adjust(layer.index, copied)
                    add(layer.index, run_layer(copied, hidden, arguments))
                hidden = run_layer(layer.module, hidden, arguments)
    own = sum(int(batch.attention_mask[:, 1:].sum()) for batch in sample)
    predicted, whole, *losses = total(own, *sums.values())  # over all processes
    if not predicted:
        raise DataError("No calibration sequence has two tokens. Give longer ones.")
    if not all(map(math.isfinite, (whole, *losses))):
        raise DataError(
            "The loss on the calibration data is NaN or Inf. Try a wider dtype (bfloat16 or "
            "float32)."
        )
    return {layer: (loss - whole) / predicted for layer, loss in zip(layers, losses, strict=True)}
