"""What was asked for, checked as far as that goes without a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError
from .budget import Budget, read_budget
from .importance import CalibratedCriterion, Criterion, criterion_named
from .selection import RANKED_STRATEGIES, whole_number
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
        compensate: whether the kept neurons make up for the lost ones.
        sequential: whether layers see the outputs of the pruned layers before them.
        seed: of what is random.
    """

    width: WidthTarget | None = None
    criterion: Criterion | CalibratedCriterion | None = None
    depth: DepthRequest | None = None
    budget: Budget | None = None
    compensate: bool = False
    sequential: bool = False
    seed: int = 0

    @property
    def by_layers(self) -> bool:
        """Whether a pass over the layers decides."""
        calibrated = isinstance(self.criterion, CalibratedCriterion)
        return self.compensate or (calibrated and self.criterion.needs_data)  # type: ignore[union-attr]

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
    compensate: bool | None = None,
    sequential: bool | None = None,
    seed: int = 0,
) -> PruningRequest:
    """Check the arguments of `plan_pruning` as far as that goes without a model.

    Raises:
        ArgumentError: wrong or conflicting arguments.
    """
    kind = PRUNING_TYPES.canonical(pruning_type)
    budget = read_budget(target_params, target_size)
    ranked = layer_selection_method in RANKED_STRATEGIES.names()
    if ranked and kind != "MLP_GLU" and dataloader is None:
        raise ArgumentError(
            f"layer_selection_method={layer_selection_method!r} needs calibration data. Give a "
            "dataloader, or use 'last' or 'first'."
        )
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
                **({} if ranked else {"dataloader": (dataloader, None)}),
                "compensate": (compensate, None),
                "sequential": (sequential, None),
            },
        )
        depth_pruning_percentage = one_depth_percentage(
            pruning_percentage, depth_pruning_percentage
        )
        pruning_percentage = None
    width, depth = None, None
    criterion: Criterion | CalibratedCriterion | None = None
    if kind != "DEPTH":
        chosen = layer_indices if kind == "MLP_GLU" else None
        width = width_target(
            pruning_percentage, expansion_rate, expansion_divisor, chosen, budget=budget
        )
        criterion = _criterion(neuron_selection_method, dataloader, compensate)
    if kind != "MLP_GLU":
        depth = depth_request(
            num_layers_to_remove,
            layer_indices,
            depth_pruning_percentage,
            layer_selection_method,
            budget=budget if kind == "DEPTH" else None,
            may_be_open=budget is not None,
        )
    compensates = isinstance(criterion, CalibratedCriterion) and criterion.compensates
    compensate = check_flag("compensate", compensate, default=compensates)
    sequential = check_flag("sequential", sequential, default=True)
    return PruningRequest(width, criterion, depth, budget, compensate, sequential, check_seed(seed))


def check_flag(name: str, value: object, *, default: bool) -> bool:
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ArgumentError(f"{name}={value!r} is neither True nor False.")
    return value


def check_seed(seed: object) -> int:
    number = whole_number(seed)
    if number is None or number < 0:
        raise ArgumentError(f"seed={seed!r} is no whole number of 0 or more.")
    return number


def _criterion(
    name: str, dataloader: object, compensate: bool | None
) -> Criterion | CalibratedCriterion:
    entry = criterion_named(name)
    if isinstance(entry, CalibratedCriterion):
        if dataloader is None and (entry.needs_data or compensate):
            raise ArgumentError(
                f"neuron_selection_method={name!r} needs calibration data. Give a dataloader, or "
                "use a static method such as 'MAW'."
            )
        return entry
    if dataloader is None and compensate:
        raise ArgumentError("compensate=True needs calibration data. Give a dataloader.")
    if dataloader is not None and not entry.accepts_data and not compensate:
        raise ArgumentError(
            f"dataloader does not go with neuron_selection_method={name!r}: of the static methods "
            "only 'MAW' (PPM) has a data-driven form. Use 'AUTO' or 'MAW', give compensate=True, "
            "or leave the dataloader out."
        )
    return entry
