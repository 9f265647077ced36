"""How much each decoder layer changes what flows through it, on calibration data.

Axes: `B` batch, `S` sequence, `T` real tokens, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...arch.view import ModelView, describe
from ...distributed import together, total
from ...hooks import evaluating
from ...progress import track
from ..calibration.activations import not_finite_on_data, own_batches, run_batches, token_mask
from ..calibration.stream import Batches, LayerSource, run_layer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def analyze_layer_importance(
    model: PreTrainedModel, dataloader: Iterable[Any], *, show_progress: bool = False
) -> dict[int, float]:
    """Block influence of each decoder layer: 1 - cosine between its input and its output.

    The mean over all real tokens; a layer near 0 passes its input on and can go first. Source:
    ShortGPT (arXiv 2403.03853).

    Args:
        model: a transformers model; it runs in eval mode and is left as it was.
        dataloader: calibration batches, as in `prune_model`.
        show_progress: whether to show a bar.

    Returns:
        Layer index → block influence, 0 to 2.

    Raises:
        UnsupportedModelError: the decoder layers are not found.
        DataError: no batch, one of an unknown kind, or hidden states that are NaN or Inf.

    Example:
        >>> import torch
        >>> from optipfair.testing import tiny_model
        >>> scores = analyze_layer_importance(tiny_model("llama"), [torch.arange(12)[None]])
        >>> sorted(scores)
        [0, 1, 2, 3]
    """
    return block_influence(describe(model), own_batches(dataloader), show_progress)


def block_influence(
    view: ModelView, batches: Iterable[object], show_progress: bool = False
) -> dict[int, float]:
    """`analyze_layer_importance` of a model that is described already."""
    sums = [0.0] * len(view.layers)
    mask: list[Tensor] = [torch.empty(0)]

    def add(index: int) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple | list) else output
            sums[index] += influence_sum(before, after, mask[0])

        return hook

    first = view.layers[0].module

    def note(_args: tuple[Any, ...], real: Tensor) -> None:
        mask[0] = real

    with ExitStack() as stack:
        for layer in view.layers:
            handle = layer.module.register_forward_hook(add(layer.index), with_kwargs=True)
            stack.callback(handle.remove)
        tokens = run_batches(view, batches, [(first, note)], show_progress)
    return checked_influence(sums, tokens)


def influence_by_layers(
    view: ModelView, batches: Batches, source: LayerSource, *, show_progress: bool = False
) -> dict[int, float]:
    """`block_influence` of a model whose layers come one at a time; `batches` are used up."""
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


def influence_sum(before: Tensor, after: Tensor, mask: Tensor) -> float:
    """Sum over the real tokens of 1 - cosine between a layer's input and output, (B, S, H)."""
    real = token_mask(before, mask).to(before.device)
    rows = [x.flatten(0, -2)[real].float() for x in (before, after.to(before.device))]
    cosine = nn.functional.cosine_similarity(rows[0], rows[1], dim=-1)  # (T,)
    return float((1 - cosine).clamp_min(0).double().sum())


def checked_influence(sums: Sequence[float], tokens: int) -> dict[int, float]:
    """Layer index → mean over the tokens of all processes.

    Raises:
        DataError: hidden states that were NaN or Inf.
    """
    scores = {index: value / tokens for index, value in enumerate(total(*sums))}
    wrong = [index for index, score in scores.items() if not score < float("inf")]
    if wrong:
        raise not_finite_on_data(f"hidden states of layer {wrong[0]}")
    return scores


def removal_order(scores: dict[int, float]) -> tuple[int, ...]:
    """Layers in the order in which they go: least influence first, ties by the lower index."""
    return tuple(sorted(scores, key=lambda index: (scores[index], index)))


def by_influence(scores: dict[int, float]) -> Callable[[int], tuple[int, ...]]:
    """How many layers go → those of least influence, sorted."""
    order = removal_order(scores)
    return lambda count: tuple(sorted(order[:count]))
