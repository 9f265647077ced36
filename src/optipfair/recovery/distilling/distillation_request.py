"""What is asked of a distillation, as one value: weights of its terms, and how to train."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...checking import check_count, real_number
from ...errors import ArgumentError
from ...noted import warn
from ...pruning.cut.plan import PruningPlan
from .layer_maps import LAYER_MAPS, MAPPING_ORIGINAL
from .optimizing import SCHEDULES

TERMS = {"alpha": "task", "beta": "logits", "gamma": "trajectory", "delta": "derivative"}

_Rule = tuple[str, Callable[[float], bool], float]  # what is allowed, in words; an example
_WEIGHT: _Rule = ("of 0 or more", lambda value: value >= 0, 0.4)
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(TERMS, _WEIGHT),
    "temperature": ("above 0", lambda value: value > 0, 2.0),
    "skew_alpha": ("from 0 to below 1", lambda value: 0 <= value < 1, 0.4),
    "learning_rate": ("above 0", lambda value: value > 0, 4e-5),
    "warmup_ratio": ("from 0 to 1", lambda value: 0 <= value <= 1, 0.05),
}


@dataclass(frozen=True)
class DistillationRequest:
    """The arguments of `distill_model` beside its models and data."""

    layer_mapping_strategy: str
    alpha: float
    beta: float
    gamma: float
    delta: float
    temperature: float
    skew_alpha: float
    epochs: int
    learning_rate: float
    scheduler: str
    warmup_ratio: float
    accumulation_steps: int
    plan: PruningPlan | str | Path | None = None

    @property
    def weights(self) -> dict[str, float]:
        """By the names of their arguments."""
        return {name: getattr(self, name) for name in TERMS}

    @property
    def by_term(self) -> dict[str, float]:
        """The weights by the names of the terms."""
        return {TERMS[name]: weight for name, weight in self.weights.items()}

    @property
    def compares_layers(self) -> bool:
        return self.gamma > 0 or self.delta > 0

    @property
    def read_plan(self) -> PruningPlan | None:
        """The plan, once `checked` has read it."""
        return self.plan if isinstance(self.plan, PruningPlan) else None

    def checked(self) -> DistillationRequest:
        """The same in plain numbers and usual names, with its plan read.

        Raises:
            ArgumentError: something of it cannot be done. Warns of weights that look like a slip.
        """
        plain: dict[str, Any] = {name: _number(name, getattr(self, name)) for name in _RULES}
        for name in ("epochs", "accumulation_steps"):
            plain[name] = check_count(name, getattr(self, name))
        strategy = LAYER_MAPS.canonical(self.layer_mapping_strategy)
        found = replace(
            self,
            **plain,
            layer_mapping_strategy=strategy,
            scheduler=SCHEDULES.canonical(self.scheduler),
            plan=_plan(strategy, self.plan),
        )
        _check_sum(found)
        return found


def _number(name: str, value: object) -> float:
    allowed, fits, example = _RULES[name]
    number = real_number(value)
    if number is None or not fits(number):
        raise ArgumentError(
            f"{name}={value!r} is no finite number {allowed}. Give one, for example {example}."
        )
    return number


def _plan(strategy: str, plan: PruningPlan | str | Path | None) -> PruningPlan | None:
    """The plan, read, where the strategy needs one."""
    if strategy != MAPPING_ORIGINAL:
        if plan is not None:
            raise ArgumentError(
                f"layer_mapping_strategy={strategy!r} reads no plan. Give "
                f"{MAPPING_ORIGINAL!r} to map layers by it, or leave plan out."
            )
        return None
    if isinstance(plan, str | Path):
        return PruningPlan.load(plan)
    if not isinstance(plan, PruningPlan):
        given = "without a plan" if plan is None else f"with a {type(plan).__name__} as plan"
        raise ArgumentError(
            f"layer_mapping_strategy={MAPPING_ORIGINAL!r} {given} cannot say which layers the "
            "student's were. Give plan=, a PruningPlan or the path of a pruning_plan.json."
        )
    return plan


def _check_sum(request: DistillationRequest) -> None:
    total = math.fsum(request.weights.values())
    if total == 0:
        raise ArgumentError(
            "The weights alpha, beta, gamma and delta sum to 0, so there is nothing to learn. Give "
            "one of them above 0, for example alpha=0.6, beta=0.4."
        )
    if request.compares_layers and not math.isclose(total, 1, abs_tol=1e-6):
        warn(
            f"The weights alpha, beta, gamma and delta sum to {total:g}, so the total loss is not "
            "a mean of the terms. Lower alpha or beta by what gamma and delta add."
        )
