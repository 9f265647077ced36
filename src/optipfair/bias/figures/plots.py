"""Figures of the differences between two prompts. Each function returns a matplotlib `Figure`.

They know numbers and labels only, no models. Nothing is registered with pyplot, so no window opens
and nothing has to be closed. Colours: Okabe and Ito's, which colour-blind people tell apart, each
with a marker or a dash of its own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...errors import ArgumentError, UnknownNameError
from ...registry import unknown_name
from .labels import place_labels, text_size

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#777777")
_ROUNDING = 1e-6  # a direction with less than this of the largest is rounding of float32
_ROWS, _COLUMNS = 40, 64  # more than this cannot be read in a heatmap
_ACROSS = 4  # panels beside each other
_LABEL = 32  # characters of a token's label
_NAME = 0.07, 0.6  # inches of a character in a legend, and of what stands before it
_TITLE_LINES = 3
_TICKS = 6  # layers that are all named on an axis
_CLIPPED = 0.99  # the share of a heatmap's values that its colours tell apart
_FAR_BEYOND = 1.5  # times that, the largest value must be for the colours to end there
_NAMED = 8  # tokens written beside their points
_SMALL = 7  # points, of text in a panel
_MARGIN = 0.85, 0.75  # inches of a panel beside its axes


@dataclass(frozen=True)
class Style:
    """What a caller may change of every figure.

    Attributes:
        figsize: width and height in inches, None for one that fits what is drawn.
        dpi: of raster formats.
        cmap: colour map of heatmaps.
        title: in the place of the figure's own.
    """

    figsize: tuple[float, float] | None = None
    dpi: int = 120
    cmap: str = "RdBu_r"
    title: str | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Style:
        """Check what a caller gave.

        Raises:
            ArgumentError: what cannot be drawn.
        """
        style = cls(**given)
        if style.figsize is not None and not _is_size(style.figsize):
            raise ArgumentError(
                f"figsize={style.figsize!r} is no size. Give (width, height) in inches, up to 100."
            )
        if not isinstance(style.dpi, int | float) or not 10 <= style.dpi <= 1200:
            raise ArgumentError(f"dpi={style.dpi!r} is no resolution. Give 10 to 1200.")
        if style.cmap not in list(colormaps):
            close, _, _ = unknown_name("colour map", style.cmap, sorted(colormaps)).partition(
                " Avail"
            )
            raise UnknownNameError(
                f"{close} Give a name that matplotlib knows, best of one with white in the middle: "
                "RdBu_r, PuOr, BrBG."
            )
        if style.title is not None and not isinstance(style.title, str):
            raise ArgumentError(f"title={style.title!r} is no text. Give one, or None.")
        return style

    def figure(self, width: float, height: float) -> Figure:
        return Figure(figsize=self.figsize or (width, height), dpi=self.dpi, layout="constrained")


@dataclass(frozen=True)
class Line:
    """One component over the layers.

    Attributes:
        layers: layer numbers, or relative depths.
        values: one each; NaN leaves a gap.
        band: of the controls, lowest and highest value each; None without.
    """

    layers: Sequence[float]
    values: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Panel:
    """One layer's differences.

    Attributes:
        title: the layer's name.
        values: (tokens, units).
        rows: text of each row of tokens.
        edited: which rows differ between the prompts.
        units: numbers of the units.
    """

    title: str
    values: Any
    rows: Sequence[str]
    edited: Sequence[bool]
    units: Sequence[int] = ()


@dataclass(frozen=True)
class Points:
    """The tokens of both prompts in one layer, before projection.

    Attributes:
        title: the layer's name.
        first, second: (tokens, units) each, aligned.
        rows: text of each pair of tokens.
        edited: which of them differ between the prompts.
    """

    title: str
    first: Any
    second: Any
    rows: Sequence[str]
    edited: Sequence[bool] = field(default_factory=list)


def mean_difference(
    lines: Mapping[str, Line],
    style: Style = Style(),
    *,
    title: str = "Difference between the prompts by layer",
    ylabel: str = "relative difference",
    xlabel: str = "layer",
) -> Figure:
    """One panel per component: its line, and behind it the band of the neutral control pairs."""
    figure, axes = _component_grid(style, len(lines))
    layers = sorted({layer for line in lines.values() for layer in line.layers})
    for axis, (name, line) in zip(axes, lines.items(), strict=True):
        _draw_line(axis, line)
        if len(layers) <= _TICKS:
            axis.set_xticks(layers)
        elif all(isinstance(layer, int) for layer in layers):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_title(name, fontsize=9)
    figure.axes[0].set_ylim(bottom=0)  # of all, once all are drawn
    _finish_components(figure, axes, xlabel, ylabel)
    _entitle(figure, style.title or title)
    return figure


def heatmap(
    panels: Sequence[Panel], style: Style = Style(), *, title: str = "", note: str = ""
) -> Figure:
    """Aligned tokens by the units that differ most, second prompt minus first, on one scale."""
    drawn = [_readable(panel) for panel in panels]
    limit, largest = _limits(drawn)
    tallest = max((len(panel.rows) for panel in drawn), default=0)
    width = max((panel.values.shape[1] for panel in drawn), default=0)
    longest = max((len(_short(row)) for panel in drawn for row in panel.rows), default=0)
    panel_size = 0.7 + 0.07 * longest + max(1.2, 0.055 * width), 0.7 + 0.2 * max(tallest, 12)
    figure, axes = _grid(style, len(drawn), panel_size, (1.5, 0.7))
    for panel, axis in zip(drawn, axes, strict=True):
        _draw_panel(axis, panel, style.cmap, limit)
    if drawn:
        clipped = largest > limit
        bar = figure.colorbar(
            axes[0].images[0], ax=axes, shrink=0.8, extend="both" if clipped else "neither"
        )
        beyond = f"\n(darkest: also beyond, up to {largest:.3g})" if clipped else ""
        bar.set_label(f"second - first,\nover the layer's root mean square{beyond}", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    bold = "bold: edited" if any(any(panel.edited) for panel in drawn) else ""
    _entitle(figure, style.title or title, "; ".join(filter(None, (bold, note))))
    return figure


def pca(
    points: Sequence[Points],
    style: Style = Style(),
    *,
    highlight: bool = True,
    title: str = "",
    note: str = "",
) -> Figure:
    """Tokens of both prompts on the two directions in which they vary most, aligned ones joined."""
    figure, axes = _grid(style, len(points), (3.8, 3.6), (2.0, 0.6))
    for each, axis in zip(points, axes, strict=True):
        _draw_points(axis, each, highlight, _panel_inches(figure, axis))
    if axes:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=_SMALL, loc="outside right center")
    own = "each panel has directions and a scale of its own" if len(axes) > 1 else ""
    _entitle(figure, style.title or title, "; ".join(filter(None, (own, note))))
    return figure


def layer_profile(
    profiles: Mapping[str, Mapping[str, Line]],
    style: Style = Style(),
    *,
    title: str = "Difference over relative depth",
    ylabel: str = "relative difference",
) -> Figure:
    """Several models (or categories), one line each, a panel per component."""
    components = list(dict.fromkeys(c for lines in profiles.values() for c in lines))
    figure, axes = _component_grid(style, len(components))
    for axis, component in zip(axes, components, strict=True):
        for number, (name, lines) in enumerate(profiles.items()):
            if component not in lines:
                continue
            line = lines[component]
            look: dict[str, Any] = {
                "color": _COLOURS[number % len(_COLOURS)],
                "linestyle": ("-", "--", ":", "-.")[number % 4],
            }
            axis.plot(line.layers, line.values, label=name, **look)
            if line.band is not None:
                axis.fill_between(line.layers, *line.band, color=look["color"], alpha=0.15)
        axis.set_title(component, fontsize=9)
    if any(axis.dataLim.y0 < 0 for axis in axes):
        for axis in axes:
            axis.axhline(0, color="black", linewidth=0.8)
    _finish_components(figure, axes, "relative depth, 0 first layer, 1 last", ylabel)
    _entitle(figure, style.title or title)
    return figure


def top_units(
    names: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    style: Style = Style(),
    *,
    title: str = "Units that differ most",
    xlabel: str = "excess over neutral controls",
) -> Figure:
    """Units with their values and intervals, the largest on top."""
    figure = style.figure(5.5, 1.2 + 0.24 * len(names))
    axis = figure.subplots()
    places = np.arange(len(names))[::-1]
    low, high = np.array(intervals).reshape(-1, 2).T
    value = np.array(values)
    axis.errorbar(
        value,
        places,
        xerr=[np.maximum(value - low, 0), np.maximum(high - value, 0)],
        fmt="o",
        color=_COLOURS[0],
        ecolor="#777777",
        capsize=2,
        markersize=4,
    )
    axis.axvline(0, color="#777777", linewidth=0.8)
    axis.set_yticks(places, list(names), fontsize=8)
    axis.set_xlabel(xlabel, fontsize=9)
    axis.grid(axis="x", alpha=0.3)
    _entitle(figure, style.title or title)
    return figure


def project(first: Any, second: Any) -> tuple[Any, Any]:
    """Principal components of both prompts' tokens together.

    Args:
        first, second: (M, U) each.

    Returns:
        Coordinates (2 M, 2) of the first prompt's tokens and then the second's, and the shares of
        the variance (2,) that the two directions explain; zeros where nothing varies.
    """
    both = np.concatenate([np.asarray(first, np.float64), np.asarray(second, np.float64)])
    centred = both - both.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    sizes[sizes <= _ROUNDING * sizes.max(initial=0)] = 0
    found = np.zeros((len(both), 2))
    shares = np.zeros(2)
    rank = min(2, len(sizes))
    found[:, :rank] = left[:, :rank] * sizes[:rank]
    total = float(np.square(sizes).sum())
    if total > 0:
        shares[:rank] = np.square(sizes[:rank]) / total
    return found, shares


def _is_size(given: object) -> bool:
    sides = list(given) if isinstance(given, Iterable) else []
    return len(sides) == 2 and all(isinstance(x, int | float) and 0 < x <= 100 for x in sides)


def _grid(
    style: Style, count: int, panel: tuple[float, float], margin: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """Panels in rows of at most `_ACROSS`; sizes in inches."""
    columns = max(1, min(count, _ACROSS))
    rows = max(1, -(-count // columns))
    figure = style.figure(margin[0] + columns * panel[0], margin[1] + rows * panel[1])
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def _component_grid(style: Style, count: int) -> tuple[Figure, list[Axes]]:
    """A panel for each component, on the same axes; the lowest of each column has the ticks."""
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = style.figure(1.2 + 3.2 * columns, 1.4 + 2.4 * rows)
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis in axes[:count]:
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    for axis in _lowest(axes[:count]):
        axis.tick_params(labelbottom=True)
    return figure, axes[:count]


def _finish_components(figure: Figure, axes: Sequence[Axes], xlabel: str, ylabel: str) -> None:
    """The axes' names, and a legend that hides nothing."""
    for axis in _lowest(axes):
        axis.set_xlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    named: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    most = max(10, int((figure.get_figwidth() - _NAME[1]) / _NAME[0]))
    names = [_short(name, most) for name in named]
    figure.legend(list(named.values()), names, fontsize=8, loc="outside lower left")


def _lowest(axes: Sequence[Axes]) -> list[Axes]:
    """The last panel of each column."""
    return list(axes[-3:])


def _draw_line(axis: Axes, line: Line) -> None:
    """A line where layers follow each other; else points, as nothing is known between them."""
    follow = bool((np.diff(line.layers) == 1).all())
    if line.band is not None:
        look: dict[str, Any] = {"color": "#bbbbbb", "label": "range of the neutral controls"}
        if follow and len(line.layers) > 1:
            axis.fill_between(line.layers, *line.band, **look)
        else:
            axis.vlines(line.layers, *line.band, linewidth=7, **look)
    axis.plot(
        *(line.layers, line.values),
        color=_COLOURS[0],
        linestyle="-" if follow else ":",
        linewidth=1.5 if follow else 0.8,
        marker="o",
        markersize=4,
        label="this pair",
    )


def _limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Where the colours of all panels end, and the largest value.

    A few values ten times as large as the others would leave all else white.
    """
    sizes = np.abs(np.concatenate([np.zeros(0), *(panel.values.ravel() for panel in panels)]))
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return 1.0, 1.0
    largest, most = float(sizes.max()), float(np.quantile(sizes, _CLIPPED, method="higher"))
    return (most if largest > _FAR_BEYOND * most else largest), largest


def _draw_panel(axis: Axes, panel: Panel, cmap: str, limit: float) -> None:
    axis.imshow(
        panel.values,
        cmap=cmap,
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
    )
    _label_tokens(axis, panel)
    axis.set_title(panel.title, fontsize=8)
    shown = _spread(panel.values.shape[1], 5)
    axis.set_xticks(shown, [str(panel.units[i]) for i in shown], fontsize=7)
    axis.set_xlabel("unit", fontsize=8)


def _draw_points(axis: Axes, points: Points, highlight: bool, inches: tuple[float, float]) -> None:
    look: dict[str, Any]
    coordinates, shares = project(points.first, points.second)
    half = len(coordinates) // 2
    one, two = coordinates[:half], coordinates[half:]
    joined = LineCollection(list(np.stack([one, two], axis=1)), colors="#bbbbbb", linewidths=0.8)
    axis.add_collection(joined, autolim=False)
    for number, (name, each) in enumerate((("first prompt", one), ("second prompt", two))):
        look = {"color": _COLOURS[number], "marker": "o^"[number], "label": name}
        axis.scatter(each[:, 0], each[:, 1], s=24, zorder=2, **look)
    edited = [i for i, flag in enumerate(points.edited) if flag] if highlight else []
    if edited:
        ring = np.concatenate([one[edited], two[edited]])
        look = {"facecolors": "none", "edgecolors": "black", "label": "edited"}
        axis.scatter(ring[:, 0], ring[:, 1], s=90, zorder=3, **look)
    axis.set_xlabel(f"first direction, {shares[0]:.0%} of the variance", fontsize=8)
    axis.set_ylabel(f"second direction, {shares[1]:.0%}", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.set_title(points.title, fontsize=8)
    axis.grid(alpha=0.3)
    axis.locator_params(nbins=5)
    _frame(axis, coordinates, inches)
    named = edited or _farthest(one, two, 3)
    named = sorted(named, key=lambda i: -float(np.linalg.norm(one[i] - two[i])))[:_NAMED]
    _label_points(axis, coordinates, [half + i for i in named], inches, points.rows)


def _panel_inches(figure: Figure, axis: Axes) -> tuple[float, float]:
    """About how wide and high a panel will be; only drawing the figure would tell."""
    place = axis.get_subplotspec()
    assert place is not None
    rows, columns = place.get_gridspec().get_geometry()
    width, height = figure.get_size_inches()
    return (
        max(float(width) / columns - _MARGIN[0], 0.5),
        max(float(height) / rows - _MARGIN[1], 0.5),
    )


def _frame(axis: Axes, coordinates: Any, inches: tuple[float, float]) -> None:
    """One scale in both directions, so that distances are true."""
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    scale = float(((high - low) / inches).max()) * 1.3 or 1.0
    middle = (low + high) / 2
    half = scale * np.array(inches) / 2
    axis.set_xlim(middle[0] - half[0], middle[0] + half[0])
    axis.set_ylim(middle[1] - half[1], middle[1] + half[1])
    axis.set_aspect("equal", adjustable="box")


def _label_points(
    axis: Axes,
    coordinates: Any,
    anchors: Sequence[int],
    inches: tuple[float, float],
    rows: Sequence[str],
) -> None:
    """Write tokens beside their second points, where they hide least."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    places = (coordinates - [left, bottom]) / [right - left, top - bottom] * inches
    texts = [_short(rows[anchor - len(coordinates) // 2]) for anchor in anchors]
    sizes = [text_size(text, _SMALL) for text in texts]
    for text, anchor, label in zip(
        texts, anchors, place_labels(places, anchors, sizes, inches), strict=True
    ):
        axis.annotate(
            text,
            tuple(coordinates[anchor]),
            xytext=(72 * label.gap * label.side[0], 72 * label.gap * label.side[1]),
            textcoords="offset points",
            ha=("right", "center", "left")[label.side[0] + 1],
            va=("top", "center", "bottom")[label.side[1] + 1],
            fontsize=_SMALL,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5} if label.far else None,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.3},
            zorder=4,
        )


def _farthest(one: Any, two: Any, count: int) -> list[int]:
    distance = np.linalg.norm(one - two, axis=1)
    return [int(i) for i in np.argsort(-distance)[:count]]


def _readable(panel: Panel) -> Panel:
    """The rows and columns that differ most, as many as can be read; the title says so."""
    values = np.asarray(panel.values, np.float64)
    units = list(panel.units) or list(range(values.shape[1]))
    kept_rows = _largest(np.abs(values).mean(axis=1), _ROWS)
    columns = _largest(np.abs(values).max(axis=0, initial=0), _COLUMNS)
    left = []
    if len(kept_rows) < len(values):
        left.append(f"{len(kept_rows)} of {len(values)} tokens")
    if len(columns) < values.shape[1]:
        left.append(f"{len(columns)} of {values.shape[1]} units")
    title = f"{panel.title}\n({', '.join(left)} that differ most)" if left else panel.title
    return Panel(
        title,
        values[np.ix_(kept_rows, columns)],
        [panel.rows[i] for i in kept_rows],
        [panel.edited[i] for i in kept_rows],
        [units[i] for i in columns],
    )


def _largest(sizes: Any, count: int) -> list[int]:
    """The places of the largest, in their order."""
    return sorted(int(i) for i in np.argsort(-sizes, kind="stable")[:count])


def _label_tokens(axis: Axes, panel: Panel) -> None:
    axis.set_yticks(range(len(panel.rows)), [_short(row) for row in panel.rows], fontsize=7)
    for label, edited in zip(axis.get_yticklabels(), panel.edited, strict=True):
        label.set_parse_math(False)
        if edited:
            label.set_fontweight("bold")


def _spread(count: int, most: int) -> list[int]:
    """At most so many places, evenly."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _short(label: str, most: int = _LABEL) -> str:
    """A label on one line, its middle left out where it is long."""
    line = " ".join(label.split()) or repr(label)
    return line if len(line) <= most else f"{line[: most // 2]}…{line[-most // 2 :]}"


def _entitle(figure: Figure, title: str, note: str = "") -> None:
    """Each line of the title on at most two, cut at what the figure's width holds."""
    width = max(20, int(11 * figure.get_figwidth()))
    lines = [
        "\n".join(textwrap.wrap(line, width, max_lines=2, placeholder=" …"))
        for line in title.split("\n")[:_TITLE_LINES]
    ]
    if title:
        figure.suptitle("\n".join(lines), fontsize=10, parse_math=False)
    if note:
        figure.supxlabel(note, fontsize=7, parse_math=False)
