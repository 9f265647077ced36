"""Budgets: "1.0B" parameters, "2GB" of weights → the largest model of a kind that fits. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from ...checking import whole_number
from ...errors import ArgumentError

_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_BYTES = {"": 1, "B": 1} | {
    f"{prefix}{unit}": base**power
    for unit, base in (("B", 1000), ("IB", 1024))
    for power, prefix in enumerate("KMGT", 1)
}


@dataclass(frozen=True)
class Budget:
    """How large the result may be: one of the two is given."""

    parameters: int | None  # all, shared ones once
    bytes: int | None  # of the weights, as they are stored

    @property
    def limit(self) -> int:
        """The amount, whatever its unit."""
        return self.parameters or self.bytes or 0

    @property
    def unit(self) -> str:
        return "parameters" if self.parameters is not None else "bytes of weights"

    def __str__(self) -> str:
        return f"{self.limit:,} {self.unit}"


def read_budget(target_params: object, target_size: object) -> Budget | None:
    """Read a number of parameters, or text like `"1.0B"`, or a size; None where none is given."""
    if target_params is not None and target_size is not None:
        raise ArgumentError(
            f"target_params={target_params!r} and target_size={target_size!r} are mutually "
            "exclusive. Give one of them."
        )
    if target_params is not None:
        example = 'Give a number, or text like "1.0B" or "350M"'
        return Budget(_amount("target_params", target_params, _COUNTS, example), None)
    if target_size is not None:
        return Budget(None, read_size("target_size", target_size))
    return None


def read_size(name: str, value: object) -> int:
    """Read a number of bytes: `2000000000`, `"2GB"` (10^9), `"2GiB"` (2^30)."""
    return _amount(name, value, _BYTES, 'Give bytes, or text like "2GB" or "500MiB"')


def _amount(name: str, value: object, units: dict[str, int], way_out: str) -> int:
    """A large unit's fraction is rounded down; single parameters and bytes cannot be split."""
    number = whole_number(value)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)\s*", value)
        unit = units.get(match[2].upper()) if match else None
        if match and unit:
            amount = Fraction(match[1]) * unit
            if amount.denominator > 1 and unit == 1:
                raise ArgumentError(f"{name}={value!r} is no amount: it is not whole. {way_out}.")
            number = int(amount)
    if number is None or number < 1:
        raise ArgumentError(f"{name}={value!r} is no amount. {way_out}.")
    return number


def largest_that_fits(size_of: Callable[[int], int], steps: int, limit: int) -> int | None:
    """The largest step from 1 to `steps` whose size is within the limit; None if none is.

    `size_of` grows with the step.
    """
    return bisect_right(range(1, steps + 1), limit, key=size_of) or None
