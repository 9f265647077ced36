"""How the pass over the layers decides each layer, given what was asked for and planned."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ..arch.view import MLPView, ModelView
from .calibration.moments import Inputs
from .compensation.by_layers import Recipe
from .cut.guard import Rewrite
from .cut.plan import PruningPlan
from .importance.criteria import CalibratedCriterion, Weights
from .importance.selection import select_neurons, select_units
from .planning import generator_of
from .request.pruning_request import PruningRequest


def recipe_of(request: PruningRequest, plan: PruningPlan) -> Recipe:
    """What decides the neurons of a layer: a calibrated criterion, or the plan, which did."""
    criterion = request.criterion
    if isinstance(criterion, CalibratedCriterion) and criterion.needs_data:
        choose = partial(_choose, criterion, request.seed)
        return Recipe(choose, criterion.needs_moments, request.compensate, request.sequential)
    keeps = {(cut.layer, cut.mlp): cut.keep for cut in plan.width_cuts}
    return Recipe(partial(_as_planned, keeps), False, request.compensate, request.sequential)


def _choose(
    criterion: CalibratedCriterion,
    seed: int,
    mlp: MLPView,
    expert: int,
    inputs: Inputs,
    count: int,
) -> Tensor:
    """The neurons that a criterion keeps; those that no token reached go by their weights."""
    weights = _weights(mlp, expert)
    if inputs.tokens == 0:  # an expert that no calibration token was routed to
        return select_neurons(weights.down.norm(dim=1), count)
    scores = criterion.function(weights, inputs, count, generator_of(seed, mlp, expert))
    by_unit = scores.to(weights.down.device).view(mlp.width, -1).sum(dim=1)
    return select_units(by_unit, count, mlp.spec.groups)


def _weights(mlp: MLPView, expert: int) -> Weights:
    roles = ("down",) if mlp.spec.down.rows > 1 or mlp.spec.groups > 1 else ("down", "gate", "up")
    found = {role: matrix for role, matrix in mlp.matrices().items() if role in roles}
    return Weights(
        **{role: (m[expert] if mlp.spec.experts else m).float() for role, m in found.items()}
    )


def _as_planned(
    keeps: Mapping[tuple[int, str], tuple[tuple[int, ...], ...]],
    mlp: MLPView,
    expert: int,
    inputs: Inputs,
    count: int,
) -> Tensor:
    device = mlp.tensors[mlp.spec.down].device
    return torch.tensor(keeps[mlp.layer, mlp.spec.name][expert], device=device)


def adjust_layer(
    view: ModelView, plan: PruningPlan, rewrite: Rewrite, index: int, layer: nn.Module
) -> None:
    """Set what a layer's modules note of their width, as the cut will do."""
    prefix = f"{view.layers_path}.{plan.keep_layers.index(index)}."
    for change in rewrite.attributes:
        if change.module.startswith(prefix):
            module = layer.get_submodule(change.module[len(prefix) :])
            if getattr(module, change.name, None) == change.old and change.name != "layer_idx":
                setattr(module, change.name, change.new)
    for module in layer.modules() if plan.attention_unit else ():
        config = vars(module).get("config")  # a copy of its own, which some forwards read
        for name in rewrite.config:
            if hasattr(config, name):
                setattr(config, name, rewrite.config[name])
