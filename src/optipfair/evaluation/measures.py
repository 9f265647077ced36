"""Figures over many items, each with an interval; of two models the paired change. No torch.

A measure is a function of sums: each item contributes a few numbers, they are added over the items,
and the figure is computed from the sums. So it is resampled by adding again, without a look at the
items, and a bootstrap of thousands of draws is one product of matrices.

It also knows how far distributions are apart. Axes: `N` items, `C` clusters, `K` parts of a
measure, `R` draws, `V` outcomes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ArgumentError
from ..report.comparison import Better, Change
from ..uncertainty import Estimate, bracketed, cluster_draws, sums_by_cluster, swapped_sums

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]
Clusters = Sequence[Hashable]  # items of one label are not independent
Part = Callable[[Columns], Any]  # (N,) what each item contributes

SHARE, SIGNED = (0.0, 1.0), (-1.0, 1.0)  # scales
_LARGEST = 700.0  # exp of more is not a float


@dataclass(frozen=True)
class Measure:
    """One figure over items."""

    name: str  # as in tables and thresholds, such as `acc`
    help: str  # what it is, in one line, with its range
    parts: Callable[[Columns], Floats]  # columns -> (N, K), what is added over items
    value: Callable[[Floats], Floats]  # sums (..., K) -> (...), NaN where it is not defined
    better: Better  # a number is the value that is best (0.5: neither side is preferred)
    change: Change = "difference"  # how two models are compared: after - before, or after / before
    by: str | None = None  # a column of text; the measure is also given for each of its values
    headline: bool = True  # whether it decides a verdict; others are shown
    tested: bool = True  # whether a test of "no change" makes sense
    scale: tuple[float, float] | None = None  # the least and the most; None: no ends, as of nats
    undefined: str = "no item counts towards it"  # why there is no figure where there is none
    chance: float | None = None  # what guessing gives, where that is known

    def cost(self, values: Floats) -> Floats:
        """The same figures turned so that lower is better."""
        if self.better == "higher":
            return -values
        return values if self.better == "lower" else np.abs(values - float(self.better))


@dataclass(frozen=True)
class Compared:
    """A figure of two models on the same items."""

    original: Estimate
    pruned: Estimate
    change: Estimate  # pruned - original, or pruned / original where the measure says so
    # How much worse the pruned model is, in the measure's unit (negative: better); for ratios the
    # logarithm of the ratio.
    harm: Estimate
    p: float | None  # two-sided permutation p-value of "both are exchangeable"; None: not tested


def estimate(measure: Measure, columns: Columns, clusters: Clusters, *, seed: int = 0) -> Estimate:
    """A measure with its interval, clusters drawn with replacement."""
    sums = sums_by_cluster(measure.parts(columns), clusters)
    drawn = measure.value(cluster_draws(len(sums), seed) @ sums)
    return bracketed(measure.value(sums.sum(axis=0)), drawn, len(sums), measure.undefined)


def compare(
    measure: Measure, original: Columns, pruned: Columns, clusters: Clusters, *, seed: int = 0
) -> Compared:
    """A measure of two models on the same items, in the same order, each draw shared by both.

    The interval is a percentile bootstrap over clusters, widened for few of them. The p-value lets
    the two models change places in each cluster (a paired permutation test, Fisher 1935), and
    counts how often the harm is then at least as large: p = (1 + b) / (1 + swaps).
    """
    before, after = (sums_by_cluster(measure.parts(each), clusters) for each in (original, pruned))
    count = len(before)
    draws = cluster_draws(count, seed)
    whole = [measure.value(sums.sum(axis=0)) for sums in (before, after)]
    drawn = [measure.value(draws @ sums) for sums in (before, after)]
    undefined = "one of the figures is not defined"
    harm = _harm(measure, *whole)
    return Compared(
        original=bracketed(whole[0], drawn[0], count, measure.undefined),
        pruned=bracketed(whole[1], drawn[1], count, measure.undefined),
        change=bracketed(_change(measure, *whole), _change(measure, *drawn), count, undefined),
        harm=bracketed(harm, _harm(measure, *drawn), count, undefined),
        p=_p_value(measure, before, after, float(harm), seed) if measure.tested else None,
    )


def groups(measure: Measure, columns: Columns) -> dict[str | None, NDArray[np.bool_]]:
    """The rows of all items (None), and of each group the measure is given for."""
    everything = np.ones(len(next(iter(columns.values()))), dtype=bool)
    rows: dict[str | None, NDArray[np.bool_]] = {None: everything}
    if measure.by is not None:
        labels = columns[measure.by]
        found = sorted(set(labels.tolist()), key=_counted)
        rows |= {str(label): labels == label for label in found}
    return rows


def _counted(label: str) -> str:
    """A key that sorts numbers in labels as numbers: `64-255` before `256-`."""
    return re.sub("[0-9]+", lambda found: found[0].zfill(12), label)


def taken(columns: Columns, rows: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """The columns of some items."""
    return {name: column[rows] for name, column in columns.items()}


def mean_of(column: str) -> dict[str, Any]:
    """`parts` and `value` of a mean; items whose value is NaN do not count."""
    return ratio_of(lambda c: np.nan_to_num(c[column]), lambda c: ~np.isnan(c[column]))


def ratio_of(above: Part, below: Part) -> dict[str, Any]:
    """`parts` and `value` of a sum over a sum."""

    def parts(columns: Columns) -> Floats:
        return np.stack([above(columns), below(columns)], axis=1).astype(np.float64)

    return {"parts": parts, "value": lambda sums: over(sums[..., 0], sums[..., 1])}


def exponential_of(above: Part, below: Part) -> dict[str, Any]:
    """`parts` and `value` of exp of a sum over a sum, as perplexities are."""

    def value(sums: Floats) -> Floats:
        return np.asarray(np.exp(np.minimum(over(sums[..., 0], sums[..., 1]), _LARGEST)))

    return ratio_of(above, below) | {"value": value}


def over(above: Any, below: Any) -> Floats:
    """above / below, NaN where below is 0."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    shape = np.broadcast_shapes(above.shape, below.shape)
    return np.asarray(np.divide(above, below, out=np.full(shape, np.nan), where=below != 0))


def preferred(first: ArrayLike, second: ArrayLike) -> Floats:
    """1 where the first is larger, 0 where the second is, a half for ties, NaN where one is NaN."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    # Not the sign of the difference: two scores of -infinity are equal, their difference is NaN.
    result = np.where(first > second, 1.0, np.where(first == second, 0.5, 0.0))
    result[np.isnan(first) | np.isnan(second)] = np.nan
    return result


def settled(preference: Floats) -> Floats:
    """A preference as an answer of 1 or 0: ties are none (NaN)."""
    return np.where(preference == 0.5, np.nan, preference)


def share_preferred(name: str, told: str, column: str, **more: Any) -> Measure:
    """How often one side of a pair is preferred, of which half is neutral and a coin's."""
    return Measure(name, told, **mean_of(column), better=0.5, scale=SHARE, chance=0.5, **more)


def mcnemar(original: Columns, pruned: Columns, column: str) -> dict[str, Any]:
    """Exact McNemar test of a yes-or-no answer: how many changed in each direction.

    Of `lost` (1 became 0) and `gained` (0 became 1), p is the two-sided binomial tail with one half
    (McNemar 1947, in the exact form). Items of one cluster are counted as independent.
    """
    before, after = original[column], pruned[column]
    lost = int(np.sum((before == 1) & (after == 0)))
    gained = int(np.sum((before == 0) & (after == 1)))
    total = lost + gained
    tail = sum(math.comb(total, k) for k in range(min(lost, gained) + 1)) / 2**total
    return {"lost": lost, "gained": gained, "p": min(1.0, 2 * tail)}


def _change(measure: Measure, before: Floats, after: Floats) -> Floats:
    return over(after, before) if measure.change == "ratio" else after - before


def _harm(measure: Measure, before: Floats, after: Floats) -> Floats:
    if measure.change == "ratio":
        ratio = over(after, before)
        logs = np.asarray(np.log(ratio, out=np.full(ratio.shape, np.nan), where=ratio > 0))
        return -logs if measure.better == "higher" else logs
    return measure.cost(after) - measure.cost(before)


def _p_value(
    measure: Measure, before: Floats, after: Floats, observed: float, seed: int
) -> float | None:
    if not math.isfinite(observed):
        return None
    harms = _harm(measure, *(measure.value(sums) for sums in swapped_sums(before, after, seed)))
    harms = harms[np.isfinite(harms)]
    extreme = np.count_nonzero(np.abs(harms) >= abs(observed) - 1e-12)
    return float((1 + extreme) / (1 + len(harms)))


def jensen_shannon(p: ArrayLike, q: ArrayLike) -> Floats:
    """Measure the Jensen-Shannon divergence of two distributions, in bits.

    JS(p, q) = KL(p, m) / 2 + KL(q, m) / 2 with m = (p + q) / 2 and logarithms to base 2 (Lin 1991,
    "Divergence measures based on the Shannon entropy"). It is symmetric, 0 where p = q and 1 where
    nothing has a probability in both.

    Args:
        p, q: (..., V) weights of 0 or more; each row is divided by its sum.

    Returns:
        (...), 0 to 1; NaN where a weight is NaN.

    Raises:
        ArgumentError: the shapes differ, a weight is negative or infinite, or a row sums to 0.

    Example:
        >>> float(jensen_shannon([1, 0], [0, 1]))
        1.0
        >>> round(float(jensen_shannon([0.5, 0.5], [1, 0])), 4)
        0.3113
    """
    p, q = _distributions(p, q)
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return np.asarray(np.clip(divergence, 0.0, 1.0))


def total_variation(p: ArrayLike, q: ArrayLike) -> Floats:
    """Measure how much probability must move to turn one distribution into the other.

    TV(p, q) = sum |p - q| / 2: the largest difference in the probability of any set.

    Args:
        p, q: as of `jensen_shannon`.

    Returns:
        (...), 0 to 1.

    Raises:
        ArgumentError: as of `jensen_shannon`.

    Example:
        >>> float(total_variation([0.5, 0.5], [1, 0]))
        0.5
    """
    p, q = _distributions(p, q)
    return np.asarray(np.abs(p - q).sum(axis=-1) / 2)


def softmax(logs: ArrayLike) -> Floats:
    """Logarithms of weights (..., V) as a distribution; NaN where all of a row are -infinity."""
    logs = np.asarray(logs, dtype=np.float64)
    top = logs.max(axis=-1, keepdims=True)
    weights = np.exp(logs - np.where(np.isneginf(top), np.nan, top))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _distributions(p: Any, q: Any) -> tuple[Floats, Floats]:
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if p.shape != q.shape or p.ndim == 0 or p.shape[-1] == 0:
        raise ArgumentError(
            f"The distributions have the shapes {p.shape} and {q.shape}. Give two of the same "
            "shape (..., V), with a weight for each of V outcomes."
        )
    if np.isinf([p, q]).any() or np.any(p < 0) or np.any(q < 0):
        raise ArgumentError("A weight is negative or infinite. Give finite weights of 0 or more.")
    of_p, of_q = p.sum(axis=-1, keepdims=True), q.sum(axis=-1, keepdims=True)
    if np.any(of_p == 0) or np.any(of_q == 0):
        raise ArgumentError("All weights of a distribution are 0. Give at least one above 0.")
    return p / of_p, q / of_q


def _relative_entropy(p: Floats, middle: Floats) -> Floats:
    """KL(p, middle) in bits; outcomes without weight add nothing, NaN stays NaN."""
    ratio = np.divide(p, middle, out=np.ones_like(p), where=middle != 0)
    logs = np.log2(ratio, out=np.zeros_like(p), where=ratio != 0)
    return np.asarray((p * logs).sum(axis=-1))
