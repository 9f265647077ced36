"""How sure a number is: bootstrap intervals, Student's distribution, Holm's correction.

Pure and seeded; it knows arrays, not where they come from. `N` items, `C` clusters of them, `R`
draws, `K` keys measured on the same items, which share every draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ArgumentError
from .results import Result

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

LEVEL = 0.95  # of intervals
DRAWS = 2000  # of the bootstrap
SWAPS = 9999  # of permutation tests: no p-value is below 0.0001
_BLOCK = 2**22  # numbers held at once while resampling
_NODES = 96  # of the integral of Student's density
_WIDEST = 40  # standard deviations that it goes on for, beyond which there is nothing
_MOSTLY = 0.95  # share of draws that must give a figure, so that an interval is given


class Estimate(Result):
    """A figure with its 95 % interval, null where there is none, and then the reason."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None

    SCHEMA: ClassVar = {
        "if": {"properties": {"value": {"type": "null"}}},
        "then": {
            "properties": {
                "low": {"type": "null"},
                "high": {"type": "null"},
                "reason": {"type": "string", "minLength": 1},
            }
        },
    }


def bootstrap_bounds(
    values: ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    *,
    level: float = LEVEL,
    resamples: int = DRAWS,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> tuple[Floats, Floats] | None:
    """Bracket a statistic of the items by resampling them.

    The bounds are percentiles of the resampled statistic, widened for few items (Hesterberg 2015,
    "What Teachers Should Know About the Bootstrap", section 5.3): instead of the tail a/2 the tail
    Phi(-sqrt(n / (n - 1)) t), t being Student's quantile of a/2 with n - 1 degrees of freedom. It
    makes good that resampling n items understates their spread, which for seven items lets a plain
    95 % interval hold the mean in about 88 cases of 100.

    What it cannot do: see values that the items do not show. It never leaves the range of the
    items, so with few of them it is too short whatever its level. At 95 %, normal values were held
    in 94 of 100 cases with seven items, 92 with five, 75 with three and 50 with two; exponential
    ones in 89, 86, 71 and 47. And it speaks of items like these: a choice by hand is no sample.

    Args:
        values: (N, ...) finite numbers, items first; keys measured on the same items share draws.
        statistic: called as `statistic(array, axis=0)`, such as `np.mean` or `np.median`.
        clusters: (N,) labels; items of one label are drawn together, since they are not
            independent. The number of clusters then counts as the number of items.

    Returns:
        Low and high ends, (...) each, or None for fewer than two items (or clusters).

    Example:
        >>> low, high = bootstrap_bounds([[1.0, 0.0], [1.0, 4.0], [1.0, 8.0]])
        >>> low.tolist(), high.tolist()
        ([1.0, 0.0], [1.0, 8.0])
    """
    array = _finite("values", values)
    _check_numbers(level, resamples)
    members = _members(len(array), clusters)
    if len(members) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(members), size=(resamples, len(members)))
    drawn = (
        _statistics_of_items(array, statistic, draws)
        if clusters is None
        else np.stack(
            [statistic(array[np.concatenate([members[c] for c in row])], axis=0) for row in draws]
        )
    )
    return _ends(drawn, level, len(members))


def sums_by_cluster(parts: Floats, clusters: Sequence[Hashable]) -> Floats:
    """What the items of each cluster add up to: (N, K) -> (C, K)."""
    numbers = _numbers(clusters)
    sums = np.zeros((max(numbers, default=-1) + 1, parts.shape[1]))
    np.add.at(sums, numbers, parts)
    return sums


def cluster_draws(count: int, seed: int) -> Floats:
    """How often each cluster is drawn, (R, C); times the sums, these are the sums of each draw."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)


def swapped_sums(before: Floats, after: Floats, seed: int) -> tuple[Floats, Floats]:
    """Both sums, (R, K) each, where in each draw some clusters have changed places."""
    swap = np.random.default_rng(seed + 1).random((SWAPS, len(before))) < 0.5
    return swap @ after + ~swap @ before, swap @ before + ~swap @ after


def bracketed(value: Any, drawn: Floats, clusters: int, undefined: str) -> Estimate:
    """A figure with the ends of what it was for `drawn` samples, or why it has none."""
    if not np.isfinite(value):
        return Estimate(None, None, None, undefined)
    kept = drawn[np.isfinite(drawn)]
    if clusters < 2:
        return Estimate(float(value), None, None, "an interval needs two clusters of items")
    if len(kept) < _MOSTLY * len(drawn):
        return Estimate(float(value), None, None, "most resamples give no figure")
    low, high = _ends(kept, LEVEL, clusters)
    return Estimate(float(value), float(low), float(high))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for their number, so that the chance of any false find is kept.

    Step-down (Holm 1979): the i-th smallest of m (from 0) becomes p * (m - i), at most 1, and never
    less than a smaller one's. No assumption on how the tests depend on each other. None (no test
    was made) stays None and is not counted.

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]
    """
    tested = [(p, index) for index, p in enumerate(p_values) if p is not None]
    for p, index in tested:
        if not 0 <= p <= 1:
            raise ArgumentError(f"p_values[{index}]={p} is outside [0, 1].")
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(sorted(tested)):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[index] = largest
    return adjusted


def student_quantile(probability: float, freedom: float) -> float:
    """Student's quantile, to about 0.1 % from 3 degrees of freedom (Abramowitz & Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(sum(term / freedom**power for power, term in enumerate(terms)))


def student_p_values(ratios: ArrayLike, freedom: float) -> Floats:
    """Two-sided p-values of Student's t: how often a draw is at least as far from 0.

    With t = sqrt(n) tan(a), the density of the angle a is proportional to cos(a)^(n - 1), which is
    integrated by Gauss and Legendre's rule; n may be a fraction.

    Args:
        ratios: (...) estimates over their standard errors; inf where the error is 0.
        freedom: n, degrees of freedom, at least 1.

    Example:
        >>> student_p_values([0.0, 2.776445], 4).round(6).tolist()
        [1.0, 0.05]
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    start = np.arctan(np.abs(np.asarray(ratios, dtype=np.float64)) / math.sqrt(freedom))
    half = np.minimum(math.pi / 2 - start, _WIDEST / math.sqrt(freedom)) / 2
    angles = start[..., None] + half[..., None] * (nodes + 1)
    beyond = half * (np.cos(angles).clip(0) ** (freedom - 1) @ weights)
    whole = math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)
    return np.minimum(beyond * 2 / (math.sqrt(math.pi) * math.exp(whole)), 1.0)


def _statistics_of_items(array: Floats, statistic: Callable[..., Any], draws: Indices) -> Floats:
    rows = max(1, _BLOCK // max(1, array.size))
    blocks = [draws[start : start + rows].T for start in range(0, len(draws), rows)]  # (N, rows)
    return np.concatenate([statistic(array[block], axis=0) for block in blocks])


def _ends(drawn: Floats, level: float, count: int) -> tuple[Any, Any]:
    """The percentiles of what was drawn, (R, ...), widened for few items."""
    quantile = student_quantile(1 - (1 - level) / 2, count - 1)
    tail = NormalDist().cdf(-math.sqrt(count / (count - 1)) * quantile)
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return low, high


def _members(count: int, clusters: Sequence[Hashable] | None) -> list[Indices]:
    """The items of each cluster, clusters in the order in which they first appear."""
    if clusters is None:
        return [np.array([index]) for index in range(count)]
    if len(clusters) != count:
        raise ArgumentError(f"clusters has {len(clusters)} labels for {count} items.")
    numbers = np.array(_numbers(clusters), dtype=np.intp)
    return [np.flatnonzero(numbers == number) for number in range(numbers.max(initial=-1) + 1)]


def _numbers(labels: Iterable[Hashable]) -> list[int]:
    """The number of each item's cluster."""
    known: dict[Hashable, int] = {}
    return [known.setdefault(label, len(known)) for label in labels]


def _finite(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not array.ndim or not np.isfinite(array).all():
        raise ArgumentError(
            f"{name} holds a single number, or one that is not finite. Give an array of finite "
            "numbers; leave out items without a value."
        )
    return array


def _check_numbers(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise ArgumentError(f"level={level} is outside (0, 1). Give a share, for example 0.95.")
    if resamples < 1:
        raise ArgumentError(f"resamples={resamples} is less than 1. Give the number of draws.")
