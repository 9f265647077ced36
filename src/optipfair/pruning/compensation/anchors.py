"""Which layer stands before each removed block, and whether it can make up for it.

It can where an MLP's outputs simply add to what the layer gives. Layers run on copies; the live
model is only read.

Axes: `B` batch, `S` sequence, `T` real tokens, `H` hidden, `I` neurons.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ...arch.slots import read
from ...arch.view import MLPView, ModelView
from ...distributed import gathered, together
from ...errors import PruningWarning, UnsupportedModelError
from ...hooks import recording_inputs
from ..calibration.activations import not_finite_on_data, real_tokens
from ..calibration.stream import LIVE, Batches, LayerSource, mapped, run_layer
from ..cut.plan import runs
from ..cut.surgery import own_mlp

_LINEAR = 1e-3  # relative; float32 rounding is far below, a norm far above


@dataclass(frozen=True)
class Anchor:
    """The layer before a block: its MLP, and what its outputs are multiplied with on their way."""

    first: int
    last: int
    mlp: MLPView
    scale: float


def find_anchors(
    view: ModelView, stream: Batches, drop: Sequence[int], source: LayerSource, *, refuse: bool
) -> dict[int, Anchor]:
    """The layers before removed blocks, by their index; so all are looked at before the long work.

    `refuse` says whether a block that no layer can make up for is refused, or left out with a
    warning. One that begins with the first layer is always left out.
    """
    anchors: dict[int, Anchor] = {}
    for first, last in runs(drop):
        if first == 0:
            _warn(
                f"Layers 0 to {last} have no layer before them that could make up for them, so "
                "they were only removed."
            )
            continue
        mlp, scale = _additive_mlp(view, stream, first - 1, source)
        why_not = _why_not(view, mlp, first - 1, drop)
        if mlp is not None and why_not is None:
            anchors[first - 1] = Anchor(first, last, mlp, scale)
        elif refuse:
            raise UnsupportedModelError(
                f"{why_not}. Give compensate=False, or remove other layers."
            )
        else:
            _warn(f"{why_not}. So layers {first} to {last} were only removed.")
    return anchors


def _additive_mlp(
    view: ModelView, stream: Batches, index: int, source: LayerSource
) -> tuple[MLPView | None, float]:
    """The dense MLP of a layer whose outputs add to the layer's, and with which factor."""
    for mlp in view.layers[index].mlps:
        if not mlp.spec.experts:
            with together():
                own = [additive_scale(view, stream, mlp, source)] if len(stream.hidden) else []
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


def _warn(message: str) -> None:
    warnings.warn(message, PruningWarning, stacklevel=2)


def additive_scale(
    view: ModelView, stream: Batches, mlp: MLPView, source: LayerSource = LIVE
) -> float | None:
    """The factor between a change of the MLP's outputs and that of its layer's; None if it varies.

    Found by changing the weights of a copy, in float32, on the first batch. The states in `stream`
    may be those that enter any layer up to this one.
    """
    copied = source.copied(view.layers[mlp.layer]).float()
    own = own_mlp(mlp, copied)
    hidden, arguments = mapped((stream.hidden[0], stream.arguments[0][mlp.layer]), _wide)
    inputs, before = run_seeing(own, copied, hidden, arguments, stream.masks[0])
    down = read(own.tensors[own.spec.down], own.spec.down)["down"]  # (I, H), a view
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(down.shape, generator=generator).to(down.device)
    size = (before.norm(dim=1) / inputs.norm(dim=1).clamp_min(1e-30)).median()
    change *= size / down.shape[1] ** 0.5  # as large as what flows, so that rounding is small
    down += change
    _, after = run_seeing(own, copied, hidden, arguments, stream.masks[0])
    wanted, seen = (inputs @ change).double(), (after - before).double()  # (T, H)
    if not bool(seen.isfinite().all()):
        raise not_finite_on_data(f"activations of layer {mlp.layer}")
    scale = float((wanted * seen).sum() / wanted.square().sum().clamp_min(1e-30))
    misses = (seen - scale * wanted).norm(dim=1) / seen.norm(dim=1).clamp_min(1e-30)
    return scale if scale != 0 and float(misses.quantile(0.95)) < _LINEAR else None


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def run_seeing(
    mlp: MLPView, layer: nn.Module, hidden: Tensor, arguments: tuple[Any, Any], mask: Tensor
) -> tuple[Tensor, Tensor]:
    """What enters the down projection (T, I), and what the layer gives (T, H), real tokens only."""
    seen: list[Tensor] = []
    module = mlp.owner.get_submodule(mlp.spec.down.module)

    def keep(_module: nn.Module, args: tuple[object, ...]) -> None:
        assert isinstance(args[0], Tensor)
        seen.append(real_tokens(args[0], mask))

    with recording_inputs([(module, keep)]):
        output = run_layer(layer, hidden, arguments)
    return torch.cat(seen), real_tokens(output, mask)
