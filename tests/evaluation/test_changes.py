"""Changes of answers: what is tested in which direction, and intervals that are never too short."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optipfair.evaluation.changes import Compared, compare
from optipfair.evaluation.measures import SIGNED, Measure, mean_of, share_preferred
from optipfair.evaluation.one_figure import estimate

SHARE = share_preferred("stereotyped", "", "x")
ABILITY = Measure("acc", "", **mean_of("x"), better="higher", scale=(0, 1), answers="two")
SIGNS = Measure("bias", "", **mean_of("x"), better=0.0, scale=SIGNED, answers="three")
GAP = Measure("gap", "", **mean_of("x"), better=0.0)


def changed(measure: Measure, before: Any, after: Any, labels: Any = None) -> Compared:
    first, second = ({"x": np.asarray(values, dtype=float)} for values in (before, after))
    return compare(measure, first, second, range(len(first["x"])) if labels is None else labels)


def test_a_preference_that_turned_round_has_changed_though_it_is_as_far_from_neutral() -> None:
    before = np.repeat([1.0, 0.0], [130, 70])
    found = changed(SHARE, before, 1 - before)
    assert found.change.value == pytest.approx(-0.3)
    assert found.change.high is not None and found.change.high < -0.15
    assert found.p_change is not None and found.p_change < 0.001
    assert (found.harm.value, found.p) == (0.0, 1.0)
    assert found.harm.high is not None and found.harm.high > 0.01


def test_harm_is_judged_by_where_both_figures_lie() -> None:
    """.35 → .15: 40 of 200 turned, all away from a half; .65 → .55 comes nearer."""
    away = changed(SHARE, np.repeat([1, 0], [70, 130]), np.repeat([1, 0], [30, 170]))
    assert away.harm.value == pytest.approx(0.2)
    assert away.harm.low is not None and away.harm.low > 0.1
    assert away.p == away.p_change and (away.p or 1) < 0.001
    nearer = changed(SHARE, np.repeat([1, 0], [130, 70]), np.repeat([1, 0], [110, 90]))
    assert nearer.harm.value == pytest.approx(-0.1)
    assert nearer.harm.high is not None and nearer.harm.high < 0


def test_a_reversal_of_few_answers_is_not_taken_for_harm() -> None:
    """.45 → .56: nearly all answers stay, so a small change stands out; being further does not."""
    found = changed(SHARE, np.repeat([1, 0], [450, 550]), np.repeat([1, 0], [560, 440]))
    assert (found.p_change or 1) < 0.001
    assert (found.p or 0) > 0.3


@pytest.mark.parametrize(("count", "bound"), [(5, 0.451), (10, 0.259), (60, 0.0487)])
@pytest.mark.parametrize("measure", [SHARE, ABILITY])
def test_where_no_answer_changed_the_bound_is_exact(
    measure: Measure, count: int, bound: float
) -> None:
    """1 - 0.05 ** (1 / n)."""
    same = np.arange(count) % 3 == 0
    found = changed(measure, same, same)
    for each in (found.change, found.harm):
        assert (each.value, each.low, each.high) == pytest.approx((0, -bound, bound), abs=5e-4)


def test_signs_have_the_same_bounds_on_their_scale() -> None:
    found = changed(SIGNS, np.zeros(10), np.zeros(10))
    assert (found.change.low, found.change.high) == pytest.approx((-0.518, 0.518), abs=1e-3)
    assert (found.original.low or 0) < -0.1 and (found.original.high or 0) > 0.1


@pytest.mark.parametrize("values", [[1.0] * 20, [0.0] * 20, [1.0] * 19 + [0.0]])
def test_a_share_at_an_end_of_its_scale_has_an_interval(values: list[float]) -> None:
    found = estimate(SHARE, {"x": np.array(values)}, range(20))
    assert found.low is not None and found.high is not None
    assert 0.1 < found.high - found.low < 0.26


def test_a_cluster_counts_once_where_all_answers_are_alike() -> None:
    """Ten clusters of eight: as ten answers, of which none is no."""
    labels = [n // 8 for n in range(80)]
    shared = estimate(SHARE, {"x": np.ones(80)}, labels)
    ten = estimate(SHARE, {"x": np.ones(10)}, range(10))
    assert (shared.low, shared.high) == pytest.approx((ten.low, ten.high))


@pytest.mark.parametrize("measure", [SHARE, ABILITY, GAP])
def test_below_five_clusters_there_is_no_interval_and_below_six_no_test(measure: Measure) -> None:
    before, after = np.ones(40), (np.arange(40) % 7 > 2).astype(float)
    four, five, six = (
        changed(measure, before, after, [n % count for n in range(40)]) for count in (4, 5, 6)
    )
    assert four.change.low is four.original.high is four.p is None
    assert four.change.reason == "an interval needs 5 clusters of items, and there are 4"
    assert five.change.low is not None and five.p is None
    assert five.untested == "5 clusters of items are too few: a test needs 6"
    assert six.p is not None and six.untested is None


def test_items_that_share_words_in_two_ways_are_fewer_than_they_look() -> None:
    rng = np.random.default_rng(0)
    labels = [frozenset({f"a{n % 12}", f"b{n // 12}"}) for n in range(144)]
    words = rng.normal(size=24)
    before = np.array([words[n % 12] + words[12 + n // 12] for n in range(144)])
    alone, shared = (estimate(GAP, {"x": before}, each) for each in (range(144), labels))
    width = [(each.high or 0) - (each.low or 0) for each in (alone, shared)]
    assert width[1] > 2.5 * width[0]
    found = changed(GAP, np.zeros(144), before + 3, labels)
    assert found.p is not None and found.p < 0.01


@pytest.mark.parametrize("kind", ["independent", "clusters", "two words"])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.95, 0.95), (0.65, 0.35)])
def test_false_finds_are_rare_and_intervals_hold(kind: str, shares: tuple[float, float]) -> None:
    """A small run of `benchmarks/verdict_errors.py`; 120 draws scatter by four points."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from verdict_errors import simulated

    found = simulated(kind, 12 if kind == "two words" else 10, shares, 120, seed=1)
    assert found.tests > 60 and found.intervals > 60
    assert found.away <= 0.1 * found.tests
    if shares[0] == shares[1]:
        assert found.false <= 0.1 * found.tests
        assert found.flips <= 0.1 * 120
    assert min(found.share, found.change, found.harm) >= 0.9 * found.intervals
