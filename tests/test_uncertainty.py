"""Intervals, permutation tests and Holm's correction keep what they promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optipfair.errors import ArgumentError
from optipfair.uncertainty import (
    bootstrap_bounds,
    holm,
    permutation_p_values,
)

DATA_SETS = 2000


def binomial_bound(share: float, count: int = DATA_SETS) -> float:
    """Four standard errors above a share."""
    return share + 4 * (share * (1 - share) / count) ** 0.5


def p_values_of_null_data(pairs: int, controls: int, **options: object) -> np.ndarray:
    """Each key is a data set of its own; the pairs differ in location and spread."""
    rng = np.random.default_rng(pairs)
    scale = np.arange(1, pairs + 1)[:, None, None]
    values = scale * (1 + rng.exponential(size=(pairs, controls + 1, DATA_SETS)))
    return permutation_p_values(values[:, 0], list(values[:, 1:]), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
@pytest.mark.parametrize(("pairs", "controls"), [(7, 8), (4, 8), (3, 19), (30, 4)])
def test_the_permutation_test_holds_its_level(pairs: int, controls: int, alternative: str) -> None:
    p_values = p_values_of_null_data(pairs, controls, alternative=alternative)
    for level in (0.01, 0.05, 0.2):
        assert np.mean(p_values <= level) <= binomial_bound(level)
    assert np.mean(p_values <= 0.2) > 0.15  # and uses it


def test_the_bootstrap_of_seven_items_holds_the_mean_about_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    bounds = bootstrap_bounds(rng.normal(size=(7, DATA_SETS)))
    assert bounds is not None
    assert np.mean((bounds[0] <= 0) & (bounds[1] >= 0)) > 0.92


def test_a_real_shift_is_found() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(7, 9))
    shifted = values[:, 0] + 2
    assert permutation_p_values(shifted, list(values[:, 1:])) < 0.01
    assert permutation_p_values(-shifted, list(-values[:, 1:])) < 0.01
    assert permutation_p_values(-shifted, list(-values[:, 1:]), alternative="greater") > 0.9


def test_the_exact_p_value_is_the_share_of_all_choices() -> None:
    own, controls = [3.0, 1.0], [[0.0, 4.0], [0.5, 2.5, -1.0]]

    def statistic(first: int, second: int) -> float:
        rows = [[own[0], *controls[0]], [own[1], *controls[1]]]
        others = [rows[0][:first] + rows[0][first + 1 :], rows[1][:second] + rows[1][second + 1 :]]
        chosen = rows[0][first], rows[1][second]
        return float(np.mean(np.subtract(chosen, [np.mean(values) for values in others])))

    drawn = [statistic(i, j) for i, j in itertools.product(range(3), range(4))]
    expected = np.mean([abs(s) >= abs(drawn[0]) - 1e-12 for s in drawn])
    assert permutation_p_values(own, controls) == expected
    upper = np.mean([s >= drawn[0] - 1e-12 for s in drawn])
    assert permutation_p_values(own, controls, alternative="greater") == upper
    sampled = permutation_p_values(own, controls, resamples=11)
    assert 1 / 12 <= sampled <= 1 and round(sampled * 12, 9).is_integer()


def test_values_that_are_all_equal_are_no_find() -> None:
    assert permutation_p_values([0.1] * 9, [[0.1] * 8] * 9) == 1.0


def test_pairs_of_one_cluster_change_places_together() -> None:
    own, controls = [5.0, 6.0, 7.0], [[1.0, 2.0]] * 3
    assert permutation_p_values(own, controls, alternative="greater") == 1 / 27
    together = permutation_p_values(own, controls, alternative="greater", clusters=["a"] * 3)
    assert together == 1 / 3
    with pytest.raises(ArgumentError, match="different numbers of controls"):
        permutation_p_values(own, [[1.0], [1.0, 2.0], [1.0]], clusters=["a", "a", "b"])


def test_sentences_that_share_their_words_need_clusters() -> None:
    """Ten sentences repeat one word's chance effect: only with clusters is the level held."""
    rng = np.random.default_rng(2)
    words = rng.normal(size=(1, 20, DATA_SETS))
    values = words + 0.1 * rng.normal(size=(10, 20, DATA_SETS))

    def share(clusters: list[str] | None) -> float:
        p = permutation_p_values(
            values[:, 0], list(values[:, 1:]), clusters=clusters, resamples=999
        )
        return float(np.mean(p <= 0.05))

    assert share(None) > 0.3
    assert share(["one"] * 10) <= binomial_bound(0.05)


def test_many_keys_at_once_give_what_each_gives_alone() -> None:
    rng = np.random.default_rng(3)
    own, controls = rng.normal(size=(6, 5)), [rng.normal(size=(k, 5)) for k in (8, 8, 3, 8, 1, 8)]
    together = permutation_p_values(own, controls)
    alone = [permutation_p_values(own[:, m], [c[:, m] for c in controls]) for m in range(5)]
    assert together.tolist() == alone
    bounds = bootstrap_bounds(own)
    assert bounds is not None
    low, high = bounds
    assert [*zip(low, high, strict=True)] == [bootstrap_bounds(own[:, m]) for m in range(5)]


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
        (lambda: permutation_p_values([], []), "at least one"),
        (lambda: permutation_p_values([1.0], []), "controls for 0"),
        (lambda: permutation_p_values([1.0], [[]]), r"controls\[0\].*leave out"),
        (lambda: permutation_p_values([1.0], [[float("inf")]]), "not finite"),
        (lambda: permutation_p_values([1.0], [[1.0]], alternative="less"), "'less'"),  # type: ignore[arg-type]
        (lambda: holm([0.1, 1.5]), r"p_values\[1\]=1.5"),
    ],
)
def test_what_cannot_be_computed_is_refused(call: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()  # type: ignore[operator]
