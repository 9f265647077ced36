"""Exact intervals and tests of shares, against sums over the binomial distribution."""

from __future__ import annotations

from itertools import product
from math import comb, pi

import pytest

from optipfair import ArgumentError
from optipfair.certainty.proportions import (
    beta_share,
    clopper_pearson,
    least_p,
    mcnemar_p,
    paired_bounds,
    student_p,
    student_quantile,
    unseen,
)


def at_least(k: int, n: int, p: float) -> float:
    return sum(comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1))


@pytest.mark.parametrize(("k", "n"), [(0, 5), (1, 5), (3, 10), (19, 20), (50, 50), (130, 200)])
def test_the_exact_interval_leaves_a_fortieth_on_each_side(k: int, n: int) -> None:
    low, high = clopper_pearson(k, n)
    assert low == 0 if k == 0 else at_least(k, n, low) == pytest.approx(0.025, abs=1e-9)
    assert high == 1 if k == n else 1 - at_least(k + 1, n, high) == pytest.approx(0.025, abs=1e-9)


@pytest.mark.parametrize("count", [1, 5, 60, 1000])
def test_what_was_not_seen_would_be_so_in_a_twentieth(count: int) -> None:
    assert (1 - unseen(count)) ** count == pytest.approx(0.05)


@pytest.mark.parametrize(("n", "gain", "loss"), [*product((10, 40), (0.0, 0.05, 0.3), (0.0, 0.2))])
def test_paired_intervals_hold_the_change(n: int, gain: float, loss: float) -> None:
    """Over all outcomes, weighted by how likely they are."""
    held = 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            stayed = n - gained - lost
            ways = comb(n, gained) * comb(n - gained, lost)
            chance = ways * gain**gained * loss**lost * (1 - gain - loss) ** stayed
            if chance > 0:
                low, high = paired_bounds(gained, lost, n)
                assert low < high
                held += chance * (low - 1e-9 <= gain - loss <= high + 1e-9)
    assert held >= 0.92


def test_paired_intervals_mirror_and_reach_no_further_than_a_change_can() -> None:
    low, high = paired_bounds(9, 2, 20)
    assert paired_bounds(2, 9, 20) == pytest.approx((-high, -low))
    assert paired_bounds(20, 0, 20)[1] == 1.0


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (4, 2.7764), (9, 2.2622), (1e6, 1.96)]
)
def test_students_quantiles_are_those_of_the_tables(freedom: float, expected: float) -> None:
    assert student_quantile(freedom) == pytest.approx(expected, abs=1e-4)
    assert student_p(expected, freedom) == pytest.approx(0.05, abs=1e-4)


def test_the_beta_distribution_at_known_places() -> None:
    assert beta_share(0.5, 0.5, 0.5) == pytest.approx(0.5)
    assert beta_share(0.25, 0.5, 0.5) == pytest.approx(2 / pi * pi / 6)  # 2/pi * arcsin(1/2)
    assert beta_share(0.3, 1, 1) == pytest.approx(0.3)
    assert (beta_share(0, 2, 3), beta_share(1, 2, 3)) == (0.0, 1.0)


def test_fewer_than_six_signs_cannot_tell() -> None:
    assert [least_p(n) < 0.05 for n in range(4, 8)] == [False, False, True, True]
    assert mcnemar_p(0, 0) == mcnemar_p(3, 3) == 1.0
    assert mcnemar_p(600, 900) < 1e-13


@pytest.mark.parametrize("call", [lambda: clopper_pearson(6, 5), lambda: paired_bounds(4, 2, 5)])
def test_more_than_all_is_refused(call: object) -> None:
    with pytest.raises(ArgumentError):
        call()  # type: ignore[operator]
