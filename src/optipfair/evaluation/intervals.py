"""Intervals of figures over items: which kind suits a measure, and why there is none. No torch.

Means of yes-or-no answers have exact or score intervals, since the bootstrap of a share near 0 or 1
is far too short; means of items that share something in several ways have Student's t with a
variance that allows for it; everything else is resampled by clusters. Axes: `N` items, `R` draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..certainty.proportions import (
    clopper_pearson,
    paired_bounds,
    student_p,
    student_quantile,
    unseen,
)
from ..certainty.sharing import Sharing
from ..uncertainty import Estimate, Floats, bracketed

FEWEST_CLUSTERS = 5  # for an interval
Bounds = tuple[float, float] | str  # low and high, or why there are none


@dataclass(frozen=True)
class Mean:
    """A weighted mean of items, each of which counts."""

    values: Floats  # (N,)
    weights: Floats  # (N,), above 0
    sharing: Sharing

    @property
    def value(self) -> float:
        return float(self.values @ self.weights / self.weights.sum())

    @property
    def errors(self) -> Floats:
        """(N,) what each item adds to the error of the mean."""
        return np.asarray(self.weights * (self.values - self.value) / self.weights.sum())


def estimated(value: float, bounds: Bounds) -> Estimate:
    """A figure with its interval, or with the reason why it has none."""
    if isinstance(bounds, str):
        return Estimate(value, None, None, bounds)
    return Estimate(value, *bounds)


def share_bounds(mean: Mean) -> Bounds:
    """Of a mean of answers, 0 or 1 (halves are ties): Clopper-Pearson with an effective count.

    Korn & Graubard 1998, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data".
    """
    if (few := too_few(mean.sharing)) is not None:
        return few
    share = min(1.0, max(0.0, mean.value))
    spread = share * (1 - share)
    count = mean.sharing.effective_count(mean.values, mean.weights, spread)
    return clopper_pearson(share * count, count)


def signed_bounds(mean: Mean) -> Bounds:
    """Of a mean of signs, -1, 0 or 1 (halves are ties): Tango's with an effective count.

    Such are the changes of paired answers.
    """
    if (few := too_few(mean.sharing)) is not None:
        return few
    up, down = (
        float(np.maximum(sign * mean.values, 0) @ mean.weights / mean.weights.sum())
        for sign in (1, -1)
    )
    spread = up + down - (up - down) ** 2
    count = mean.sharing.effective_count(mean.values, mean.weights, spread)
    return paired_bounds(up * count, down * count, count)


def student_bounds(value: float, errors: Floats, sharing: Sharing) -> Bounds:
    """Of a sum of errors, by its variance with those of sharing items together."""
    if (few := too_few(sharing)) is not None:
        return few
    half = student_quantile(sharing.freedom(np.ones(len(errors)))) * math.sqrt(
        sharing.variance(errors)
    )
    return (value - half, value + half) if half > 0 else alike(sharing)


def student_test(value: float, errors: Floats, sharing: Sharing) -> float:
    """The p-value of "the sum is 0" that belongs to `student_bounds`."""
    if value == 0:
        return 1.0
    error = math.sqrt(sharing.variance(errors))
    freedom = sharing.freedom(np.ones(len(errors)))
    return student_p(value / error, freedom) if error > 0 else 0.0


def resampled_bounds(value: float, drawn: Floats, sharing: Sharing) -> Bounds:
    """Of a figure that was computed again for each draw of clusters, (R,)."""
    if (few := too_few(sharing)) is not None:
        return few
    found = bracketed(value, drawn, len(set(sharing.components.tolist())), "")
    if found.low is None or found.high is None:
        return found.reason or ""
    return (found.low, found.high) if found.low < found.high else alike(sharing)


def too_few(sharing: Sharing) -> str | None:
    """Why there are too few clusters for an interval, None where there are enough."""
    count = sharing.clusters()
    if count >= FEWEST_CLUSTERS:
        return None
    there = f"there {'is' if count == 1 else 'are'} {count}"
    return f"an interval needs {FEWEST_CLUSTERS} clusters of items, and {there}"


def alike(sharing: Sharing) -> str:
    """Why resamples of clusters that are all alike give no interval, with an exact 95 % bound."""
    most = unseen(sharing.clusters())
    return f"all clusters of items are alike; up to {100 * most:.2g} % of such may not be"


def folded(change: Bounds, total: Bounds) -> Bounds:
    """How far a figure moved away from its best value, from its change and its position.

    With both figures counted from the best value, the distance grows by |b| - |a|. Of the change
    D = b - a and the sum S = b + a it is the smaller in size, with the sign of their product, since
    b**2 - a**2 = D * S. That rises or falls with each of the two alone, so that its least and most
    within two intervals lie at their ends.
    """
    if isinstance(change, str):
        return change
    if isinstance(total, str):
        return total
    corners = [_moved(d, s) for d in change for s in total]
    return min(corners), max(corners)


def _moved(change: float, total: float) -> float:
    smaller = min(abs(change), abs(total))
    return math.copysign(smaller, change) * math.copysign(1.0, total)


def scaled(bounds: Bounds, times: float, plus: float = 0.0) -> Bounds:
    """The same on another scale."""
    if isinstance(bounds, str):
        return bounds
    low, high = sorted(times * end + plus for end in bounds)
    return low, high


def within(bounds: Bounds, ends: Sequence[float] | None) -> Bounds:
    """The same, no further than a scale reaches."""
    if isinstance(bounds, str) or ends is None:
        return bounds
    return max(bounds[0], ends[0]), min(bounds[1], ends[1])
