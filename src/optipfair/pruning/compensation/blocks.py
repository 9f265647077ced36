"""What the layer before a removed block does for it: a least-squares map in its down projection.

A layer can do so where its MLP's outputs simply add to what it gives. Layers run on copies; the
live model is only read.

Axes: `B` batch, `S` sequence, `T` real tokens, `H` hidden, `I` neurons.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ...arch.slots import read
from ...arch.view import LayerView, MLPView, ModelView
from ...distributed import gathered, in_first, sum_, together, total
from ...errors import UnsupportedModelError
from ...hooks import evaluating
from ...noted import warn
from ...progress import track
from ..calibration.activations import down_module, not_finite_on_data, real_tokens, updating
from ..calibration.holding import HiddenStates, Key, Replacements
from ..calibration.moments import HELD_BACK, Moments
from ..calibration.stream import Batches, LayerSource, mapped, run_layer
from ..cut.plan import runs
from ..cut.surgery import own_mlp
from ..layers.block_loss import silenced
from .least_squares import fit_kept

_LINEAR = 1e-3  # relative; float32 rounding is far below, a norm far above


@dataclass(frozen=True)
class Anchor:
    """The layer before a block: its MLP, and what its outputs are multiplied with on their way."""

    first: int
    last: int
    mlp: MLPView
    scale: float


def replace_blocks(
    stream: Batches,
    drop: Sequence[int],
    *,
    replaced: MutableMapping[Key, Tensor],
    refuse: bool,
    show_progress: bool = False,
) -> list[dict[str, Any]]:
    """Fit the layer before each removed block to what the block would have given.

    The layer gives x = r + s W m, with m what enters its down projection W, and the block turns x
    into y. Wanted is W' m = W m + (y - x) / s over the real tokens: ridge regression on m that
    shrinks towards W, plain removal (`least_squares.fit_kept`). Blocks are fitted front to back,
    each on what flows when those before it are replaced.

    `stream` is what enters the first layer (`stream.capture`), and is used up; `replaced` takes
    the new down projections; `refuse` is that of `_find_anchors`. The record that is returned names
    each block and the layer before it, with how far its outputs are from the block's on held-back
    tokens (squared error over the squared outputs that the down projection should give, None where
    too few were held back), and how far they were if the block were only removed.
    """
    errors: list[dict[str, Any]] = []
    with evaluating(stream.view.model):
        anchors = _find_anchors(stream, drop, refuse=refuse)
        layers = stream.view.layers[: max(anchors, default=-1) + 1]
        for layer in track(layers, "replacing layers", show_progress, unit="layer"):
            if layer.index in set(drop):
                continue
            with together():
                copied = stream.source.copied(layer)
            if layer.index in anchors:
                anchor = anchors[layer.index]
                with together():
                    onward = _behind_block(anchor, copied, stream)
                errors.append(fit_anchor(anchor, copied, stream, onward, replaced))
            with together():
                for number, hidden in enumerate(stream.hidden):
                    arguments = stream.arguments[number][layer.index]
                    stream.hidden[number] = run_layer(copied, hidden, arguments)
    return errors


def with_replaced(source: LayerSource, replaced: Replacements) -> LayerSource:
    """The same layers with the tensors that are in `replaced` when a layer is asked for."""

    def copied(layer: LayerView) -> nn.Module:
        module = source.copied(layer)
        for mlp in (own_mlp(each, module) for each in layer.mlps):
            for slot, tensor in mlp.tensors.items():
                key = (*mlp.key, slot.name)
                if key in replaced:
                    tensor.data = replaced[key].to(tensor)
        return module

    return replace(source, copied=copied)


def fit_anchor(
    anchor: Anchor,
    layer: nn.Module,
    stream: Batches,
    onward: HiddenStates,
    replaced: MutableMapping[Key, Tensor],
) -> dict[str, Any]:
    """Find the new down projection, set it in the layer's copy, and say how well it does.

    `onward` is what should come of the layer, for each batch (B, S, H).
    """
    mlp = own_mlp(anchor.mlp, layer)
    weight = mlp.tensors[mlp.spec.down]
    old = read(weight, mlp.spec.down)["down"].T.float()  # (H, I)
    moments = _block_moments(anchor, mlp, layer, stream, onward, old)
    every = torch.arange(old.shape[1], device=old.device)
    fit = in_first(lambda: fit_kept(old, every, *moments).to_be_sent())
    if fit.error is None:
        warn(
            f"Too few calibration tokens to fit layer {mlp.layer} to layers {anchor.first} to "
            f"{anchor.last}, so these were only removed. Give more data."
        )
    if fit.shrinkage != float("inf"):
        new = fit.weight.movedim(-1, mlp.spec.down.axis).contiguous().to(weight)
        replaced[*mlp.key, mlp.spec.down.name] = new
        weight.data = new
    return {
        "layer": mlp.layer,
        "mlp": mlp.spec.name,
        "first": anchor.first,
        "last": anchor.last,
        "error": fit.error,
        "removed_error": fit.sliced_error,
    }


def _behind_block(anchor: Anchor, layer: nn.Module, stream: Batches) -> HiddenStates:
    """What the block gives for each batch, (B, S, H)."""
    onward = stream.hidden.others()
    for number, hidden in enumerate(stream.hidden):
        onward.append(run_layer(layer, hidden, stream.arguments[number][anchor.mlp.layer]))
    for index in range(anchor.first, anchor.last + 1):
        module = stream.source.lent(stream.view.layers[index])
        for number, hidden in enumerate(onward):
            onward[number] = run_layer(module, hidden, stream.arguments[number][index])
        del module  # before the next one comes
    return onward


def _block_moments(
    anchor: Anchor,
    mlp: MLPView,
    layer: nn.Module,
    stream: Batches,
    onward: HiddenStates,
    weight: Tensor,
) -> tuple[Moments, Moments]:
    """Moments to fit on and to judge by: inputs m, targets W m + (y - x) / s."""
    sums = [_moments(*(weight.new_empty(0, n) for n in weight.shape[::-1])) for _ in range(2)]
    with together():
        for number, hidden in enumerate(stream.hidden):
            arguments, mask = stream.arguments[number], stream.masks[number]
            inputs, output = _run_seeing(mlp, layer, hidden, arguments[mlp.layer], mask)
            gap = real_tokens(onward[number], mask).to(weight.device) - output  # (T, H)
            targets = inputs @ weight.T + gap / anchor.scale
            held = stream.roles(number)[mask].to(inputs.device) == HELD_BACK
            for place, chosen in enumerate((~held, held)):
                sums[place] += _moments(inputs[chosen], targets[chosen])
    powers = total(*(moments.power or 0.0 for moments in sums))
    if not all(map(math.isfinite, powers)):
        raise not_finite_on_data(f"activations of layers {mlp.layer} to {anchor.last}")
    for moments in sums:
        assert moments.targets is not None
        sum_(moments.inputs, moments.targets)
    fitting, held_back = (replace(m, power=power) for m, power in zip(sums, powers, strict=True))
    return fitting, held_back


def _moments(inputs: Tensor, targets: Tensor) -> Moments:
    return Moments(
        (inputs.T @ inputs).double(),
        (targets.T @ inputs).double(),
        float(targets.double().square().sum()),
    )


def _find_anchors(stream: Batches, drop: Sequence[int], *, refuse: bool) -> dict[int, Anchor]:
    """The layers before removed blocks, by their index; so all are looked at before the long work.

    `refuse` says whether a block that no layer can make up for is refused, or left out with a
    warning. One that begins with the first layer is always left out.
    """
    anchors: dict[int, Anchor] = {}
    for first, last in runs(drop):
        if first == 0:
            warn(
                f"Before layers 0 to {last} there is no layer that could make up for them, so they "
                "were only removed."
                if last
                else "Before layer 0 there is none that could make up for it, so it was only "
                "removed."
            )
            continue
        mlp, scale = _additive_mlp(stream, first - 1)
        why_not = _why_not(stream.view, mlp, first - 1, drop)
        if mlp is not None and why_not is None:
            anchors[first - 1] = Anchor(first, last, mlp, scale)
        elif refuse:
            raise UnsupportedModelError(
                f"{why_not}. Give compensate=False, or remove other layers."
            )
        else:
            warn(f"{why_not}. So layers {first} to {last} were only removed.")
    return anchors


def _additive_mlp(stream: Batches, index: int) -> tuple[MLPView | None, float]:
    """The dense MLP of a layer whose outputs add to the layer's, and with which factor."""
    for mlp in stream.view.layers[index].mlps:
        if not mlp.spec.experts:
            with together():
                own = [additive_scale(stream, mlp)] if len(stream.hidden) else []
            scale = next(chain(*gathered(own)))  # of the first process that has a batch, for all
            if scale is not None:
                return mlp, scale
    return None, 0.0


def _why_not(view: ModelView, mlp: MLPView | None, index: int, drop: Sequence[int]) -> str | None:
    """Why a layer cannot make up for the layers behind it; None if it can."""
    if mlp is None:
        dense = any(not each.spec.experts for each in view.layers[index].mlps)
        what = "changes its MLP's outputs (a norm or a gate) before they are added"
        return (
            f"Layer {index} of {view.spec.model_type!r} cannot make up for the layers behind it: "
            f"it {what if dense else 'has no dense MLP'}"
        )
    weight = mlp.tensors[mlp.spec.down]
    for other in view.mlps:
        same = any(tensor is weight for tensor in other.tensors.values())
        if same and other.layer != index and other.layer not in drop:  # it would change too
            return (
                f"Layers {index} and {other.layer} share their {mlp.spec.name}, so it cannot make "
                "up for layers behind one of them"
            )
    return None


def additive_scale(stream: Batches, mlp: MLPView, silent: Sequence[MLPView] = ()) -> float | None:
    """The factor between a change of the MLP's outputs and that of its layer's; None if it varies.

    Found by changing the weights of a copy, in float32, on the first batch, in which what is
    `silent` gives nothing. The states in `stream` may be those that enter any layer up to this one.
    """
    copied = stream.source.copied(stream.view.layers[mlp.layer]).float()
    with silenced((own_mlp(each, copied) for each in silent), bias=False):
        return _scale(stream, own_mlp(mlp, copied), copied)


def _scale(stream: Batches, own: MLPView, copied: nn.Module) -> float | None:
    hidden, arguments = mapped((stream.hidden[0], stream.arguments[0][own.layer]), _wide)
    inputs, before = _run_seeing(own, copied, hidden, arguments, stream.masks[0])
    down = read(own.tensors[own.spec.down], own.spec.down)["down"]  # (I, H), a view
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(down.shape, generator=generator).to(down.device)
    size = (before.norm(dim=1) / inputs.norm(dim=1).clamp_min(1e-30)).median()
    change *= size / down.shape[1] ** 0.5  # as large as what flows, so that rounding is small
    down += change
    _, after = _run_seeing(own, copied, hidden, arguments, stream.masks[0])
    wanted, seen = (inputs @ change).double(), (after - before).double()  # (T, H)
    if not bool(seen.isfinite().all()):
        raise not_finite_on_data(f"activations of layer {own.layer}")
    scale = float((wanted * seen).sum() / wanted.square().sum().clamp_min(1e-30))
    misses = (seen - scale * wanted).norm(dim=1) / seen.norm(dim=1).clamp_min(1e-30)
    return scale if scale != 0 and float(misses.quantile(0.95)) < _LINEAR else None


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _run_seeing(
    mlp: MLPView, layer: nn.Module, hidden: Tensor, arguments: tuple[Any, Any], mask: Tensor
) -> tuple[Tensor, Tensor]:
    """What enters the down projection (T, I), and what the layer gives (T, H), real tokens only."""
    seen: list[Tensor] = []

    def keep(args: tuple[Any, ...], real: Tensor) -> None:
        seen.append(real_tokens(args[0], real))

    with updating([(down_module(mlp), keep)], [mask]):
        output = run_layer(layer, hidden, arguments)
    return torch.cat(seen), real_tokens(output, mask)
