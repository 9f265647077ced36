"""What the layer before a removed block does for it: a least-squares map in its down projection.

Layers run on copies; the live model is only read.

Axes: `T` real tokens, `H` hidden, `I` neurons.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..arch.slots import read
from ..arch.view import MLPView, ModelView
from ..distributed import sum_, total
from ..errors import DataError, PruningWarning, UnsupportedModelError
from ..hooks import evaluating
from ..progress import track
from .additive import additive_scale, own_mlp, real_tokens, run_seeing
from .collecting import HELD_BACK, token_roles
from .compensation import Fit, Moments, fit_kept
from .plan import PruningPlan
from .stream import Batches, copied_layer, run_layer


@dataclass(frozen=True)
class BlockError:
    """How far a layer's outputs are from those of the block behind it, on held-back tokens.

    Attributes:
        layer, mlp: what makes up for the block.
        first, last: the block.
        error: squared error over the squared outputs that the down projection should give, with
            the weights that will be written; None where too few tokens were held back.
        removed_error: the same if the block were only removed.
        shrinkage: of the map; infinity where it was only removed.
    """

    layer: int
    mlp: str
    first: int
    last: int
    error: float | None
    removed_error: float | None
    shrinkage: float


@dataclass
class Replaced:
    """What a pass over the layers found.

    Attributes:
        replacements: new down projections, by layer, MLP and tensor name.
        errors: for each block that has a layer before it.
    """

    replacements: dict[tuple[int, str, str], Tensor] = field(default_factory=dict)
    errors: list[BlockError] = field(default_factory=list)


@dataclass(frozen=True)
class _Anchor:
    """The layer before a block: its MLP, and what its outputs are multiplied with on their way."""

    first: int
    last: int
    mlp: MLPView
    scale: float


def replace_blocks(
    view: ModelView, stream: Batches, drop: Sequence[int], *, show_progress: bool = False
) -> Replaced:
    """Fit the layer before each removed block to what the block would have given.

    The layer gives x = r + s W m, with m what enters its down projection W, and the block turns x
    into y. Wanted is W' m = W m + (y - x) / s over the real tokens: ridge regression on m that
    shrinks towards W, plain removal (`compensation.fit_kept`). Blocks are fitted front to back,
    each on what flows when those before it are replaced.

    Args:
        view: the model; it is not changed.
        stream: what enters the first layer (`stream.capture`); used up.
        drop: the layers that go.
        show_progress: whether to show a bar.

    Raises:
        UnsupportedModelError: an MLP's outputs do not simply add to its layer's outputs.
        DataError: activations that are NaN or Inf.
    """
    found = Replaced()
    with evaluating(view.model):
        anchors = _anchors(view, stream, drop)
        layers = view.layers[: max(anchors, default=-1) + 1]
        for layer in track(layers, "replacing layers", show_progress, unit="layer"):
            if layer.index in set(drop):
                continue
            copied = copied_layer(layer.module)
            anchor = anchors.get(layer.index)
            if anchor is not None:
                _fit(view, anchor, own_mlp(anchor.mlp, copied), copied, stream, found)
            for number, hidden in enumerate(stream.hidden):
                arguments = stream.arguments[number][layer.index]
                stream.hidden[number] = run_layer(copied, hidden, arguments)
    return found


def removed_blocks(drop: Sequence[int]) -> list[tuple[int, int]]:
    """Consecutive layers as (first, last)."""
    blocks: list[tuple[int, int]] = []
    for index in sorted(drop):
        if blocks and blocks[-1][1] == index - 1:
            blocks[-1] = (blocks[-1][0], index)
        else:
            blocks.append((index, index))
    return blocks


def with_blocks(plan: PruningPlan, found: Replaced) -> PruningPlan:
    """The plan with what makes up for its layers, for the record."""
    errors = [
        {
            "layer": each.layer,
            "mlp": each.mlp,
            "first": each.first,
            "last": each.last,
            "error": each.error,
            "removed_error": each.removed_error,
        }
        for each in found.errors
    ]
    return replace(plan, request={**plan.request, "compensate": True, "replaced_blocks": errors})


def _anchors(view: ModelView, stream: Batches, drop: Sequence[int]) -> dict[int, _Anchor]:
    """The layers before the blocks; all are looked at before the long work begins."""
    anchors: dict[int, _Anchor] = {}
    for first, last in removed_blocks(drop):
        if first == 0:
            _warn(
                f"Layers 0 to {last} have no layer before them that could make up for them, so "
                "they were only removed."
            )
            continue
        mlp, scale = _additive_mlp(view, stream, first - 1)
        _check_own(view, mlp, drop)
        anchors[first - 1] = _Anchor(first, last, mlp, scale)
    return anchors


def _additive_mlp(view: ModelView, stream: Batches, index: int) -> tuple[MLPView, float]:
    """The dense MLP of a layer whose outputs add to the layer's, and with which factor."""
    for mlp in view.layers[index].mlps:
        if not mlp.spec.experts:
            scale = additive_scale(view, stream, mlp)
            if scale is not None:
                return mlp, scale
    what = "has no dense MLP" if all(mlp.spec.experts for mlp in view.layers[index].mlps) else ""
    raise UnsupportedModelError(
        f"Layer {index} of {view.spec.model_type!r} cannot make up for the layers behind it: it "
        + (what or "changes its MLP's outputs (a norm or a gate) before they are added")
        + ". Give compensate=False, or remove other layers."
    )


def _check_own(view: ModelView, mlp: MLPView, drop: Sequence[int]) -> None:
    """Another layer that stays and has the same weights would change too."""
    weight = mlp.tensors[mlp.spec.down]
    for other in view.mlps:
        same = any(tensor is weight for tensor in other.tensors.values())
        if same and other.layer != mlp.layer and other.layer not in drop:
            raise UnsupportedModelError(
                f"Layers {mlp.layer} and {other.layer} share their {mlp.spec.name}, so it cannot "
                "make up for layers behind one of them. Give compensate=False."
            )


def _fit(
    view: ModelView,
    anchor: _Anchor,
    mlp: MLPView,
    layer: nn.Module,
    stream: Batches,
    found: Replaced,
) -> None:
    """Find the new down projection and set it in the layer's copy."""
    weight = mlp.tensors[mlp.spec.down]
    old = read(weight, mlp.spec.down)["down"].T.float()  # (H, I)
    fit = fit_kept(
        old,
        torch.arange(old.shape[1], device=old.device),
        *_block_moments(view, anchor, mlp, layer, stream, old),
    )
    if fit.error is None:
        _warn(
            f"Too few calibration tokens to fit layer {mlp.layer} to layers {anchor.first} to "
            f"{anchor.last}, so these were only removed. Give more data."
        )
    found.errors.append(_block_error(anchor, fit))
    if fit.shrinkage == float("inf"):
        return
    axis = mlp.spec.down.axis
    new = fit.weight.movedim(-1, axis).contiguous().to(weight.dtype)
    found.replacements[mlp.layer, mlp.spec.name, mlp.spec.down.name] = new
    weight.data = new


def _block_error(anchor: _Anchor, fit: Fit) -> BlockError:
    return BlockError(
        anchor.mlp.layer,
        anchor.mlp.spec.name,
        anchor.first,
        anchor.last,
        fit.error,
        fit.sliced_error,
        fit.shrinkage,
    )


def _block_moments(
    view: ModelView,
    anchor: _Anchor,
    mlp: MLPView,
    layer: nn.Module,
    stream: Batches,
    weight: Tensor,
) -> tuple[Moments, Moments]:
    """Moments to fit on and to judge by: inputs m, targets W m + (y - x) / s."""
    width, hidden_size = weight.shape[1], weight.shape[0]
    sums = [_empty(width, hidden_size, weight.device) for _ in range(2)]
    for number, hidden in enumerate(stream.hidden):
        arguments, mask = stream.arguments[number], stream.masks[number]
        inputs, output = run_seeing(mlp, layer, hidden, arguments[mlp.layer], mask)
        onward = output
        for index in range(anchor.first, anchor.last + 1):
            onward = run_layer(view.layers[index].module, onward, arguments[index])
        gap = real_tokens(onward, mask).to(weight.device) - real_tokens(output, mask)  # (T, H)
        targets = inputs @ weight.T + gap / anchor.scale
        held = token_roles(mask, stream.firsts[number])[mask].to(inputs.device) == HELD_BACK
        for place, chosen in enumerate((~held, held)):
            sums[place] += _moments(inputs[chosen], targets[chosen])
    sums = [_over_processes(moments) for moments in sums]
    if not all(math.isfinite(moments.power or 0.0) for moments in sums):
        raise DataError(
            f"The activations of layers {mlp.layer} to {anchor.last} are NaN or Inf on the "
            "calibration data. Try a wider dtype (bfloat16 or float32)."
        )
    return sums[0], sums[1]


def _empty(width: int, hidden_size: int, device: torch.device) -> Moments:
    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=device)

    return Moments(zeros(width, width), zeros(hidden_size, width), 0.0)


def _over_processes(moments: Moments) -> Moments:
    assert moments.targets is not None
    sum_(moments.inputs, moments.targets)
    power, tokens = total(moments.power or 0.0, moments.tokens)
    return replace(moments, power=power, tokens=int(tokens))


def _moments(inputs: Tensor, targets: Tensor) -> Moments:
    return Moments(
        (inputs.T @ inputs).double(),
        (targets.T @ inputs).double(),
        float(targets.double().square().sum()),
        len(inputs),
    )


def _warn(message: str) -> None:
    warnings.warn(message, PruningWarning, stacklevel=2)
