"""How much: percentages, rates and counts → integers, with every rule of what excludes what."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ...checking import (
    check_count,
    check_layer_count,
    check_layer_indices,
    check_layers_to_remove,
    real_number,
    whole_number,
)
from ...errors import ArgumentError
from ..layers.strategies import LAYER_STRATEGIES, custom_layers, select_layers_to_remove
from ..options.prune_options import DEFAULT_PERCENTAGE, EXPANSION_DIVISORS
from .budget import Budget


@dataclass(frozen=True)
class WidthTarget:
    """How many neurons stay: a share to remove, a rate to reach, or a share to keep; else open."""

    percentage: float | None  # to remove
    expansion_rate: float | None  # width in percent of the hidden size
    divisor: int | None = None  # the kept width is rounded down to a multiple of it
    nearest: int | None = None  # or to the nearest multiple of this, where the width is one
    layers: tuple[int, ...] | None = None  # whose neurons go, None for all
    share: Fraction | None = None  # to keep, as a budget has set it

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


@dataclass(frozen=True)
class DepthRequest:
    """How many layers go, or which: count, indices or percentage, or a budget decides."""

    method: str
    count: int | None = None
    indices: tuple[int, ...] | None = None
    percentage: float | None = None
    chosen: Callable[[int], Sequence[int]] | None = None  # by data: count → the layers that go

    @property
    def open(self) -> bool:
        return self.count is None and self.indices is None and self.percentage is None

    def resolve(self, total_layers: int) -> tuple[int, ...]:
        """Say which layers of a model go; of a percentage p, floor(L * p / 100 + 1e-9 * L)."""
        if self.indices is not None:
            return tuple(check_layers_to_remove("layer_indices", self.indices, total_layers))
        return self.first_to_go(total_layers, self.number(total_layers))

    def number(self, total_layers: int) -> int:
        """How many layers of a model go; a number or indices that it has not are refused."""
        if self.indices is not None:
            return len(check_layers_to_remove("layer_indices", self.indices, total_layers))
        count = self.count
        if count is None:
            count = _count_from_percentage(self.percentage or 0.0, total_layers)
        return check_layer_count("num_layers_to_remove", count, total_layers)

    def first_to_go(self, total_layers: int, count: int) -> tuple[int, ...]:
        """The layers that go when so many go; `count` may be 0."""
        if count == 0:
            return ()
        if self.chosen is not None:
            return tuple(self.chosen(count))
        return tuple(select_layers_to_remove(total_layers, count, self.method))


def removed_count(units: int, percentage: float) -> int:
    """How many of `units` a percentage removes: floor(units * p / 100 + 1e-9 * units)."""
    removed = math.floor(units * percentage / 100 + 1e-9 * units)
    return min(removed, units - 1) if percentage < 100 else removed


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
    budget: Budget | None = None,
) -> WidthTarget:
    """Check a width target. Exactly one of the first two, or a budget, must be given."""
    _refuse_beside_budget(
        budget, {"pruning_percentage": pruning_percentage, "expansion_rate": expansion_rate}
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


def depth_request(
    num_layers_to_remove: object = None,
    layer_indices: object = None,
    depth_pruning_percentage: object = None,
    layer_selection_method: str = "last",
    *,
    budget: Budget | None = None,
    may_be_open: bool = False,
) -> DepthRequest:
    """Check a depth target as far as that goes without a model. Exactly one of three is given.

    With a `budget` none of the three may be given; where it `may_be_open`, none need be.
    """
    method = LAYER_STRATEGIES.canonical(layer_selection_method)
    given = {
        "num_layers_to_remove": num_layers_to_remove,
        "layer_indices": layer_indices,
        "depth_pruning_percentage": depth_pruning_percentage,
    }
    _refuse_beside_budget(budget, given)
    names = [name for name, value in given.items() if value is not None]
    if not names and may_be_open:
        if method == "custom":
            raise ArgumentError(
                "layer_selection_method='custom' needs layer_indices; a budget removes the 'last' "
                "or the 'first' layers."
            )
        return DepthRequest(method)
    if len(names) != 1:
        wrong = (
            f"{' and '.join(names)} are mutually exclusive" if names else "No depth target is given"
        )
        raise ArgumentError(
            f"{wrong}. Must specify exactly one of {', '.join(given)} (with pruning_type='DEPTH' "
            "also named pruning_percentage)."
        )
    if layer_indices is not None:
        if method not in ("last", "custom"):
            raise ArgumentError(
                f"layer_indices excludes layer_selection_method={method!r}. Leave one of them out."
            )
        indices = check_layer_indices("layer_indices", layer_indices)
        return DepthRequest("custom", indices=tuple(indices))
    if num_layers_to_remove is not None:
        count = check_layer_count("num_layers_to_remove", num_layers_to_remove)
        if method == "custom":
            custom_layers(count + 1, count)
        return DepthRequest(method, count=count)
    share = check_percentage("depth_pruning_percentage", depth_pruning_percentage)
    return DepthRequest(method, percentage=share)


def _refuse_beside_budget(budget: Budget | None, given: Mapping[str, object]) -> None:
    """A budget says how much goes; nothing else may."""
    named = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    if budget is not None and named:
        raise ArgumentError(
            f"{', '.join(named)} does not go with a budget of {budget}. Leave one of them out."
        )


def explicit_percentage(pruning_type: object, percentage: Any, *others: object) -> Any:
    """None if `percentage` is the specification's default where another target may be meant.

    The default of 10 cannot be told from an explicit 10, so beside one of the `others` (a rate, a
    budget) and in depth pruning it counts as absent; any other value there is taken as given.
    """
    is_default = isinstance(percentage, numbers.Real) and percentage == DEFAULT_PERCENTAGE
    depth = isinstance(pruning_type, str) and pruning_type.upper() == "DEPTH"
    elsewhere = depth or any(target is not None for target in others)
    return None if is_default and elsewhere else percentage


def check_percentage(name: str, value: object) -> float:
    number = _number(name, value, "Give the share to remove, for example 20")
    if not 0 <= number < 100:
        raise ArgumentError(
            f"{name}={value!r} is outside [0, 100). Give the share to remove, for example 20."
        )
    return number


def check_expansion_rate(value: object) -> float:
    number = _number("expansion_rate", value, "Give a percentage of the hidden size, like 140")
    if number <= 0:
        raise ArgumentError(
            f"expansion_rate={value!r} is not above 0. Give the MLP width in percent of the "
            "hidden size, for example 140."
        )
    return number


def _number(name: str, value: object, way_out: str) -> float:
    number = real_number(value)
    if number is None:
        raise ArgumentError(f"{name}={value!r} is no finite number. {way_out}.")
    return number


def small_share(name: str, percentage: float | None) -> str | None:
    """What to say of a percentage that looks like a fraction; None of any other."""
    if percentage is None or not 0 < percentage < 1:
        return None
    return f"{name}={percentage:g} removes {percentage:g} percent.{_of_a_hundred(percentage)}"


def _of_a_hundred(percentage: float) -> str:
    return f" For {percentage:g} of all give {100 * percentage:g}." if 0 < percentage < 1 else ""


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


def _count_from_percentage(percentage: float, total_layers: int) -> int:
    count = removed_count(total_layers, percentage)
    if count == 0:
        smallest = math.ceil(1e4 / total_layers) / 100
        raise ArgumentError(
            f"depth_pruning_percentage={percentage:g} of {total_layers} layers is no whole layer. "
            f"The smallest that removes one is {smallest:g}.{_of_a_hundred(percentage)}"
        )
    return count
