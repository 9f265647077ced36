"""The summary shows the numbers that it is given, and says where there is no interval."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
from matplotlib.figure import Figure

from optipfair import visualize_bias
from optipfair.bias import generate_prompt_pairs
from optipfair.bias.figures.canvas import Style
from optipfair.bias.figures.kinds import summary_figures
from optipfair.bias.figures.panels import Line
from optipfair.bias.figures.summary_panels import Row, by_category, by_layer
from optipfair.bias.study_results import BiasMetrics
from optipfair.testing import byte_tokenizer, tiny_model


def texts(figure: Figure) -> str:
    """All that is written in a figure, once it is drawn without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png")
    size = figure.bbox
    found = []
    for text in figure.findobj(lambda each: hasattr(each, "get_text")):
        written: Any = text
        if written.get_visible() and written.get_text():
            box = written.get_window_extent()
            if box.width and box.x1 > 0 and box.x0 < size.width:
                found.append(written.get_text())
    return "\n".join(found)


def test_each_component_has_its_line_and_its_band() -> None:
    lines = {
        "mlp_output": Line([0, 1, 2], [0.1, -0.1, 0.0], ([0.0, -0.2, -0.1], [0.2, 0.0, 0.1])),
        "up_proj": Line([0, 1, 2], [0.0, 0.1, 0.2]),
    }
    figure = by_layer(lines, title="All of it")
    axes = [axis for axis in figure.axes if axis.get_visible()]
    for axis, line in zip(axes, lines.values(), strict=True):
        drawn = [each for each in axis.get_lines() if each.get_label() == "mean"]
        assert list(drawn[0].get_ydata()) == line.values
        assert bool(axis.collections) == (line.band is not None)
    assert "95 % interval" in texts(figure) and "All of it" in texts(figure)


def test_each_category_has_its_point_and_its_interval_or_the_reason() -> None:
    rows = [
        Row("race", 0.1, (0.05, 0.15), "30 pairs, 5 distinct swaps"),
        Row("a_$name$", -0.2, None, "34 pairs, 2 distinct swaps", "two are too few"),
    ]
    figure = by_category(rows, title="Title")
    (axis,) = figure.axes
    interval, *points = axis.get_lines()[1:]
    assert list(interval.get_xdata()) == [0.05, 0.15]
    assert [list(point.get_xdata()) for point in points] == [[0.1], [-0.2]]
    assert points[1].get_markerfacecolor() == "white"
    written = texts(figure)
    for row in rows:
        assert row.name in written and row.counts in written
    assert "hollow: no interval (two are too few)" in written


@pytest.mark.parametrize(("categories", "enough"), [(["nationality"], True), (["age"], False)])
def test_a_study_is_drawn_with_its_counts_and_what_it_says(
    categories: list[str], enough: bool
) -> None:
    _, found = visualize_bias(
        *(tiny_model("llama"), byte_tokenizer(), generate_prompt_pairs(categories, fillings=1), []),
        show_progress=False,
        controls=2,
        components=["mlp_output"],
    )
    overall = found["summary"]["overall"]
    figures = dict(summary_figures(BiasMetrics.from_dict(found.to_dict()), Style()))
    assert set(figures) == {"summary_by_layer", "summary_by_category"}
    for figure in figures.values():
        written = " ".join(texts(figure).split())
        assert "How differently two words are represented" in written
        assert "no measure of bias" in written
        assert f"{overall['pairs']} pairs, {overall['swaps']} distinct swaps" in written
    assert (overall["interval"] is not None) == enough
    by_layer = " ".join(texts(figures["summary_by_layer"]).split())
    assert ("no interval: two distinct swaps are too few" in by_layer) == (not enough)
