"""Scores that the caller gives in the place of a criterion's: layer → (I,), (E, I) for experts.

It loads without torch.

Axes: `I` neurons, `E` experts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..errors import ArgumentError, UnsupportedModelError
from .selection import whole_number

if TYPE_CHECKING:
    from torch import Tensor

    from ..arch.view import LayerView, MLPView, ModelView

_WAY_OUT = "Give a dict of layer index → one score for each neuron; higher is kept."


@dataclass(frozen=True)
class NeuronScores:
    """The caller's scores, float64 on the CPU; it takes the place of a criterion."""

    by_layer: Mapping[int, Tensor]
    name: ClassVar[str] = "custom"

    def of(self, mlp: MLPView) -> Tensor:
        """Those of an MLP, (I,) or (E, I)."""
        return self.by_layer[mlp.layer]

    @property
    def digest(self) -> str:
        """SHA-256 of the scores, first 16 hex digits."""
        found = hashlib.sha256()
        for layer, scores in sorted(self.by_layer.items()):
            found.update(f"{layer} {tuple(scores.shape)} ".encode() + scores.numpy().tobytes())
        return found.hexdigest()[:16]


def read_scores(name: str, given: object) -> dict[int, Tensor]:
    """Read scores by layer: tensors, arrays or lists of finite real numbers.

    Args:
        name: of the argument, for messages.
        given: layer index → (I,), or (E, I) for experts.

    Returns:
        Layer index → contiguous float64 on the CPU.

    Raises:
        ArgumentError: it is something else.
    """
    if not isinstance(given, Mapping) or not given:
        what = "is empty" if given == {} else f"is a {type(given).__name__}"
        raise ArgumentError(f"{name} {what}. {_WAY_OUT}")
    found: dict[int, Tensor] = {}
    for key, values in given.items():
        layer = whole_number(key)
        if layer is None or layer < 0 or layer in found:
            raise ArgumentError(
                f"{name} has the key {key!r}, which is no index of a layer, or there twice. "
                f"{_WAY_OUT}"
            )
        found[layer] = _read(f"{name}[{layer}]", values)
    return found


def check_scores_fit(scores: NeuronScores, view: ModelView, cut: Sequence[MLPView]) -> None:
    """Refuse scores that are not of this model's neurons, or not of all that are cut.

    Args:
        scores: the caller's.
        view: the model.
        cut: the MLPs whose neurons go.

    Raises:
        ArgumentError: a layer too many or too few, or the wrong number of scores.
        UnsupportedModelError: a layer has several MLPs.
    """
    for layer, values in scores.by_layer.items():
        if layer >= len(view.layers):
            raise ArgumentError(
                f"neuron_scores has layer {layer}, but the model has layers 0 to "
                f"{len(view.layers) - 1}. Leave it out."
            )
        mlp = only_mlp(view.layers[layer])
        if mlp is None:
            raise ArgumentError(f"neuron_scores has layer {layer}, which has no MLP. Leave it out.")
        shape = (mlp.width,) if mlp.experts is None else (mlp.experts, mlp.width)
        if values.shape != shape:
            raise ArgumentError(
                f"neuron_scores[{layer}] has shape {tuple(values.shape)}, but the neurons of that "
                f"layer are {shape}. Give one score for each."
            )
    missing = sorted({mlp.layer for mlp in cut} - scores.by_layer.keys())
    for layer in missing:
        only_mlp(view.layers[layer])
    if missing:
        raise ArgumentError(
            f"neuron_scores lacks layers {missing}, whose neurons are to go. Give their scores, or "
            "say with layer_indices which layers to prune."
        )
    _check_shared(scores, cut)


def only_mlp(layer: LayerView) -> MLPView | None:
    """The MLP of a layer, None where it has none.

    Raises:
        UnsupportedModelError: it has several.
    """
    if len(layer.mlps) > 1:
        names = ", ".join(mlp.spec.name for mlp in layer.mlps)
        raise UnsupportedModelError(
            f"Layer {layer.index} has {len(layer.mlps)} MLPs ({names}), so a layer's index does "
            "not say whose neurons are meant. Use an importance criterion."
        )
    return layer.mlps[0] if layer.mlps else None


def _check_shared(scores: NeuronScores, cut: Sequence[MLPView]) -> None:
    owners: dict[int, MLPView] = {}
    for mlp in cut:
        first = owners.setdefault(id(mlp.tensors[mlp.spec.down]), mlp)
        if not bool((scores.of(first) == scores.of(mlp)).all()):
            raise ArgumentError(
                f"Layers {first.layer} and {mlp.layer} share their {mlp.spec.name}, but "
                "neuron_scores differ between them. Give both the same."
            )


def _read(name: str, values: object) -> Tensor:
    import numpy as np
    import torch

    try:
        tensor = (
            values.detach()
            if isinstance(values, torch.Tensor)
            else torch.tensor(np.ascontiguousarray(values))
        )
        real = not tensor.is_complex() and tensor.dtype != torch.bool
        tensor = tensor.to("cpu", torch.float64).contiguous() if real else tensor
    except (TypeError, ValueError, RuntimeError) as exc:
        raise ArgumentError(f"{name} cannot be read as numbers ({exc}). {_WAY_OUT}") from exc
    if not real:
        raise ArgumentError(f"{name} is of {tensor.dtype}; scores are real numbers. {_WAY_OUT}")
    if not bool(tensor.isfinite().all()):
        raise ArgumentError(f"{name} holds NaN or Inf. Give finite scores.")
    return tensor
