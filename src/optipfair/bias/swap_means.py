"""Means over swaps of words that share words: how sure they are.

`white` against five other words is no five witnesses: an odd `white` shows in all five. Nor are two
swaps independent whose controls have neutral words in common. So a value is taken for a sum of
effects of the words that it holds, each effect a draw like the others, and the error of a mean
counts each word as often as it is held. It knows no prompts and no models.

Axes: `P` pairs, `G` distinct swaps, `W` words, `K` keys.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..uncertainty import LEVEL, Floats, student_p_values, student_quantile

FEWEST = 5  # independent swaps for an interval or a p-value
_NUMBERS = ("no", "one", "two", "three", "four")
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Swap:
    """The words that a pair exchanges.

    Args:
        label: the same for pairs that exchange the same words, in whatever sentence.
        loads: word → how much of its effect the pair's value holds: 1 for words of the pair, minus
            a share for the neutral words that are taken off.
    """

    label: Hashable
    loads: Mapping[Hashable, float]


@dataclass(frozen=True)
class SwapMean:
    """The mean of each key over pairs, and how sure it is.

    Attributes:
        mean: (K,).
        bounds: low and high ends of the 95 % intervals, (K,) each; None where `reason` says why.
        p_values: two-sided, of a mean of 0, (K,); None with the bounds.
        swaps: how many distinct ones.
    """

    mean: Floats
    bounds: tuple[Floats, Floats] | None
    p_values: Floats | None
    swaps: int
    reason: str | None = None

    def interval(self, key: int) -> list[float] | None:
        return None if self.bounds is None else [float(end[key]) for end in self.bounds]

    def p_value(self, key: int) -> float | None:
        return None if self.p_values is None else float(self.p_values[key])

    @property
    def undefined(self) -> dict[str, str] | None:
        """Why there is neither interval nor p-value."""
        return dict.fromkeys(("interval", "p_value"), self.reason) if self.reason else None


def mean_of_swaps(values: Floats, swaps: Sequence[Swap]) -> SwapMean:
    """Average values over pairs, with Student's intervals that count what swaps share.

    Pairs of one swap are averaged first, so that the same words in many sentences count once. Let
    `x` be the means of the swaps, `w` their shares of the pairs, `r = M x` what they depart from
    the mean by, and `O` the covariance of the swaps up to a factor: `Z Z'`, where `Z` (G, W) are
    the loads. The factor is estimated from `r'r`, whose expectation is that times `tr(M O M')`, and
    the variance of the mean is the factor times `w'O w`. Degrees of freedom are Satterthwaite's
    (1946), `tr(M O M')^2 / tr((M O M')^2)`, as Bell and McCaffrey (2002) use them for clusters.
    Where each swap has words of its own this is Student's interval. The same is worked out for
    swaps that share nothing, and the wider of both is taken, since noise is not shared.

    It rests on words of one kind: were `white` a far odder word than those it is held against, five
    swaps of it could not tell. `benchmarks/bias_errors.py` has how often it errs.

    Args:
        values: (P, K) finite numbers.
        swaps: (P,).
    """
    members = _by_label(swaps)
    average = np.zeros((len(members), len(swaps)))  # (G, P)
    for row, pairs in zip(average, members, strict=True):
        row[pairs] = 1 / len(pairs)
    shares = np.array([len(pairs) for pairs in members]) / len(swaps)
    means = average @ values  # (G, K)
    mean = shares @ means
    count = len(members)
    if count < FEWEST:
        return SwapMean(mean, None, None, count, too_few(count))
    centred = np.eye(count) - shares  # M
    loads = average @ _loads(swaps)
    _, independent = _shared(loads.clip(0), shares, centred)  # by the pairs' own words
    if independent < FEWEST - 1 - _ROUNDING:
        return SwapMean(mean, None, None, count, too_few(count, independent + 1))
    spread, freedom = _shared(loads, shares, centred)
    error = np.sqrt(spread * np.square(centred @ means).sum(axis=0))
    half = error * student_quantile((1 + LEVEL) / 2, freedom)
    far = np.abs(mean) > _ROUNDING  # equal values leave a mean of rounding, and no error
    ratios = np.divide(mean, error, out=np.where(far, np.inf, 0), where=far & (error > 0))
    return SwapMean(mean, (mean - half, mean + half), student_p_values(ratios, freedom), count)


def too_few(swaps: int, independent: float | None = None) -> str:
    """Why there is no interval."""
    if independent is None:
        which = "one distinct swap is" if swaps == 1 else f"{_NUMBERS[swaps]} distinct swaps are"
        return f"{which} too few for an interval; {FEWEST} are needed"
    return (
        f"{swaps} distinct swaps share so many words that they count as {independent:.1f}, too few "
        f"for an interval; {FEWEST} are needed"
    )


def _shared(loads: Floats, shares: Floats, centred: Floats) -> tuple[float, float]:
    """The variance of the mean over the sum of squared departures, and its degrees of freedom."""
    found = []
    for covariance in (loads @ loads.T, np.eye(len(shares))):
        seen = centred @ covariance @ centred.T
        trace = float(np.trace(seen))
        if trace > _ROUNDING:
            variance = float(shares @ covariance @ shares) / trace
            found.append((variance, trace**2 / float(np.square(seen).sum())))
    return max(spread for spread, _ in found), min(freedom for _, freedom in found)


def _by_label(swaps: Sequence[Swap]) -> list[list[int]]:
    """The pairs of each distinct swap, in the order in which swaps first appear."""
    members: dict[Hashable, list[int]] = {}
    for number, swap in enumerate(swaps):
        members.setdefault(swap.label, []).append(number)
    return list(members.values())


def _loads(swaps: Sequence[Swap]) -> Floats:
    """How much of each word's effect each pair holds, (P, W)."""
    places: dict[Hashable, int] = {}
    for swap in swaps:
        for word in swap.loads:
            places.setdefault(word, len(places))
    loads = np.zeros((len(swaps), len(places)))
    for row, swap in zip(loads, swaps, strict=True):
        for word, load in swap.loads.items():
            row[places[word]] = load
    return loads
