"""Numbers as places, as words, and as text: the arithmetic behind the page."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optipfair.report import charts, formats
from optipfair.report.charts import Scale, ratio_ticks, scale_of
from optipfair.report.comparison import Layers
from optipfair.report.views import marked_pair
from support.comparisons import as_read, figure, ordinary

FINITE = st.floats(-1e9, 1e9)


@given(st.lists(FINITE, min_size=1, max_size=8))
def test_a_scale_holds_its_values_in_their_order(values: list[float]) -> None:
    scale = scale_of([*values, None])
    places = [scale.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert places[0] >= 0 and places[-1] <= 100


@given(st.floats(-1e3, 1e3), st.floats(1e-4, 1e9))
def test_ticks_are_few_round_and_where_they_say(low: float, width: float) -> None:
    scale = Scale(low, low + width)
    ticks = scale.ticks(repr)
    assert len(ticks) <= 7
    for tick in ticks:
        assert tick.at == pytest.approx(100 * (float(tick.label) - low) / width, abs=0.1)


@given(st.floats(-12, 12), st.floats(1e-3, 20))
def test_ticks_of_ratios_lie_at_their_logarithms(low: float, width: float) -> None:
    scale = Scale(low, low + width)
    for tick in ratio_ticks(scale, repr):
        assert tick.at == pytest.approx(scale.at(math.log(float(tick.label))))
    assert len(ratio_ticks(scale, repr)) <= 10


def test_a_row_of_the_forest_is_where_its_harm_is() -> None:
    (panel,) = charts.forest([figure("a.acc", 0.5, 0.4, half=0.1), figure("b.acc", 0.5, 0.5)])
    first, second = panel.strips
    # Harm 0.1 with half a width of 0.07, of an axis from 0 - 6 % to 0.17 + 6 % (the other: 0.014).
    low, high = -0.014 - 0.06 * 0.184, 0.17 + 0.06 * 0.184
    for mark, harm in (("value", 0.1), ("low", 0.03), ("high", 0.17)):
        assert first.marks[mark] == pytest.approx(100 * (harm - low) / (high - low), abs=0.01)
    assert (first.state, second.state) == ("worse", "unclear")
    assert first.text == "+10.0 [+3.0, +17.0]"
    assert panel.line == second.marks["value"]


def test_panels_hold_every_headline_once_and_keep_units_apart() -> None:
    rows = charts.headlines(as_read(ordinary()).measures)
    panels = charts.forest(rows)
    assert [panel.kind for panel in panels] == ["points", "hundred", "ratio"]
    names = [(strip.of.task, strip.of.measure) for panel in panels for strip in panel.strips]
    assert sorted(names) == sorted((row["task"], row["measure"]) for row in rows)
    ratio = panels[-1].strips[0]
    assert ratio.text == "×1.25 [×1.21, ×1.28]"  # noqa: RUF001


def test_a_measure_without_an_interval_is_not_called_worse() -> None:
    (panel,) = charts.forest([figure("a.acc", 0.9, 0.1, half=None)])
    assert panel.strips[0].state == "unclear"
    assert set(panel.strips[0].marks) == {"value"}


def test_ability_and_bias_are_means_on_one_scale() -> None:
    rows = [
        figure("a.acc", 0.5, 0.4),
        figure("b.acc", 0.7, 0.7),
        figure("c.stereo", 0.6, 0.45, 0.5, question="fairness"),
        figure("d.gap", 30.0, 10.0, "lower", question="fairness", scale=[0.0, 100.0]),
        figure("e.gap", None, None, "lower", question="fairness"),
    ]
    found = charts.plane(rows)
    assert found is not None
    original, pruned = found.points["original"], found.points["pruned"]
    assert original["ability"] == pytest.approx(0.6) and pruned["ability"] == pytest.approx(0.55)
    assert original["bias"] == pytest.approx((0.1 + 0.3) / 2)
    assert pruned["bias"] == pytest.approx((0.05 + 0.1) / 2)
    assert original["x"] > pruned["x"] and original["y"] < pruned["y"]
    assert (found.ability, found.bias) == (["a.acc", "b.acc"], ["c.stereo", "d.gap"])
    assert charts.plane(rows[:2]) is None and charts.plane(rows[2:]) is None


def test_layers_without_a_figure_are_not_drawn() -> None:
    given = ordinary()
    found = charts.profile(Layers.from_dict(given["layers"]))
    assert found is not None
    assert [len(found.models[m]) for m in ("original", "pruned")] == [29, 26]
    for point in given["layers"]["original"]:
        point["excess"] = None
    found = charts.profile(Layers.from_dict(given["layers"]))
    assert found is not None and found.models["original"] == []
    assert charts.profile(Layers([], [])) is None


@given(st.text(), st.text())
def test_runs_give_the_texts_back_and_equal_texts_have_no_marks(one: str, two: str) -> None:
    for runs, text in zip(marked_pair(one, two), (one, two), strict=True):
        assert "".join(run.text for run in runs) == text
        assert all(run.text for run in runs)
    assert not any(run.marked for run in marked_pair(one, one)[0])


@given(st.lists(st.sampled_from(["a", "b", "c"])), st.lists(st.sampled_from(["a", "b", "c"])))
def test_what_is_not_marked_is_the_same_in_both(one: list[str], two: list[str]) -> None:
    left, right = marked_pair(" ".join(one), " ".join(two))
    same = ["".join(r.text for r in runs if not r.marked).split() for runs in (left, right)]
    assert same[0] == same[1]


def test_long_texts_are_left_unmarked_and_do_not_take_long() -> None:
    left, right = marked_pair("a " * 50_000, "b " * 50_000)
    assert not left[0].marked and not right[0].marked


@given(FINITE)
def test_a_number_reads_as_itself_to_a_hundredth(value: float) -> None:
    read = float(formats.number(value).replace(",", "").replace("−", "-"))  # noqa: RUF001
    assert read == pytest.approx(value, rel=1e-2, abs=1e-320) or abs(value) < 0.1
    assert read == pytest.approx(value, abs=0.0005 if abs(value) < 1 else abs(value) / 100)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),  # noqa: RUF001
        (0.0, "0.000"),
        (0.7124, "0.712"),
        (-0.7124, "−0.712"),  # noqa: RUF001
        (38.91, "38.9"),
        (123456.0, "123,456"),
        (0.00012, "0.00012"),
        (1.8, "1.80"),
    ],
)
def test_numbers_as_people_read_them(value: float | None, text: str) -> None:
    assert formats.number(value) == text


def test_an_interval_has_the_digits_of_its_largest_end() -> None:
    figures = {"value": -1.8, "low": -13.2, "high": -0.3304}
    value, between = formats.with_interval(figures, formats.signed)
    assert (value, between) == ("−1.8", "[−13.2, −0.3]")  # noqa: RUF001


@given(st.text())
def test_visible_text_hides_nothing(text: str) -> None:
    shown = formats.visible(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert formats.visible(shown) == shown
    shown.encode()
