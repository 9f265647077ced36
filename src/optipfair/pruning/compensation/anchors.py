"""Which layer stands before each removed block, and whether it can make up for it.

The model is only read.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from ...arch.view import MLPView, ModelView
from ...distributed import gathered, together
from ...errors import PruningWarning, UnsupportedModelError
from ..calibration.stream import Batches, LayerSource
from .additive import additive_scale


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

    Args:
        view: the model.
        stream: what enters the first layer.
        drop: the layers that go.
        source: where the layers come from.
        refuse: whether a block that no layer can make up for is refused, or left out, with a
            warning. One that begins with the first layer is always left out.

    Raises:
        UnsupportedModelError: an MLP's outputs do not simply add to its layer's outputs.
        DataError: activations that are NaN or Inf.
    """
    anchors: dict[int, Anchor] = {}
    for first, last in removed_blocks(drop):
        if first == 0:
            _warn(
                f"Layers 0 to {last} have no layer before them that could make up for them, so "
                "they were only removed."
            )
            continue
        mlp, scale = _additive_mlp(view, stream, first - 1, source)
        why_not = _why_not(view, mlp, first - 1, drop)
        if why_not is None:
            assert mlp is not None
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
            scale = _common_scale(view, stream, mlp, source)
            if scale is not None:
                return mlp, scale
    return None, 0.0


def _common_scale(
    view: ModelView, stream: Batches, mlp: MLPView, source: LayerSource
) -> float | None:
    """What the first process that has a batch finds, so that all decide alike."""
    with together():
        own = [additive_scale(view, stream, mlp, source)] if len(stream.hidden) else []
    return next(scale for scales in gathered(own) for scale in scales)


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


def removed_blocks(drop: Sequence[int]) -> list[tuple[int, int]]:
    """Consecutive layers as (first, last)."""
    blocks: list[tuple[int, int]] = []
    for index in sorted(drop):
        if blocks and blocks[-1][1] == index - 1:
            blocks[-1] = (blocks[-1][0], index)
        else:
            blocks.append((index, index))
    return blocks


def _warn(message: str) -> None:
    warnings.warn(message, PruningWarning, stacklevel=2)
