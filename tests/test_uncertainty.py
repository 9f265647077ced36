"""Intervals, Student's p-values and Holm's correction keep what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optipfair.errors import ArgumentError
from optipfair.uncertainty import (
    bootstrap_bounds,
    holm,
    student_p_values,
    student_quantile,
)

DATA_SETS = 2000


def test_the_bootstrap_of_seven_items_holds_the_mean_about_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    bounds = bootstrap_bounds(rng.normal(size=(7, DATA_SETS)))
    assert bounds is not None
    assert np.mean((bounds[0] <= 0) & (bounds[1] >= 0)) > 0.92


def test_many_keys_at_once_give_what_each_gives_alone() -> None:
    rng = np.random.default_rng(3)
    own = rng.normal(size=(6, 5))
    bounds = bootstrap_bounds(own)
    assert bounds is not None
    low, high = bounds
    assert [*zip(low, high, strict=True)] == [bootstrap_bounds(own[:, m]) for m in range(5)]


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0, 2.5, 10.0])
def test_students_p_values_are_those_of_closed_forms(ratio: float) -> None:
    """Of one degree of freedom Cauchy's, of two and four by integration, of many the normal one."""
    two, four = ratio / math.sqrt(2 + ratio**2), ratio / math.sqrt(4 + ratio**2)
    expected = {
        1: 1 - 2 / math.pi * math.atan(ratio),
        2: 1 - two,
        4: 1 - four * (1 + (1 - four**2) / 2),
        10**6: math.erfc(ratio / math.sqrt(2)),
    }
    for freedom, p_value in expected.items():
        found = float(student_p_values(ratio, freedom))
        assert found == pytest.approx(p_value, rel=1e-3, abs=1e-9)


@given(st.floats(4, 2000))
def test_p_value_and_quantile_agree(freedom: float) -> None:
    assert float(student_p_values(student_quantile(0.975, freedom), freedom)) == (
        pytest.approx(0.05, rel=2e-3)
    )
    assert student_p_values([0.0, math.inf], freedom) == pytest.approx([1.0, 0.0], abs=1e-9)


def test_the_bootstrap_draws_clusters_as_wholes() -> None:
    values = [0.0, 0.0, 0.0, 1.0]
    clusters = ["a", "a", "a", "b"]
    drawn = bootstrap_bounds(values, clusters=clusters)
    assert drawn == (0.0, 1.0)  # two clusters: all of one, or all of the other
    assert bootstrap_bounds(values, clusters=["a"] * 4) is None
    assert bootstrap_bounds([], clusters=[]) is None
    assert bootstrap_bounds(values, np.median, clusters=[1, 2, 3, 4]) == bootstrap_bounds(
        values, np.median
    )


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12), st.integers(0, 5))
def test_an_interval_lies_within_the_items_and_repeats(values: list[float], seed: int) -> None:
    found = bootstrap_bounds(values, resamples=50, seed=seed)
    assert found is not None
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= found[0] <= found[1] <= max(values) + slack
    assert found == bootstrap_bounds(values, resamples=50, seed=seed)


def test_a_lower_level_gives_a_narrower_interval() -> None:
    values = np.arange(20.0)
    wide, narrow = bootstrap_bounds(values), bootstrap_bounds(values, level=0.5)
    assert wide is not None and narrow is not None
    assert wide[0] < narrow[0] < 9.5 < narrow[1] < wide[1]


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8))
def test_holm_rejects_what_the_step_down_rule_rejects(p_values: list[float | None]) -> None:
    adjusted = holm(p_values)
    assert [a is None for a in adjusted] == [p is None for p in p_values]
    given_p = sorted(p for p in p_values if p is not None)
    found = sorted(a for a in adjusted if a is not None)
    assert all(p <= a <= 1 for p, a in zip(given_p, found, strict=True))
    for level in (0.01, 0.05, 0.3):
        passed = [p * (len(given_p) - rank) <= level for rank, p in enumerate(given_p)]
        rejected = [*passed, False].index(False)
        assert sum(a <= level for a in found) == rejected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_bounds(1.0), "single number"),
        (lambda: bootstrap_bounds([1.0, float("nan")]), "not finite"),
        (lambda: bootstrap_bounds([1.0, 2.0], level=95), "level=95"),
        (lambda: bootstrap_bounds([1.0, 2.0], resamples=0), "resamples=0"),
        (lambda: bootstrap_bounds([1.0, 2.0], clusters=["a"]), "1 labels for 2 items"),
        (lambda: holm([0.1, 1.5]), r"p_values\[1\]=1.5"),
    ],
)
def test_what_cannot_be_computed_is_refused(call: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()  # type: ignore[operator]
