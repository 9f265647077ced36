"""How much each decoder layer, or a block of them, changes what flows through, on calibration data.

Axes: `B` batch, `S` sequence, `T` real tokens, `H` hidden, `L` layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...arch.view import ModelView, describe, view_at
from ...distributed import sum_, together, total
from ...hooks import evaluating
from ...progress import track
from ..calibration.activations import not_finite_on_data, own_batches, real_tokens, run_batches
from ..calibration.stream import Batches, run_layer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHUNK_TOKENS = 256


def analyze_layer_importance(
    model: PreTrainedModel,
    dataloader: Iterable[Any],
    layers_path: str | None = None,
    show_progress: bool = True,
) -> dict[int, float]:
    """Block influence of each decoder layer: 1 - cosine between its input and its output.

    The mean over all real tokens; a layer near 0 passes its input on and can go first. Source:
    ShortGPT (arXiv 2403.03853).

    Args:
        model: a transformers model; it runs in eval mode and is left as it was.
        dataloader: calibration batches, as in `prune_model`.
        layers_path: where the decoder layers are, such as `model.layers`, in a model where they are
            not found by themselves.
        show_progress: whether to show a bar.

    Returns:
        Layer index → block influence, 0 to 2.

    Raises:
        ArgumentError: there is no list of layers at `layers_path`.
        UnsupportedModelError: the decoder layers are not found.
        DataError: no batch, one of an unknown kind, or hidden states that are NaN or Inf.

    Example:
        >>> import torch
        >>> from optipfair.testing import tiny_model
        >>> batches = [torch.arange(12)[None]]
        >>> scores = analyze_layer_importance(tiny_model("llama"), batches, show_progress=False)
        >>> sorted(scores)
        [0, 1, 2, 3]
    """
    view = describe(model) if layers_path is None else view_at(model, layers_path)
    return block_influence(view, own_batches(dataloader), show_progress)


def block_influence(
    view: ModelView, batches: Iterable[object], show_progress: bool = False
) -> dict[int, float]:
    """`analyze_layer_importance` of a model that is described already."""
    sums = [0.0] * len(view.layers)

    def add(index: int, before: Tensor, after: Tensor, mask: Tensor) -> None:
        sums[index] += _influence_sum(before, after, mask)

    return _checked(sums, _run_watching(view, batches, add, show_progress))


def influence_by_layers(batches: Batches, *, show_progress: bool = False) -> dict[int, float]:
    """`block_influence` of a model whose layers come one at a time; `batches` are used up."""
    sums = [0.0] * len(batches.view.layers)
    with evaluating(batches.view.model):
        for layer in track(batches.view.layers, "calibrating", show_progress, unit="layer"):
            with together():
                copied = batches.source.copied(layer)
                for number, mask in enumerate(batches.masks):
                    before = batches.hidden[number]
                    after = run_layer(copied, before, batches.arguments[number][layer.index])
                    sums[layer.index] += _influence_sum(before, after, mask)
                    batches.hidden[number] = after
                del copied  # before the next one comes
    tokens = total(sum(int(mask.sum()) for mask in batches.masks))[0]
    return _checked(sums, int(tokens))


def _influence_sum(before: Tensor, after: Tensor, mask: Tensor) -> float:
    """Sum over the real tokens of 1 - cosine between a layer's input and output, (B, S, H)."""
    rows = [real_tokens(states, mask) for states in (before, after.to(before.device))]
    cosine = nn.functional.cosine_similarity(rows[0], rows[1], dim=-1)  # (T,)
    return float((1 - cosine).clamp_min(0).double().sum())


def _checked(sums: Sequence[float], tokens: int) -> dict[int, float]:
    """Layer index → mean over the tokens of all processes; NaN and Inf are refused."""
    scores = {index: value / tokens for index, value in enumerate(total(*sums))}
    wrong = [index for index, score in scores.items() if not score < float("inf")]
    if wrong:
        raise not_finite_on_data(f"hidden states of layer {wrong[0]}")
    return scores


def by_influence(scores: dict[int, float]) -> Callable[[int], tuple[int, ...]]:
    """How many layers go → those of least influence, sorted; ties go to the lower index."""
    order = sorted(scores, key=lambda index: (scores[index], index))
    return lambda count: tuple(sorted(order[:count]))


def block_angles(
    view: ModelView, batches: Iterable[object], show_progress: bool = False
) -> list[list[float]]:
    """Mean angle, as a share of a half turn, between every two states of the hidden stream.

    State l is the input of layer l, state L the output of the last layer, so entry [l][l + n] of
    the (L + 1, L + 1) is arccos(cos(h_l, h_{l+n})) / pi of the block of n layers that begins with
    layer l. Source: arXiv 2403.17887, section 3; there of the last token of each sequence, here
    the mean over all real tokens.
    """
    sums = torch.zeros(len(view.layers) + 1, len(view.layers) + 1, dtype=torch.float64)
    states: list[Tensor] = []  # of the batch that runs, as unit vectors, (T, H) each

    def note(index: int, before: Tensor, after: Tensor, mask: Tensor) -> None:
        if index == 0:
            states[:] = [nn.functional.normalize(real_tokens(before, mask), dim=-1)]
        states.append(nn.functional.normalize(real_tokens(after, mask), dim=-1))
        if len(states) == len(sums):
            sums.add_(_angle_sums(states))

    tokens = _run_watching(view, batches, note, show_progress)
    sum_(sums)
    if not bool(torch.isfinite(sums).all()):
        raise not_finite_on_data("hidden states of a layer")
    angles: list[list[float]] = (sums / tokens).tolist()
    return angles


def _angle_sums(states: Sequence[Tensor]) -> Tensor:
    """Sum of the angles over tokens: L + 1 times (T, H) → (L + 1, L + 1), float64."""
    sums = torch.zeros(len(states), len(states), dtype=torch.float64)
    for chunk in zip(*(torch.split(state, _CHUNK_TOKENS) for state in states), strict=True):
        units = torch.stack([part.cpu() for part in chunk], dim=1)  # (T, L + 1, H)
        cosines = (units @ units.mT).clamp(-1, 1)
        sums += torch.arccos(cosines).double().sum(dim=0) / math.pi
    return sums


def flattest_block(angles: Sequence[Sequence[float]], count: int) -> tuple[int, ...]:
    """The block of `count` layers that turns its input least; ties go to the lower index."""
    starts = range(len(angles) - count)
    start = min(starts, key=lambda first: (angles[first][first + count], first))
    return tuple(range(start, start + count))


def _run_watching(
    view: ModelView,
    batches: Iterable[object],
    watch: Callable[[int, Tensor, Tensor, Tensor], None],
    show_progress: bool,
) -> int:
    """Run the model; tell `watch` each layer's index, its input and output (B, S, H), and the mask.

    The number of real tokens, in all processes, is returned.
    """
    mask = [torch.empty(0)]  # of the batch that runs

    def note(_args: tuple[Any, ...], real: Tensor) -> None:
        mask[0] = real

    def told(index: int) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple | list) else output
            watch(index, before, after, mask[0])

        return hook

    with ExitStack() as stack:
        for layer in view.layers:
            handle = layer.module.register_forward_hook(told(layer.index), with_kwargs=True)
            stack.callback(handle.remove)
        return run_batches(view, batches, [(view.layers[0].module, note)], show_progress)
