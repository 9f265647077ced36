"""Shares of yes-or-no answers: exact intervals, exact tests, and how few answers can tell nothing.

Pure; it knows numbers, not where they come from. Counts may be fractions, since answers that are
not independent count as fewer (`sharing.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

from ..errors import ArgumentError

LEVEL = 0.95  # of intervals
ALPHA = 0.05  # of tests
_STEPS = 60  # of a bisection of an interval no longer than 2
_TINY = 1e-300


@lru_cache(maxsize=4096)
def clopper_pearson(successes: float, count: float, level: float = LEVEL) -> tuple[float, float]:
    """Bracket a share by the exact interval, which is never too short (Clopper & Pearson 1934).

    Args:
        successes: 0 to `count`; fractions are allowed, as of an effective size of a sample (Korn &
            Graubard 1998).
        count: of independent answers, more than 0.

    Returns:
        Low and high, 0 to 1; never the same.

    Example:
        >>> low, high = clopper_pearson(0, 5)
        >>> low, round(high, 3)
        (0.0, 0.522)
    """
    if not 0 <= successes <= count or count <= 0:
        raise ArgumentError(f"{successes} of {count} is no share. Give 0 to the count.")
    tail = (1 - level) / 2
    low, high = 0.0, 1.0
    if successes > 0:
        low = _root(lambda x: beta_share(x, successes, count - successes + 1) - tail, 0, 1)
    if successes < count:
        high = _root(lambda x: beta_share(x, successes + 1, count - successes) - 1 + tail, 0, 1)
    return low, high


@lru_cache(maxsize=4096)
def paired_bounds(
    gained: float, lost: float, count: float, level: float = LEVEL
) -> tuple[float, float]:
    """Bracket gained / count - lost / count, the change of a share whose answers are paired.

    The score interval of Tango 1998 ("Equivalence test and confidence interval for the difference
    in proportions for the paired-sample design"), which is never of width 0. Where no answer
    changed it is the exact bound of `unseen` on both sides.

    Args:
        gained, lost: answers that changed in either direction; together `count` at most.
        count: of independent answers, more than 0; all may be fractions.

    Example:
        >>> [round(end, 3) for end in paired_bounds(0, 0, 5)]
        [-0.451, 0.451]
    """
    if min(gained, lost) < 0 or gained + lost > count * (1 + 1e-9) or count <= 0:
        raise ArgumentError(f"{gained} and {lost} of {count} are no changes. Give parts of it.")
    if gained + lost == 0:
        return -unseen(count, level), unseen(count, level)
    square = NormalDist().inv_cdf((1 + level) / 2) ** 2
    change = (gained - lost) / count

    def outside(at: float) -> float:
        # The answers lost, by maximum likelihood where the change is `at`: a root of a quadratic.
        b = (2 * count - gained + lost) * at - gained - lost
        root = math.sqrt(max(0.0, b * b + 8 * count * lost * at * (1 - at)))
        variance = 2 * (root - b) / (4 * count) + at * (1 - at)
        return count * (change - at) ** 2 - square * variance

    low = _root(lambda x: -outside(x), -1.0, change) if change > -1 else -1.0
    high = _root(outside, change, 1.0) if change < 1 else 1.0
    return low, high


def unseen(count: float, level: float = LEVEL) -> float:
    """How large a share may be of which none of `count` answers was: 1 - (1 - level)**(1 / count).

    The exact form of the "rule of three", 3 / count (Hanley & Lippman-Hand 1983).

    Example:
        >>> round(unseen(5), 3)
        0.451
    """
    return float(-math.expm1(math.log(1 - level) / count))


def mcnemar_p(lost: int, gained: int) -> float:
    """Test whether answers change more often in one direction than in the other.

    The exact form of McNemar 1947: twice the tail of the binomial distribution with one half.

    Example:
        >>> mcnemar_p(6, 0)
        0.03125
    """
    total = lost + gained
    tail = sum(math.comb(total, k) for k in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail / (1 << total))


def least_p(count: int) -> float:
    """The smallest p that a two-sided test by `count` signs can give, whatever they are.

    Example:
        >>> least_p(5), least_p(6)
        (0.0625, 0.03125)
    """
    return min(1.0, math.ldexp(1.0, 1 - count))


FEWEST = next(count for count in range(1, 20) if least_p(count) < ALPHA)  # signs for a test: 6


def student_p(t: float, freedom: float) -> float:
    """The two-sided p-value of Student's t.

    Example:
        >>> round(student_p(2.776, 4), 3)
        0.05
    """
    return beta_share(freedom / (freedom + t * t), freedom / 2, 0.5)


@lru_cache(maxsize=1024)
def student_quantile(freedom: float, level: float = LEVEL) -> float:
    """How many standard errors an interval reaches to either side.

    Example:
        >>> round(student_quantile(4), 3)
        2.776
    """
    share = _root(lambda x: beta_share(x, freedom / 2, 0.5) - (1 - level), 0.0, 1.0)
    return math.sqrt(freedom * (1 / max(share, _TINY) - 1))


def beta_share(x: float, a: float, b: float) -> float:
    """The distribution function of the beta distribution: its share below x.

    By the continued fraction of Abramowitz & Stegun 26.5.8, on the side where it converges fast.

    Example:
        >>> round(beta_share(0.5, 2, 3), 6)
        0.6875
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_share(1 - x, b, a)
    front = a * math.log(x) + b * math.log1p(-x)
    front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(front) / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d1 / (1 + d2 / (1 + ...)), from the front (the algorithm of Lentz 1976)."""
    above = value = 1.0
    below = 0.0
    for step in range(1, 2000):
        m = step // 2
        top = m * (b - m) if step % 2 == 0 else -(a + m) * (a + b + m)
        term = top * x / ((a + step - 1) * (a + step))
        below = 1 / (1 + term * below or _TINY)
        above = 1 + term / above or _TINY
        value *= above * below
        if abs(above * below - 1) < 1e-14:
            break
    return value


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that rises from below 0 crosses it."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
