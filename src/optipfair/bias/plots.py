"""Figures of the differences between two prompts. Each function returns a matplotlib `Figure`.

They know numbers and labels only, no models. Nothing is registered with pyplot, so no window opens
and nothing has to be closed. Colours: Okabe and Ito's, which colour-blind people tell apart, each
with a marker of its own.
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

from ..errors import ArgumentError, UnknownNameError
from ..registry import unknown_name

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#777777")
_MARKERS = "os^Dv<>PX*"
_ROUNDING = 1e-6  # a direction with less than this of the largest is rounding of float32
_ROWS, _COLUMNS = 40, 64  # more than this cannot be read in a heatmap
_ACROSS = 4  # panels beside each other
_LABEL = 32  # characters of a token's label
_TITLE_LINES = 3


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
            raise UnknownNameError(unknown_name("colour map", style.cmap, sorted(colormaps)))
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
    columns = min(len(lines), 3)
    rows = -(-len(lines) // columns)
    figure = style.figure(1.2 + 3.2 * columns, 1.0 + 2.4 * rows)
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for number, (axis, (name, line)) in enumerate(zip(axes, lines.items(), strict=False)):
        if line.band is not None:
            low, high = line.band
            axis.fill_between(line.layers, low, high, color="#bbbbbb", label="neutral controls")
        axis.plot(
            *(line.layers, line.values),
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            label="this pair",
        )
        if all(isinstance(layer, int) for layer in line.layers):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylim(bottom=0)  # of all, once all are drawn
    for axis in axes[len(lines) :]:
        axis.set_visible(False)
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    first = figure.axes[0]
    first.legend(fontsize=7)
    _entitle(figure, style.title or title)
    return figure


def heatmap(
    panels: Sequence[Panel], style: Style = Style(), *, title: str = "", note: str = ""
) -> Figure:
    """Aligned tokens by the units that differ most, second prompt minus first, on one scale."""
    drawn = [_readable(panel) for panel in panels]
    limit = max((float(np.abs(panel.values).max(initial=0)) for panel in drawn), default=0) or 1.0
    tallest = max((len(panel.rows) for panel in drawn), default=0)
    width = max((panel.values.shape[1] for panel in drawn), default=0)
    longest = max((len(_short(row)) for panel in drawn for row in panel.rows), default=0)
    panel_size = 0.7 + 0.07 * longest + max(1.2, 0.055 * width), 0.7 + 0.2 * max(tallest, 12)
    figure, axes = _grid(style, len(drawn), panel_size, (1.5, 0.7))
    for panel, axis in zip(drawn, axes, strict=True):
        _draw_panel(axis, panel, style.cmap, limit)
    if drawn:
        bar = figure.colorbar(axes[0].images[0], ax=axes, shrink=0.8)
        bar.set_label("second - first,\nover the layer's root mean square", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    _entitle(figure, style.title or title, note)
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
    figure, axes = _grid(style, len(points), (3.8, 3.6), (1.0, 0.6))
    for each, axis in zip(points, axes, strict=True):
        _draw_points(axis, each, highlight)
    for axis in axes[:1]:
        axis.legend(fontsize=7)
    _entitle(figure, style.title or title, note)
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
    columns = min(len(components), 3)
    rows = -(-len(components) // columns)
    figure = style.figure(1.2 + 3.2 * columns, 1.0 + 2.4 * rows)
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axis, component in zip(axes, components, strict=False):
        for number, (name, lines) in enumerate(profiles.items()):
            if component not in lines:
                continue
            line = lines[component]
            look = {
                "color": _COLOURS[number % len(_COLOURS)],
                "linestyle": ("-", "--", ":", "-.")[number % 4],
            }
            axis.plot(line.layers, line.values, label=name, **look)
            if line.band is not None:
                axis.fill_between(line.layers, *line.band, color=look["color"], alpha=0.15)
        if axis.dataLim.y0 < 0 < axis.dataLim.y1:
            axis.axhline(0, color="black", linewidth=0.8)
        axis.set_title(component, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    for axis in axes[len(components) :]:
        axis.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower left")
    figure.supxlabel("relative depth", fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
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


def _draw_points(axis: Axes, points: Points, highlight: bool) -> None:
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
    axis.margins(0.15)
    axis.locator_params(nbins=5)
    for row in edited or _farthest(one, two, 3):
        _label_point(axis, _short(points.rows[row]), one[row], two[row])


def _label_point(axis: Axes, text: str, start: Any, end: Any) -> None:
    """Write a token beside its second point: away from the first one, but not out of the axes."""
    low, high = axis.get_xlim()
    place = (end[0] - low) / (high - low)
    right = place < 0.3 or (place < 0.7 and end[0] >= start[0])
    up = end[1] >= start[1]
    axis.annotate(
        text,
        tuple(end),
        xytext=(7 if right else -7, 7 if up else -7),
        textcoords="offset points",
        ha="left" if right else "right",
        va="bottom" if up else "top",
        fontsize=7,
        parse_math=False,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
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


def _short(label: str) -> str:
    """A label on one line, its middle left out where it is long."""
    line = " ".join(label.split()) or repr(label)
    return line if len(line) <= _LABEL else f"{line[: _LABEL // 2]}…{line[-_LABEL // 2 :]}"


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
