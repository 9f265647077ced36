"""What was asked for, checked as far as that goes without a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError
from .budget import Budget, read_budget
from .importance import CRITERIA, Criterion
from .targets import (
    PRUNING_TYPES,
    DepthRequest,
    WidthTarget,
    depth_request,
    one_depth_percentage,
    refuse_foreign,
    width_target,
)


@dataclass(frozen=True)
class PruningRequest:
    """A pruning as it was asked for.

    Attributes:
        width: how many neurons stay (open where a budget decides), None in depth pruning.
        criterion: what scores them, None in depth pruning.
        depth: which layers go (open where a budget decides), None in width pruning.
        budget: how large the result may be, None without one.
    """

    width: WidthTarget | None = None
    criterion: Criterion | None = None
    depth: DepthRequest | None = None
    budget: Budget | None = None

    @property
    def kind(self) -> str:
        """`MLP_GLU`, `DEPTH` or `BOTH`."""
        if self.width is not None and self.depth is not None:
            return "BOTH"
        return "DEPTH" if self.width is None else "MLP_GLU"


def check_request(
    pruning_type: str = "MLP_GLU",
    neuron_selection_method: str = "MAW",
    pruning_percentage: float | None = None,
    expansion_rate: float | None = None,
    *,
    dataloader: Iterable[Any] | None = None,
    num_layers_to_remove: int | None = None,
    layer_indices: Sequence[int] | None = None,
    depth_pruning_percentage: float | None = None,
    layer_selection_method: str = "last",
    expansion_divisor: int | None = None,
    target_params: int | str | None = None,
    target_size: int | str | None = None,
) -> PruningRequest:
    """Check the arguments of `plan_pruning` as far as that goes without a model.

    Raises:
        ArgumentError: wrong or conflicting arguments.
    """
    kind = PRUNING_TYPES.canonical(pruning_type)
    budget = read_budget(target_params, target_size)
    if kind == "MLP_GLU":
        refuse_foreign(
            kind,
            {
                "num_layers_to_remove": (num_layers_to_remove, None),
                "depth_pruning_percentage": (depth_pruning_percentage, None),
                "layer_selection_method": (layer_selection_method, "last"),
            },
        )
    if kind == "DEPTH":
        refuse_foreign(
            kind,
            {
                "neuron_selection_method": (neuron_selection_method, "MAW"),
                "expansion_rate": (expansion_rate, None),
                "expansion_divisor": (expansion_divisor, None),
                "dataloader": (dataloader, None),
            },
        )
        depth_pruning_percentage = one_depth_percentage(
            pruning_percentage, depth_pruning_percentage
        )
        pruning_percentage = None
    width, criterion, depth = None, None, None
    if kind != "DEPTH":
        chosen = layer_indices if kind == "MLP_GLU" else None
        width = width_target(
            pruning_percentage, expansion_rate, expansion_divisor, chosen, budget=budget
        )
        criterion = _criterion(neuron_selection_method, dataloader)
    if kind != "MLP_GLU":
        depth = depth_request(
            num_layers_to_remove,
            layer_indices,
            depth_pruning_percentage,
            layer_selection_method,
            budget=budget if kind == "DEPTH" else None,
            may_be_open=budget is not None,
        )
    return PruningRequest(width, criterion, depth, budget)


def _criterion(name: str, dataloader: object) -> Criterion:
    entry = CRITERIA[name]
    if dataloader is not None and not entry.accepts_data:
        raise ArgumentError(
            f"dataloader does not go with neuron_selection_method={name!r}: only 'MAW' (PPM) has "
            "a data-driven form. Use 'MAW', or leave the dataloader out."
        )
    return entry
