"""The hybrid: neurons scored by their weights and by what flows through the model as it is.

Axes: `B` batch, `S` sequence, `I` neurons, `E` experts, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import torch
from torch import Tensor

from ...arch.finite import check_finite
from ...arch.view import LayerView, MLPView, ModelView, find_mlp
from ...distributed import together
from ...hooks import evaluating
from ...progress import track
from ..calibration.activations import SquareSums, check_experts, neuron_input_norms, updating
from ..calibration.stream import Batches, LayerSource, run_layer
from .criteria import hybrid, ppm
from .weight_scores import by_expert


def hybrid_scorer(
    view: ModelView, batches: Iterable[object], show_progress: bool = False
) -> Callable[[MLPView], Tensor]:
    """What scores an MLP of a model in memory, which runs over all batches first."""
    norms = neuron_input_norms(view, batches, show_progress)
    return lambda mlp: score_mlp_with_data(mlp, norms[mlp.layer, mlp.spec.name])


def score_mlp_with_data(mlp: MLPView, input_norms: Tensor) -> Tensor:
    """Score the neurons of an MLP by weights and activations (the hybrid of PPM).

    Args:
        mlp: the MLP.
        input_norms: L2 norm of each neuron's input to the down projection, (I,) or (E, I).

    Returns:
        (I,) or (E, I), float32.
    """
    check_finite(mlp, {"gate", "up", "gate+up", "down", "bias"})
    parts = {role: by_expert(ppm, [matrix]) for role, matrix in mlp.matrices().items()}
    norms = input_norms.to(parts["down"].device, torch.float32)
    if not mlp.spec.experts:
        return hybrid(parts.get("gate"), parts["up"], parts["down"], norms)
    gates = parts.get("gate", [None] * len(norms))
    experts = zip(gates, parts["up"], parts["down"], norms, strict=True)
    return torch.stack([hybrid(*expert) for expert in experts])


def hybrid_by_layers(
    view: ModelView,
    batches: Batches,
    source: LayerSource,
    wanted: Collection[tuple[int, str]],
    *,
    show_progress: bool = False,
) -> dict[tuple[int, str], Tensor]:
    """The scores of MLPs of a model whose layers come one at a time; `batches` are used up.

    Returns:
        For each (layer, MLP) that is wanted (I,) or (E, I), float32.
    """
    for mlp in view.mlps:
        check_experts(mlp)
    last = max((index for index, _ in wanted), default=-1)
    scores: dict[tuple[int, str], Tensor] = {}
    with evaluating(view.model):
        for layer in track(view.layers, "calibrating", show_progress, unit="layer"):
            if layer.index <= last:
                mlps = [mlp for mlp in layer.mlps if (layer.index, mlp.spec.name) in wanted]
                scores |= _scored(layer, source, batches, mlps)
    return scores


def _scored(
    layer: LayerView, source: LayerSource, batches: Batches, mlps: Sequence[MLPView]
) -> dict[tuple[int, str], Tensor]:
    with together():
        copied = source.copied(layer)
    own = [view for mlp in mlps if (view := find_mlp(layer.index, copied, mlp.spec)) is not None]
    sums, mask = [SquareSums(mlp) for mlp in own], list[Tensor]()
    with together(), updating([(each.module, each.update) for each in sums], mask):
        for number, hidden in enumerate(batches.hidden):
            mask[:] = [batches.masks[number]]
            arguments = batches.arguments[number][layer.index]
            batches.hidden[number] = run_layer(copied, hidden, arguments)
    return {
        (layer.index, each.mlp.spec.name): score_mlp_with_data(each.mlp, each.norms()).cpu()
        for each in sums
    }
