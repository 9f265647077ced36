"""A measure of two models on the same items: how it changed, with interval and tests. No torch.

Axes: `N` items, `C` clusters, `K` parts of a measure, `R` draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..certainty.proportions import FEWEST, least_p, mcnemar_p
from ..certainty.sharing import Sharing
from ..uncertainty import SWAPS, Estimate, swapped_sums
from .intervals import (
    FEWEST_CLUSTERS,
    Bounds,
    Mean,
    estimated,
    folded,
    resampled_bounds,
    scaled,
    signed_bounds,
    student_bounds,
    student_test,
)
from .measures import Clusters, Columns, Floats, Measure, over
from .one_figure import Side, sides_of

_UNDEFINED = "one of the figures is not defined"


@dataclass(frozen=True)
class Compared:
    """A figure of two models on the same items."""

    original: Estimate
    pruned: Estimate
    change: Estimate  # pruned - original, or pruned / original where the measure says so
    # How much worse the pruned model is, in the measure's unit (negative: better); for ratios the
    # logarithm of the ratio.
    harm: Estimate
    p: float | None  # of "it is as far from the best value"; None: not tested
    p_change: float | None  # of "it is the same", where the best value has two sides
    untested: str | None  # why there is no p, where a test was wanted
    least_p: float | None  # the smallest p that the test could have given


def compare(
    measure: Measure, original: Columns, pruned: Columns, clusters: Clusters, *, seed: int = 0
) -> Compared:
    """A measure of two models on the same items, in the same order.

    Where items fall into clusters, p-values let the two models change places in each cluster (a
    paired permutation test, Fisher 1935): p = (1 + b) / (1 + swaps), b those with a change at
    least as large. Where items share in several ways, they are Student's t; of answers then not
    smaller than that of McNemar's exact test. A measure with a best value inside its scale is
    tested twice: for a change in either direction, and for one away from the best value or to it.
    """
    before, after = sides_of(measure, [original, pruned], clusters, seed)
    return _Pair(before, after).compared


@dataclass(frozen=True)
class _Pair:
    """Both models' sides of a measure."""

    before: Side
    after: Side

    @property
    def compared(self) -> Compared:
        first, second = self.before.estimate, self.after.estimate
        if first.value is None or second.value is None:
            none = Estimate(None, None, None, _UNDEFINED)
            return Compared(first, second, none, none, None, None, None, None)
        change, harm = self._change_and_harm()
        p, p_change, untested = self._tests()
        least = None if p is None else self._least
        return Compared(first, second, change, harm, p, p_change, untested, least)

    @property
    def measure(self) -> Measure:
        return self.before.measure

    @property
    def sharing(self) -> Sharing:
        return self.before.sharing

    @cached_property
    def two_sided(self) -> bool:
        return not isinstance(self.measure.better, str)

    @cached_property
    def difference(self) -> float:
        return self.after.value - self.before.value

    @cached_property
    def total(self) -> float:
        """The sum of both, counted from the best value."""
        return self.after.value + self.before.value - 2 * float(self.measure.better)

    @cached_property
    def by_student(self) -> bool:
        """Whether the intervals and tests are Student's t with a variance of sums."""
        return self.measure.linear and not self.sharing.one_way

    @cached_property
    def answers(self) -> tuple[Mean, Mean] | None:
        """Of paired answers the changes (-1 to 1) and, counted from the middle, the sums."""
        measure, rows = self.measure, self.before.counted & self.after.counted
        same = np.allclose(self.before.parts[:, 1], self.after.parts[:, 1])
        if not (measure.linear and measure.answers and measure.scale and same and rows.any()):
            return None
        low, high = measure.scale
        first, second = ((side.values[rows] - low) / (high - low) for side in self._both)
        weights, sharing = self.before.parts[rows, 1], self.sharing.taken(rows)
        return Mean(second - first, weights, sharing), Mean(second + first - 1, weights, sharing)

    @property
    def _both(self) -> tuple[Side, Side]:
        return self.before, self.after

    def _change_and_harm(self) -> tuple[Estimate, Estimate]:
        measure = self.measure
        if measure.change == "ratio":
            return self._ratio()
        harm = float(measure.cost(np.array(self.after.value))) - float(
            measure.cost(np.array(self.before.value))
        )
        bounds = self._bounds(1)
        if self.two_sided:
            harms = bounds if self._nothing_changed else folded(bounds, self._bounds(-1))
        else:
            harms = scaled(bounds, -1.0 if measure.better == "higher" else 1.0)
        return estimated(self.difference, bounds), estimated(harm, harms)

    @property
    def _nothing_changed(self) -> bool:
        return self.answers is not None and not self.answers[0].values.any()

    def _bounds(self, sign: int) -> Bounds:
        """Of the change (1), or of the sum of both, counted from the best value (-1)."""
        value = self.difference if sign > 0 else self.total
        if self.answers is not None and self.measure.scale is not None:
            low, high = self.measure.scale
            return scaled(signed_bounds(self.answers[0 if sign > 0 else 1]), high - low)
        first, second = (sign * self.before.value, self.after.value)
        if self.by_student:
            return student_bounds(
                value, self.after.errors - sign * self.before.errors, self.sharing
            )
        drawn = self.after.drawn - sign * self.before.drawn
        return resampled_bounds(value, drawn + value - (second - first), self.sharing)

    def _ratio(self) -> tuple[Estimate, Estimate]:
        ratio = float(over(self.after.value, self.before.value))
        if not math.isfinite(ratio):
            none = Estimate(None, None, None, _UNDEFINED)
            return none, none
        drawn = over(self.after.drawn, self.before.drawn)
        sign = -1.0 if self.measure.better == "higher" else 1.0
        bounds = resampled_bounds(ratio, drawn, self.sharing)
        if ratio <= 0:
            return estimated(ratio, bounds), Estimate(None, None, None, _UNDEFINED)
        ends = bounds if isinstance(bounds, str) else _logs(bounds)
        return estimated(ratio, bounds), estimated(sign * math.log(ratio), scaled(ends, sign))

    def _tests(self) -> tuple[float | None, float | None, str | None]:
        if not self.measure.tested:
            return None, None, None
        count = self.sharing.clusters()
        needed = FEWEST_CLUSTERS if self.by_student else FEWEST
        if count < needed:
            return None, None, f"{count} clusters of items are too few: a test needs {needed}"
        if self.by_student:
            p = self._student(self.difference, 1)
            away = max(p, self._student(self.total, -1)) if self._other_side else p
        else:
            p, away = self._swapped()
        return away, p if self.two_sided else None, None

    @property
    def _least(self) -> float:
        if self.by_student:
            return 0.0
        return max(least_p(self.sharing.clusters()), 1 / (1 + SWAPS))

    @cached_property
    def _other_side(self) -> bool:
        """Whether the two figures lie on two sides of the best value."""
        if not self.two_sided:
            return False
        best = float(self.measure.better)
        return (self.before.value - best) * (self.after.value - best) < 0

    def _student(self, value: float, sign: int) -> float:
        errors = self.after.errors - sign * self.before.errors
        p = student_test(value, errors, self.sharing)
        if self.answers is None:
            return p
        signs = np.sign(self.answers[0 if sign > 0 else 1].values)
        return max(p, mcnemar_p(int((signs < 0).sum()), int((signs > 0).sum())))

    def _swapped(self) -> tuple[float, float]:
        """p of a change, and of one away from the best value or to it."""
        sums = swapped_sums(self.before.sums, self.after.sums, self.before.seed)
        first, second = (self.measure.value(each) for each in sums)
        if self.measure.change == "ratio":
            p = _reached(
                np.log(over(second, first)), math.log(self.after.value / self.before.value)
            )
            return p, p
        p = _reached(second - first, self.difference)
        if not self._other_side:
            return p, p
        if self.measure.linear:  # it is no further away if the sum is 0, whatever the change
            return p, max(p, self._student(self.total, -1))
        cost = self.measure.cost
        harm = float(cost(np.array(self.after.value)) - cost(np.array(self.before.value)))
        return p, max(p, _reached(cost(second) - cost(first), harm))


def _reached(drawn: Floats, observed: float) -> float:
    """How often chance alone reaches what was observed."""
    kept = drawn[np.isfinite(drawn)]
    extreme = np.count_nonzero(np.abs(kept) >= abs(observed) - 1e-12)
    return float((1 + extreme) / (1 + len(kept)))


def _logs(bounds: tuple[float, float]) -> Bounds:
    low, high = bounds
    return (math.log(low), math.log(high)) if low > 0 else "a resample gives no logarithm"
