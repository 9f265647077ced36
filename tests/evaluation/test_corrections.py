"""Corrections for the number of tests: two families, and tests too small to tell anything."""

from __future__ import annotations

from typing import Any

import pytest

from optipfair.evaluation.rows import corrected
from optipfair.report.comparison import FigureOfTwo
from support.comparisons import figure


def row(name: str, p: float, **more: Any) -> FigureOfTwo:
    return figure(*(name, 0.5, 0.5), p=p, p_holm=None, p_change=None, least_p=0.0001, **more)


def test_headlines_are_corrected_for_each_other_alone() -> None:
    rows = [row("a.b", 0.01), row("a.c", 0.02), *(row(f"a.x{n}", 0.9) for n in range(2))]
    shown = [row("a.b", 0.01, group="g", headline=False) for _ in range(20)]
    found, _ = corrected([*rows, *shown], [])
    assert [each.p_holm for each in found[:2]] == pytest.approx([0.04, 0.06])
    assert found[4].p_holm == pytest.approx(0.2)


def test_both_tests_of_a_two_sided_measure_are_counted() -> None:
    both = row("a.b", 0.03) | {"better": 0.5, "p_change": 0.001}
    (found,), _ = corrected([FigureOfTwo.from_dict(both)], [])
    assert (found.p_change_holm, found.p_holm) == pytest.approx((0.002, 0.03))


def test_a_test_too_small_for_so_many_is_told_so_and_costs_the_others_nothing() -> None:
    """With six clusters p is at least 2 / 64, which twice is above 0.05."""
    small = [row(f"small.{n}", 2 / 64) | {"least_p": 2 / 64, "clusters": 6} for n in range(3)]
    rows = [row("a.b", 0.04), *(FigureOfTwo.from_dict(each) for each in small)]
    found, _ = corrected(rows, [])
    assert found[0].p_holm == pytest.approx(0.04)
    for each in found[1:]:
        assert each.p_holm is None
        assert each.untested == "6 clusters of items are too few for 2 tests"
    alone, _ = corrected([FigureOfTwo.from_dict(small[0])], [])
    assert alone[0].p_holm == pytest.approx(2 / 64)
