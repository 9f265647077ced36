"""The summary of a study: the excess by layer, and by category.

It knows numbers and labels only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import COLOURS, PLAIN, Style, entitle, short
from .panels import Line, component_grid, finish

_ROW = 0.42  # inches of a row of the forest plot
_WIDTH = 8.0


@dataclass(frozen=True)
class Row:
    """A category's excess; without an interval the reason stands in its place."""

    name: str
    excess: float
    interval: tuple[float, float] | None
    counts: str  # of what
    reason: str = ""


def by_layer(
    lines: Mapping[str, Line],
    style: Style = PLAIN,
    *,
    title: str = "",
    figure_of: str = "excess of the relative difference",
) -> Figure:
    """One panel per component: a figure over the layers, with the band of its intervals."""
    figure, axes = component_grid(list(lines), style)
    for axis, line in zip(axes, lines.values(), strict=True):
        axis.axhline(0, color="black", linewidth=0.8)
        if line.band is not None:
            look = {"color": COLOURS[0], "alpha": 0.2, "label": "95 % interval, each layer alone"}
            axis.fill_between(line.layers, *line.band, **look)  # type: ignore[arg-type]
        look = {"color": COLOURS[0], "marker": "o", "markersize": 2.5, "label": "mean"}
        axis.plot(line.layers, line.values, linewidth=1.2, **look)  # type: ignore[arg-type]
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    finish(figure, axes, "layer", figure_of)
    entitle(figure, style.title or title)
    return figure


def by_category(rows: Sequence[Row], style: Style = PLAIN, *, title: str = "") -> Figure:
    """A forest plot: each row's excess with its interval, and of how many swaps it is."""
    figure = style.figure(_WIDTH, 1.5 + _ROW * len(rows))
    axis = figure.subplots()
    axis.axvline(0, color="black", linewidth=0.8)
    for place, row in enumerate(rows):
        _draw_row(axis, place, row)
    axis.set_yticks(range(len(rows)), [short(row.name) for row in rows], fontsize=9)
    axis.set_ylim(len(rows) - 0.5, -0.5)  # the first row on top
    axis.margins(x=0.1)
    counts = axis.secondary_yaxis("right")
    counts.set_yticks(range(len(rows)), [row.counts for row in rows], fontsize=8)
    counts.tick_params(length=0)
    for label in (*axis.get_yticklabels(), *counts.get_yticklabels()):
        label.set_parse_math(False)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", alpha=0.3)
    axis.set_xlabel("excess of the relative difference, with its 95 % interval", fontsize=9)
    entitle(figure, style.title or title, _why(rows))
    return figure


def _draw_row(axis: Axes, place: int, row: Row) -> None:
    """A point with its interval; a hollow one where there is none."""
    if row.interval is not None:
        axis.plot(row.interval, [place, place], color=COLOURS[0], linewidth=2)
    filled = COLOURS[0] if row.interval is not None else "white"
    look = {"markeredgecolor": COLOURS[0], "markersize": 7}
    axis.plot(row.excess, place, "o", markerfacecolor=filled, **look)  # type: ignore[arg-type]


def _why(rows: Sequence[Row]) -> str:
    reasons = list(dict.fromkeys(row.reason for row in rows if row.reason))
    return f"hollow: no interval ({'; '.join(reasons)})" if reasons else ""
