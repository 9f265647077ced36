"""Figures show the numbers they are given, readable, and touch nothing global."""

from __future__ import annotations

import io
import warnings
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from optipfair.bias.figures.canvas import Style
from optipfair.bias.figures.panels import Line, Panel, heatmap, layer_profile, mean_difference
from optipfair.bias.figures.pca import Points, pca, project
from optipfair.errors import ArgumentError, UnknownNameError

RNG = np.random.default_rng(0)
TITLES = ("", "A $x_1$ man\nA \\frac{ y^ man", "very " * 500, "x" * 3000)
LABELS = ("a_b", "$x$ | $", "\n", " ", "w" * 200, "\\alpha", "Ünïcödé \u2192 ß")


def drawn(figure: Figure) -> Figure:
    """Rendered without a warning, without pyplot knowing."""
    before = plt.get_fignums()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png")
    assert plt.get_fignums() == before
    return figure


def shown(figure: Figure) -> list[Any]:
    return [axis for axis in figure.axes if axis.get_visible() and axis.get_label() != "<colorbar>"]


def panel(rows: int, columns: int, **keywords: Any) -> Panel:
    labels = [LABELS[i % len(LABELS)] for i in range(rows)]
    values = RNG.normal(size=(rows, columns))
    edited = [i % 3 == 0 for i in range(rows)]
    return Panel("mlp_output_layer_1", values, labels, edited, **keywords)


@pytest.mark.parametrize("title", TITLES)
def test_a_line_for_each_component_with_its_band(title: str) -> None:
    lines = {
        "mlp_output": Line([0, 2, 5], [0.1, 0.3, 0.2], ([0.0, 0.1, 0.1], [0.2, 0.2, 0.3])),
        "up_proj": Line([0, 2, 5], [0.5, np.nan, 0.4]),
        "gate_proj": Line([2], [0.0]),
        "residual_output": Line([0, 2], [np.nan, np.nan]),
    }
    figure = drawn(mean_difference(lines, title=title))
    axes = shown(figure)
    assert [axis.get_title() for axis in axes] == list(lines)
    for axis, line in zip(axes, lines.values(), strict=True):
        np.testing.assert_array_equal(axis.lines[0].get_ydata(), line.values)
        assert len(axis.collections) == (line.band is not None)
        assert axis.get_ylim() == axes[0].get_ylim() and axis.get_ylim()[0] == 0
        assert all(float(tick).is_integer() for tick in axis.get_xticks())


@pytest.mark.parametrize(("title", "count"), [*zip(TITLES, (1, 3, 6, 2), strict=True)])
def test_heatmaps_share_one_scale(title: str, count: int) -> None:
    panels = [panel(7, 5 + i) for i in range(count)]
    for each in panels:  # so that none is far beyond the others
        np.clip(each.values, -2, 2, out=each.values)
    axes = shown(drawn(heatmap(panels, Style(cmap="PuOr"), title=title)))
    largest = max(float(np.abs(each.values).max()) for each in panels)
    assert len(axes) == count
    for each, axis in zip(panels, axes, strict=True):
        image = axis.images[0]
        np.testing.assert_array_equal(image.get_array(), each.values)
        assert image.get_clim() == (-largest, largest) and image.get_cmap().name == "PuOr"
        labels = axis.get_yticklabels()
        assert [label.get_fontweight() == "bold" for label in labels] == list(each.edited)
        assert all(0 < len(label.get_text()) <= 33 for label in labels)
        assert "\n" not in "".join(label.get_text() for label in labels)


def test_layers_apart_are_points_with_bars_and_named() -> None:
    """Between them nothing is known, so nothing is filled."""
    values, band = [0.1, 0.3, 0.2], ([0.0, 0.1, 0.1], [0.2, 0.2, 0.3])
    lines = {
        "up_proj": Line([0, 15, 29], values, band),
        "mlp_output": Line([3, 4, 5], values, band),
    }
    apart, together = shown(drawn(mean_difference(lines)))
    bars = [segment.tolist() for segment in apart.collections[0].get_segments()]
    assert bars == [[[0, 0.0], [0, 0.2]], [[15, 0.1], [15, 0.2]], [[29, 0.1], [29, 0.3]]]
    assert (apart.lines[0].get_linestyle(), together.lines[0].get_linestyle()) == (":", "-")
    assert [tick for tick in apart.get_xticks() if tick in lines["up_proj"].layers] == [0, 15, 29]


@pytest.mark.parametrize("count", range(1, 9))
def test_every_column_of_panels_has_numbers_below(count: int) -> None:
    line = Line([0, 1, 2], [-0.3, -0.2, -0.1], ([-0.4, -0.3, -0.2], [-0.2, -0.1, -0.05]))
    lines = {f"component {i}": line for i in range(count)}
    for figure in (mean_difference(lines), layer_profile({"x" * 300: lines, "short": lines})):
        axes = shown(drawn(figure))
        assert len(axes) == count
        for axis in axes[-3:]:
            assert axis.get_xlabel() and any(t.get_visible() for t in axis.get_xticklabels())
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert not any(box.overlaps(axis.get_tightbbox()) for axis in axes)
        assert box.x1 <= figure.bbox.x1
    zero = [any(set(line.get_ydata()) == {0} for line in axis.lines) for axis in axes]
    assert all(zero)  # an excess below zero everywhere still shows where zero is


def test_a_value_far_beyond_the_others_leaves_them_their_colours() -> None:
    panels = [panel(20, 20), panel(20, 20)]
    panels[1].values[3, 4] = -500
    figure = drawn(heatmap(panels))
    axes = shown(figure)
    sizes = np.sort(np.abs(np.concatenate([each.values.ravel() for each in panels])))
    limit = sizes[np.ceil(0.99 * (len(sizes) - 1)).astype(int)]
    assert [axis.images[0].get_clim() for axis in axes] == [(-limit, limit)] * 2
    (bar,) = [axis for axis in figure.axes if axis.get_label() == "<colorbar>"]
    assert "up to 500" in bar.get_ylabel()
    assert "bold: edited" in str(figure.get_supxlabel())


def test_a_heatmap_keeps_what_differs_most_and_says_so() -> None:
    big = panel(100, 300, units=tuple(range(1000, 1300)))
    big.values[17, 250] = 99
    (axis,) = shown(drawn(heatmap([big])))
    assert axis.get_title() == (
        "mlp_output_layer_1\n(40 of 100 tokens, 64 of 300 units that differ most)"
    )
    found = axis.images[0].get_array()
    assert found.shape == (40, 64) and found.max() == 99
    columns = np.sort(np.argsort(-np.abs(big.values).max(axis=0), kind="stable")[:64])
    rows = np.sort(np.argsort(-np.abs(big.values).mean(axis=1), kind="stable")[:40])
    np.testing.assert_array_equal(found, big.values[np.ix_(rows, columns)])
    assert axis.get_xticklabels()[0].get_text() == str(1000 + columns[0])
    nothing = Panel("x", np.zeros((2, 3)), ["a", "b"], [False, False])
    assert shown(drawn(heatmap([nothing])))[0].images[0].get_clim() == (-1, 1)
    assert shown(drawn(heatmap([]))) == shown(drawn(pca([]))) == []


@given(st.integers(0, 20), st.integers(1, 6), st.integers(1, 9))
def test_projection_keeps_what_varies_most(seed: int, tokens: int, units: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, tokens, units))
    places, shares = project(first, second)
    both = np.concatenate([first, second])
    values = np.linalg.eigvalsh(np.cov(both.T, bias=True).reshape(units, units))[::-1]
    best = np.pad(values, (0, 2))[:2]
    np.testing.assert_allclose(places.var(axis=0), best, atol=1e-10)
    np.testing.assert_allclose(places.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(shares, best / values.sum(), atol=1e-10)
    assert not project(first[:1], first[:1])[1].any()


@pytest.mark.parametrize("highlight", [True, False])
def test_points_are_joined_and_edited_ones_ringed(highlight: bool) -> None:
    first, second = RNG.normal(size=(2, len(LABELS), 4))
    edited = [False, True, *[False] * (len(LABELS) - 3), True]
    each = Points("mlp_output_layer_0", first, second, LABELS, edited)
    figure = drawn(pca([each] * 5 if highlight else [each], highlight=highlight, title=TITLES[1]))
    axes = shown(figure)
    assert len(axes) == (5 if highlight else 1)
    places, shares = project(first, second)
    for axis in axes:
        joined, one, two, *ring = axis.collections
        ends = np.stack([places[: len(LABELS)], places[len(LABELS) :]], axis=1)
        np.testing.assert_array_equal(joined.get_segments(), ends)
        np.testing.assert_array_equal(one.get_offsets(), ends[:, 0])
        np.testing.assert_array_equal(two.get_offsets(), ends[:, 1])
        assert [len(each.get_offsets()) for each in ring] == [2 * sum(edited)] * highlight
        assert len(axis.texts) == (sum(edited) if highlight else 3)
        assert f"{shares[0]:.0%}" in axis.get_xlabel() and f"{shares[1]:.0%}" in axis.get_ylabel()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_distances_between_points_are_true_and_only_some_are_named(count: int) -> None:
    first, second = RNG.normal(size=(2, 30, 4)) * [9, 1, 1, 1]
    each = Points("x_layer_0", first, second, [f"token {i}" for i in range(30)], [True] * 30)
    figure = drawn(pca([each] * count, title="A man. " * 30 + "\n" + "A woman. " * 30))
    for axis in shown(figure):
        corners = axis.transData.transform([(0, 0), (1, 0), (0, 1)])
        assert corners[1, 0] - corners[0, 0] == pytest.approx(corners[2, 1] - corners[0, 1])
        assert len(axis.texts) == 8
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert not any(box.overlaps(axis.get_tightbbox()) for axis in shown(figure))
    (title,) = [text for text in figure.texts if "woman" in text.get_text()]
    assert not box.overlaps(title.get_window_extent())


def test_profiles_of_models_have_a_panel_for_each_component() -> None:
    line = Line([0.0, 0.5, 1.0], [1, 2, 3], ([0, 1, 2], [2, 3, 4]))
    profiles = {"small": {"up_proj": line, "mlp_output": line}, "large": {"up_proj": line}}
    axes = shown(drawn(layer_profile(profiles)))
    assert [(axis.get_title(), len(axis.lines)) for axis in axes] == [
        ("up_proj", 2),
        ("mlp_output", 1),
    ]


def test_style_is_honoured() -> None:
    style = Style.read({"figsize": [4, 3.5], "dpi": 50, "title": "Mine"})
    line = {"x": Line([0], [1])}
    for figure in (
        mean_difference(line, style, title="not this"),
        heatmap([panel(3, 3)], style, title="nor this"),
        pca([Points("x", RNG.normal(size=(3, 2)), RNG.normal(size=(3, 2)), "abc")], style),
        layer_profile({"m": line}, style),
    ):
        assert figure.get_suptitle() == "Mine"
        assert (*figure.get_size_inches(), figure.dpi) == (4, 3.5, 50)


WRONG: list[tuple[str, Any]] = [
    *(("figsize", x) for x in (5, (5,), (0, 3), (3, 101), ("a", "b"), "ab", (float("nan"), 3))),
    *(("dpi", x) for x in (0, 5000, "high", None, True, float("nan"))),
    *(("cmap", x) for x in ("RdBu_x", None, ["viridis"])),
    ("title", 3),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_styles_that_cannot_be_drawn_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match="colour map" if name == "cmap" else name):
        Style.read({name: value})
    with pytest.raises(UnknownNameError, match="Did you mean 'viridis'"):
        Style.read({"cmap": "virids"})
