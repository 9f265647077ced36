"""Scores that the caller gives in the place of a criterion's: layer → (I,), (E, I) for experts.

It loads without torch.

Axes: `I` neurons, `E` experts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import ArgumentError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

    from ...arch.view import LayerView, MLPView, ModelView


@dataclass(frozen=True)
class NeuronScores:
    """The caller's scores, float64 on the CPU; it takes the place of a criterion."""

    by_layer: Mapping[int, Tensor]
    given_as: str = "neuron_scores"  # the caller's name of them
    name: ClassVar[str] = "custom"

    def of(self, mlp: MLPView) -> Tensor:
        """Those of an MLP, (I,) or (E, I)."""
        return self.by_layer[mlp.layer]

    @property
    def digest(self) -> str:
        """SHA-256 of the scores, first 16 hex digits."""
        hashed = hashlib.sha256()
        for layer, scores in sorted(self.by_layer.items()):
            hashed.update(f"{layer} {tuple(scores.shape)} ".encode() + scores.numpy().tobytes())
        return hashed.hexdigest()[:16]


def check_scores_fit(scores: NeuronScores, view: ModelView, cut: Sequence[MLPView]) -> None:
    """Refuse scores that are not of this model's neurons, or not of all MLPs that are `cut`."""
    given = scores.given_as
    for layer, values in scores.by_layer.items():
        if layer >= len(view.layers):
            raise ArgumentError(
                f"{given} has layer {layer}, but the model has layers 0 to "
                f"{len(view.layers) - 1}. Leave it out."
            )
        mlp = only_mlp(view.layers[layer])
        if mlp is None:
            raise ArgumentError(f"{given} has layer {layer}, which has no MLP. Leave it out.")
        shape = (mlp.width,) if mlp.experts is None else (mlp.experts, mlp.width)
        if values.shape != shape:
            raise ArgumentError(
                f"{given}[{layer}] has shape {tuple(values.shape)}, but the neurons of that "
                f"layer are {shape}. Give one score for each."
            )
    missing = sorted({mlp.layer for mlp in cut} - scores.by_layer.keys())
    for layer in missing:
        only_mlp(view.layers[layer])
    if missing:
        raise ArgumentError(
            f"{given} lacks layers {missing}, whose neurons are to go. Give their scores, or "
            "say with layer_indices which layers to prune."
        )
    _check_shared(scores, cut)


def only_mlp(layer: LayerView) -> MLPView | None:
    """The MLP of a layer, None where it has none; a layer with several is refused."""
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
                f"{scores.given_as} differ between them. Give both the same."
            )
