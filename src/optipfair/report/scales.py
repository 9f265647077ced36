"""Where numbers lie on an axis, in per cent of its length, and which of them are labelled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in per cent."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """A straight axis from `low` to `high`."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Per cent from the low end; what lies outside is put at the end."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    def ticks(self, label: Callable[[float], str], most: int = 6) -> list[Tick]:
        """Round numbers between the ends, at most `most`."""
        return [Tick(self.at(value), label(value)) for value in _round_numbers(self, most)]


def scale_of(values: Iterable[float | None], margin: float = 0.06) -> Scale:
    """The scale that holds all values, with a margin at both ends."""
    known = [value for value in values if value is not None] or [0.0]
    low, high = min(known), max(known)
    width = max(high - low, 1e-9 * max(abs(low), abs(high))) or 1.0
    return Scale(low - margin * width, high + margin * width)


def ratio_ticks(scale: Scale, label: Callable[[float], str], most: int = 6) -> list[Tick]:
    """Ticks of a scale of logarithms, at round ratios."""
    low, high = (math.exp(min(700.0, max(-700.0, end))) for end in (scale.low, scale.high))
    if high < 3 * low:
        ratios = _round_numbers(Scale(low, high), most)
    else:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        step = max(1, math.ceil((last - first) / most))
        steps = (1, 2, 5) if last - first <= 2 else (1,)
        exponents = (e for e in range(first, last + 1) if e % step == 0)
        ratios = [k * 10.0**e for e in exponents for k in steps if low <= k * 10.0**e <= high]
    return [Tick(scale.at(math.log(ratio)), label(ratio)) for ratio in ratios if ratio > 0]


def _round_numbers(scale: Scale, most: int) -> list[float]:
    rough = (scale.high - scale.low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough * (1 - 1e-9))
    first = math.ceil(scale.low / step)
    last = math.floor(scale.high / step)
    # No negative zero, and none of the dust of binary fractions.
    return [float(f"{k * step:.12g}") + 0.0 for k in range(first, last + 1)]
