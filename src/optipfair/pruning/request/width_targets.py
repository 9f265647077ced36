"""How many neurons stay: percentages and rates → integers, and what excludes what."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from ...checking import check_count, check_layer_count, check_layer_indices, whole_number
from ...errors import ArgumentError
from ..options.prune_options import EXPANSION_DIVISORS
from .budget import Budget
from .shares import check_percentage, finite_number, refuse_beside_budget, removed_count


@dataclass(frozen=True)
class WidthTarget:
    """How many neurons or units stay: by a share to remove, a rate to reach, a share to keep, or a
    number of units to remove or to keep; else open.
    """

    percentage: float | None  # to remove
    expansion_rate: float | None  # width in percent of the hidden size
    divisor: int | None = None  # the kept width is rounded down to a multiple of it
    nearest: int | None = None  # or to the nearest multiple of this, where the width is one
    layers: tuple[int, ...] | None = None  # whose neurons go, None for all
    share: Fraction | None = None  # to keep, as a budget has set it
    remove: int | None = None  # units, of each layer
    keep: int | None = None  # or so many to keep

    def units_kept(self, width: int) -> int | None:
        """How many of so many units stay, where the target says it by a number; else None."""
        if self.share is not None or (self.remove is None and self.keep is None):
            return None
        kept = width - self.remove if self.remove is not None else self.keep or 0
        if kept > width or kept < 1:
            name = "experts_to_keep" if self.remove is None else "num_experts_to_remove"
            value = self.keep if self.remove is None else self.remove
            most = f"1 to {width}" if self.remove is None else f"0 to {width - 1}"
            raise ArgumentError(
                f"{name}={value} is not possible: each layer has {width} experts, so it can be "
                f"{most}."
            )
        return kept

    def exact_kept(self, width: int, hidden_size: int) -> int:
        """The kept width before rounding to a multiple; more than `width` if the rate is above.

        With a percentage p of I neurons, floor(I * p / 100 + 1e-9 * I) go; with an expansion
        rate r, ceil(r * H / 100) stay; of a share s to keep, floor(s * I). The small term undoes
        the error of binary fractions; one neuron always stays.
        """
        if self.share is not None:
            return max(math.floor(self.share * width), 1)
        if self.percentage is not None:
            return max(width - removed_count(width, self.percentage), 1)
        assert self.expansion_rate is not None
        wanted = Fraction(str(self.expansion_rate)) * hidden_size / 100
        return max(math.ceil(wanted - Fraction(width, 10**9)), 1)

    def kept(self, width: int, hidden_size: int, multiple: int = 1) -> int:
        """The number of neurons that stay of `width`: rounded to a multiple, at least one.

        It is rounded down, or where the target says so to the nearest multiple; then less than one
        multiple to remove is not rounded, nor what a budget allows.
        """
        exact = self.exact_kept(width, hidden_size)
        if exact > width or (exact == width and self.divisor is None):
            return width  # never wider; and a rate leaves what is below it already
        near = math.lcm(self.nearest or 1, multiple)
        if self.nearest and self.share is None and width % near == 0 and width - exact >= near:
            return round_to_divisor(exact, near)
        step = math.lcm(self.divisor or 1, multiple)
        if width < step:
            raise ArgumentError(
                f"A width of {width} cannot be kept as a multiple of {step}. "
                "Choose a smaller expansion_divisor, or a wider MLP."
            )
        return max(exact // step, 1) * step


def round_to_divisor(value: int, divisor: int) -> int:
    """Return the multiple of `divisor` that is nearest to a width, the larger of two, at least one.

    `prune_model(expansion_divisor=...)` rounds down, so that no more stays than was asked for.

    Raises:
        ArgumentError: a width or divisor that is no whole number above 0.

    Example:
        >>> round_to_divisor(1000, 128), round_to_divisor(20, 64)
        (1024, 64)
    """
    width, step = check_count("value", value), check_count("divisor", divisor)
    return max((2 * width + step) // (2 * step), 1) * step


def calculate_pruning_percentage_from_expansion_rate(
    current_intermediate_size: int, current_hidden_size: int, target_expansion_rate: float
) -> float:
    """Return the share of neurons to remove to reach an expansion rate.

    The expansion rate is 100 * I / H, the MLP width in percent of the hidden size. Pruning by
    the returned percentage keeps ceil(rate * H / 100) neurons.

    Args:
        current_intermediate_size: I, now.
        current_hidden_size: H.
        target_expansion_rate: in percent, 140 for 140 %.

    Returns:
        Percentage from 0 (inclusive) to 100 (exclusive).

    Raises:
        ArgumentError: a size below 1, or a rate that is not positive or above the current one.

    Example:
        >>> calculate_pruning_percentage_from_expansion_rate(8192, 2048, 140)
        65.0
    """
    check_layer_count("current_intermediate_size", current_intermediate_size)
    check_layer_count("current_hidden_size", current_hidden_size)
    rate = check_expansion_rate(target_expansion_rate)
    current = 100 * current_intermediate_size / current_hidden_size
    if rate > current * (1 + 1e-9):
        raise ArgumentError(rate_above(rate, current))
    kept = Fraction(str(rate)) * current_hidden_size / 100
    return max(float(100 - 100 * kept / current_intermediate_size), 0.0)


def rate_above(rate: float, current: float) -> str:
    return (
        f"expansion_rate={rate:g} is above the current {current:.4g} %. Pruning only removes: "
        f"give a rate below {current:.4g}."
    )


def width_target(
    pruning_percentage: object,
    expansion_rate: object,
    expansion_divisor: object = None,
    layer_indices: object = None,
    *,
    nearest_multiple: object = None,
    num_experts_to_remove: object = None,
    experts_to_keep: object = None,
    budget: Budget | None = None,
) -> WidthTarget:
    """Check a width target. Exactly one of the first two, a number of experts, or a budget, must be
    given.
    """
    of_experts = {
        "num_experts_to_remove": num_experts_to_remove,
        "experts_to_keep": experts_to_keep,
    }
    refuse_beside_budget(
        budget,
        {
            "pruning_percentage": pruning_percentage,
            "expansion_rate": expansion_rate,
            **of_experts,
        },
    )
    counts = {name: value for name, value in of_experts.items() if value is not None}
    if counts:
        if len(counts) > 1 or pruning_percentage is not None:
            also = {} if pruning_percentage is None else {"pruning_percentage": pruning_percentage}
            listed = " and ".join(f"{name}={value!r}" for name, value in {**counts, **also}.items())
            raise ArgumentError(f"{listed} are mutually exclusive. Give one of them.")
        return WidthTarget(
            None,
            None,
            remove=_whole("num_experts_to_remove", num_experts_to_remove),
            keep=_whole("experts_to_keep", experts_to_keep),
        )
    if pruning_percentage is not None and expansion_rate is not None:
        raise ArgumentError(
            f"pruning_percentage={pruning_percentage!r} and expansion_rate={expansion_rate!r} "
            "are mutually exclusive. Give one of them."
        )
    divisor = _check_divisor(expansion_divisor)
    nearest = None
    if nearest_multiple is not None:
        nearest = check_count("nearest_multiple", nearest_multiple)
        if divisor is not None:
            raise ArgumentError(
                f"expansion_divisor={divisor} and nearest_multiple={nearest} are mutually "
                "exclusive: one rounds down, the other to the nearest. Give one of them."
            )
    if pruning_percentage is None and expansion_rate is None and budget is None:
        alone = f"expansion_divisor={divisor} cannot be used alone. " if divisor else ""
        raise ArgumentError(
            f"{alone}Nothing says how much to prune of each MLP. Must specify pruning_percentage "
            "(for example 20), expansion_rate (for example 140), target_params or target_size."
        )
    layers = percentage = rate = None
    if layer_indices is not None:
        layers = tuple(check_layer_indices("layer_indices", layer_indices))
    if pruning_percentage is not None:
        percentage = check_percentage("pruning_percentage", pruning_percentage)
    if expansion_rate is not None:
        rate = check_expansion_rate(expansion_rate)
    return WidthTarget(percentage, rate, divisor, nearest, layers)


def _whole(name: str, value: object) -> int | None:
    if value is None:
        return None
    number = whole_number(value)
    if number is None or number < 0:
        raise ArgumentError(f"{name}={value!r} is no number of experts. Give a whole number.")
    return number


def check_expansion_rate(value: object) -> float:
    number = finite_number(
        "expansion_rate", value, "Give a percentage of the hidden size, like 140"
    )
    if number <= 0:
        raise ArgumentError(
            f"expansion_rate={value!r} is not above 0. Give the MLP width in percent of the "
            "hidden size, for example 140."
        )
    return number


def _check_divisor(value: object) -> int | None:
    if value is None:
        return None
    number = whole_number(value)
    if number not in EXPANSION_DIVISORS:
        allowed = ", ".join(map(str, EXPANSION_DIVISORS))
        raise ArgumentError(
            f"expansion_divisor={value!r} is not possible: expansion_divisor must be one of "
            f"{allowed}."
        )
    return number
