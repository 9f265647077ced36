"""Passes over the layers that only look: what a whole forward pass shows, one layer at a time.

The model does not change on the way, so each layer sees what it sees in the model itself.

Axes: `B` batch, `S` sequence, `I` neurons, `E` experts, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from ..arch.view import LayerView, MLPView, ModelView, find_mlp
from ..distributed import together, total
from ..hooks import evaluating, recording_inputs
from ..progress import track
from .calibration.activations import SquareSums, check_experts, input_norms
from .calibration.stream import Batches, LayerSource, run_layer
from .importance.weight_scores import score_mlp_with_data
from .layers.influence import checked_influence, influence_sum


def hybrid_scores(
    view: ModelView,
    batches: Batches,
    source: LayerSource,
    wanted: Collection[tuple[int, str]],
    *,
    show_progress: bool = False,
) -> dict[tuple[int, str], Tensor]:
    """Score MLPs by their weights and by what flows through the model as it is.

    Args:
        view: the model.
        batches: what enters the first layer; used up.
        source: where the layers come from.
        wanted: (layer, MLP) of those to score.
        show_progress: whether to show a bar.

    Returns:
        (layer, MLP) → (I,) or (E, I), float32.

    Raises:
        DataError: activations that are NaN or Inf.
        UnsupportedModelError: experts that do not show their activations, or weights that are NaN
            or Inf.
    """
    for mlp in view.mlps:
        check_experts(mlp)
    found: dict[tuple[int, str], Tensor] = {}
    with evaluating(view.model):
        for layer in track(view.layers, "calibrating", show_progress, unit="layer"):
            if layer.index <= max((index for index, _ in wanted), default=-1):
                mlps = [mlp for mlp in layer.mlps if (layer.index, mlp.spec.name) in wanted]
                found |= _scored(layer, source, batches, mlps)
    return found


def _scored(
    layer: LayerView, source: LayerSource, batches: Batches, mlps: Sequence[MLPView]
) -> dict[tuple[int, str], Tensor]:
    with together():
        copied = source.copied(layer)
    own = [view for mlp in mlps if (view := find_mlp(layer.index, copied, mlp.spec)) is not None]
    sums = [SquareSums(mlp) for mlp in own]
    mask: list[Tensor] = [torch.empty(0)]

    def callback(each: SquareSums) -> Callable[..., None]:
        return lambda _module, args: each.update(args, mask[0])

    with together(), recording_inputs([(each.module, callback(each)) for each in sums]):
        for number in range(len(batches.hidden)):
            mask[0] = batches.masks[number]
            arguments = batches.arguments[number][layer.index]
            batches.hidden[number] = run_layer(copied, batches.hidden[number], arguments)
    return {
        (layer.index, each.mlp.spec.name): score_mlp_with_data(each.mlp, input_norms(each)).cpu()
        for each in sums
    }


def stream_influence(
    view: ModelView, batches: Batches, source: LayerSource, *, show_progress: bool = False
) -> dict[int, float]:
    """`influence.block_influence`, one layer at a time; `batches` are used up."""
    sums = [0.0] * len(view.layers)
    with evaluating(view.model):
        for layer in track(view.layers, "calibrating", show_progress, unit="layer"):
            with together():
                copied = source.copied(layer)
                for number, mask in enumerate(batches.masks):
                    before = batches.hidden[number]
                    after = run_layer(copied, before, batches.arguments[number][layer.index])
                    sums[layer.index] += influence_sum(before, after, mask)
                    batches.hidden[number] = after
                del copied  # before the next one comes
    tokens = total(sum(int(mask.sum()) for mask in batches.masks))[0]
    return checked_influence(sums, int(tokens))
