"""Figures as functions of sums: their values, intervals, tests and groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optipfair.evaluation.changes import compare
from optipfair.evaluation.measures import Measure, groups, mean_of, ratio_of, taken
from optipfair.evaluation.one_figure import estimate
from optipfair.evaluation.turned_answers import answers_turned

MEAN = Measure("mean", "", **mean_of("x"), better="higher")
SHARE = Measure("share", "", **mean_of("x"), better=0.5)
RATIO = Measure(
    "ratio", "", **ratio_of(lambda c: c["x"], lambda c: c["n"]), better="lower", change="ratio"
)


def columns(values: Any, **others: Any) -> dict[str, Any]:
    return {"x": np.asarray(values, dtype=float), **others}


def test_a_mean_leaves_out_what_is_not_defined() -> None:
    found = estimate(MEAN, columns([1.0, np.nan, 2.0, 6.0, 2.0, 4.0]), range(6))
    assert found.value == 3.0
    assert found.low is not None and found.high is not None and found.low < 3 < found.high


def test_nothing_that_counts_gives_a_reason() -> None:
    found = estimate(MEAN, columns([np.nan, np.nan]), range(2))
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.reason == MEAN.undefined


def test_a_few_clusters_give_a_figure_without_an_interval() -> None:
    found = estimate(MEAN, columns([1.0, 3.0, 2.0, 2.0]), ["a", "a", "b", "c"])
    assert (found.value, found.low) == (2.0, None)
    assert found.reason is not None and found.reason.endswith(
        "5 clusters of items, and there are 3"
    )


@pytest.mark.parametrize("measure", [MEAN, SHARE, RATIO])
def test_a_model_compared_with_itself_has_not_changed(measure: Measure) -> None:
    same = columns([0.2, 0.9, 0.4] * 4, n=np.ones(12))
    found = compare(measure, same, same, range(12))
    none = 1.0 if measure.change == "ratio" else 0.0
    assert (found.change.value, found.change.low, found.change.high) == (none, None, None)
    assert found.change.reason == "all clusters of items are alike; up to 22 % of such may not be"
    assert (found.harm.value, found.p) == (0.0, 1.0)


def test_harm_is_what_got_worse() -> None:
    low, high = columns([0.4] * 3, n=np.ones(3)), columns([0.8] * 3, n=np.ones(3))
    assert compare(MEAN, low, high, range(3)).harm.value == pytest.approx(-0.4)
    assert compare(SHARE, low, high, range(3)).harm.value == pytest.approx(0.2)  # .1 → .3 from .5
    doubled = compare(RATIO, low, high, range(3))
    assert doubled.change.value == pytest.approx(2.0)
    assert doubled.harm.value == pytest.approx(np.log(2))


def test_roles_exchanged_turn_the_sign() -> None:
    rng = np.random.default_rng(0)
    first, second = columns(rng.random(40)), columns(rng.random(40))
    forth, back = (compare(MEAN, *pair, range(40)) for pair in ((first, second), (second, first)))
    assert forth.change.value == pytest.approx(-(back.change.value or 0))
    assert forth.p == back.p


def test_items_of_one_cluster_are_no_independent_witnesses() -> None:
    rng = np.random.default_rng(1)
    once = rng.normal(size=20)
    labels = np.arange(20)
    alone = estimate(MEAN, columns(once), labels)
    repeated = estimate(MEAN, columns(np.repeat(once, 10)), np.repeat(labels, 10).tolist())
    naive = estimate(MEAN, columns(np.repeat(once, 10)), range(200))
    width = [(e.high or 0) - (e.low or 0) for e in (alone, repeated, naive)]
    assert width[1] == pytest.approx(width[0])
    assert width[2] < 0.5 * width[0]


def test_intervals_and_p_values_keep_their_level() -> None:
    rng = np.random.default_rng(2)
    held = false = 0
    for seed in range(200):
        effect = rng.normal(0, 1, 30)  # exchangeable in sign
        before = columns(np.zeros(30))
        found = compare(MEAN, before, columns(effect), range(30), seed=seed)
        assert found.change.low is not None and found.change.high is not None
        assert found.p is not None
        held += found.change.low <= 0 <= found.change.high
        false += found.p < 0.05
    assert 0.90 <= held / 200 <= 0.99
    assert false / 200 <= 0.085  # 0.05 and two standard deviations


def test_a_clear_change_is_found() -> None:
    rng = np.random.default_rng(3)
    before = rng.random(50)
    found = compare(MEAN, columns(before), columns(before + 0.3), range(50))
    assert found.p is not None and found.p < 0.001


def test_an_untested_measure_has_no_p_value() -> None:
    untested = Measure("m", "", **mean_of("x"), better="lower", tested=False)
    assert compare(untested, columns([0.0, 0.0]), columns([1.0, 2.0]), range(2)).p is None


def test_groups_are_rows_by_label() -> None:
    measure = Measure("m", "", **mean_of("x"), better="higher", by="kind")
    data = columns([1.0, 2.0, 3.0], kind=np.array(["b", "a", "b"]))
    found = groups(measure, data)
    assert list(found) == [None, "a", "b"]
    assert taken(data, found["b"])["x"].tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([1] * 9 + [0], [0] * 9 + [1], 22 / 1024),  # 9 lost, 1 gained
        ([1, 0] * 3, [0, 1] * 3, 1.0),
        ([1] * 6, [0] * 6, 2 / 64),
    ],
)
def test_mcnemar_is_the_exact_binomial(
    before: list[int], after: list[int], expected: float
) -> None:
    found = answers_turned(columns(before), columns(after), "x", range(len(before)))
    assert found["p"] == pytest.approx(expected)


@pytest.mark.parametrize("turned", [0, 1, 5])
def test_so_few_turned_answers_that_no_test_can_tell_have_no_p(turned: int) -> None:
    before, after = [1] * 20, [0] * turned + [1] * (20 - turned)
    found = answers_turned(columns(before), columns(after), "x", range(20))
    assert (found["p"], found["lost"], found["gained"]) == (None, turned, 0)
    assert found["untested"].startswith(f"{turned} turned, too few to tell")


def test_turned_answers_of_one_template_are_no_independent_witnesses() -> None:
    before, after = [1] * 80, [0] * 10 + [1] * 70
    labels = [n // 10 for n in range(80)]
    alone = answers_turned(columns(before), columns(after), "x", range(80))
    shared = answers_turned(columns(before), columns(after), "x", labels)
    assert alone["p"] == pytest.approx(2 / 1024)
    assert shared["p"] > 0.3  # all ten in one of eight templates
    few = answers_turned(columns(before), columns(after), "x", [n // 20 for n in range(80)])
    assert few["p"] is None and "4 clusters" in few["untested"]
