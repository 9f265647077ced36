"""Percentages as users give them: checked, and what they are of a whole number."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from ...checking import real_number
from ...errors import ArgumentError
from ..options.prune_options import DEFAULT_PERCENTAGE
from .budget import Budget


def removed_count(units: int, percentage: float) -> int:
    """How many of `units` a percentage removes: floor(units * p / 100 + 1e-9 * units)."""
    removed = math.floor(units * percentage / 100 + 1e-9 * units)
    return min(removed, units - 1) if percentage < 100 else removed


def explicit_percentage(pruning_type: object, percentage: Any, *others: object) -> Any:
    """None if `percentage` is the specification's default where another target may be meant.

    The default of 10 cannot be told from an explicit 10, so beside one of the `others` (a rate, a
    budget, a number of experts or blocks) and in depth pruning it counts as absent; any other value
    there is taken as given.
    """
    is_default = isinstance(percentage, numbers.Real) and percentage == DEFAULT_PERCENTAGE
    depth = isinstance(pruning_type, str) and pruning_type.upper() == "DEPTH"
    elsewhere = depth or any(target is not None for target in others)
    return None if is_default and elsewhere else percentage


def check_percentage(name: str, value: object) -> float:
    number = finite_number(name, value, "Give the share to remove, for example 20")
    if not 0 <= number < 100:
        raise ArgumentError(
            f"{name}={value!r} is outside [0, 100). Give the share to remove, for example 20."
        )
    return number


def finite_number(name: str, value: object, way_out: str) -> float:
    number = real_number(value)
    if number is None:
        raise ArgumentError(f"{name}={value!r} is no finite number. {way_out}.")
    return number


def small_share(name: str, percentage: float | None) -> str | None:
    """What to say of a percentage that looks like a fraction; None of any other."""
    if percentage is None or not 0 < percentage < 1:
        return None
    return f"{name}={percentage:g} removes {percentage:g} percent.{of_a_hundred(percentage)}"


def of_a_hundred(percentage: float) -> str:
    return f" For {percentage:g} of all give {100 * percentage:g}." if 0 < percentage < 1 else ""


def refuse_beside_budget(budget: Budget | None, given: Mapping[str, object]) -> None:
    """A budget says how much goes; nothing else may."""
    named = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    if budget is not None and named:
        raise ArgumentError(
            f"{', '.join(named)} does not go with a budget of {budget}. Leave one of them out."
        )
