"""Panels: lines over the layers, and heatmaps of aligned tokens by the units that differ most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import COLOURS, PLAIN, Style, entitle, grid, short

_NAME = 0.07, 0.6  # inches of a character in a legend, and of what stands before it
_TICKS = 6  # layers that are all named on an axis
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Line:
    """One component over the layers."""

    layers: Sequence[float]  # numbers, or relative depths
    values: Sequence[float]  # one each; NaN leaves a gap
    band: tuple[Sequence[float], Sequence[float]] | None = None  # lowest and highest value each


def mean_difference(lines: Mapping[str, Line], style: Style = PLAIN, *, title: str = "") -> Figure:
    """One panel per component: its line, and behind it the band of the neutral control pairs."""
    figure, axes = component_grid(list(lines), style)
    layers = sorted({layer for line in lines.values() for layer in line.layers})
    for axis, line in zip(axes, lines.values(), strict=True):
        _draw_line(axis, line)
        if len(layers) <= _TICKS:
            axis.set_xticks(layers)
        elif all(isinstance(layer, int) for layer in layers):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylim(bottom=0)  # of all, once all are drawn
    finish(figure, axes, "layer", "relative difference")
    entitle(figure, style.title or title)
    return figure


def layer_profile(
    profiles: Mapping[str, Mapping[str, Line]], style: Style = PLAIN, *, title: str = ""
) -> Figure:
    """Several models, one line each by relative depth, a panel per component."""
    components = list(dict.fromkeys(c for lines in profiles.values() for c in lines))
    figure, axes = component_grid(components, style)
    for number, (name, lines) in enumerate(profiles.items()):
        colour, dashes = COLOURS[number % len(COLOURS)], _DASHES[number % len(_DASHES)]
        for axis, component in zip(axes, components, strict=True):
            if (line := lines.get(component)) is None:
                continue
            axis.plot(line.layers, line.values, label=name, color=colour, linestyle=dashes)
            if line.band is not None:
                axis.fill_between(line.layers, *line.band, color=colour, alpha=0.15)
    if any(axis.dataLim.y0 < 0 for axis in axes):
        for axis in axes:
            axis.axhline(0, color="black", linewidth=0.8)
    depth = "relative depth, 0 first layer, 1 last"
    finish(figure, axes, depth, "excess of the relative difference")
    entitle(figure, style.title or title)
    return figure


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
        line.layers,
        line.values,
        color=COLOURS[0],
        linestyle="-" if follow else ":",
        linewidth=1.5 if follow else 0.8,
        marker="o",
        markersize=4,
        label="this pair",
    )


def component_grid(components: Sequence[str], style: Style) -> tuple[Figure, list[Axes]]:
    """A panel for each component, on the same axes; the lowest of each column has the ticks."""
    figure, axes = grid(style, len(components), (3.2, 2.4), (1.2, 1.4), across=3, share=True)
    for axis, component in zip(axes, components, strict=True):
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.set_title(component, fontsize=9)
    for axis in axes[-3:]:
        axis.tick_params(labelbottom=True)
    return figure, axes


def finish(figure: Figure, axes: Sequence[Axes], xlabel: str, ylabel: str) -> None:
    """The axes' names, and a legend that hides nothing."""
    for axis in axes[-3:]:
        axis.set_xlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    named: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    most = max(10, int((figure.get_figwidth() - _NAME[1]) / _NAME[0]))
    names = [short(name, most) for name in named]
    figure.legend(list(named.values()), names, fontsize=8, loc="outside lower left")


_ROWS, _COLUMNS = 40, 64  # more than this cannot be read
_CLIPPED = 0.99  # the share of the values that the colours tell apart
_FAR_BEYOND = 1.5  # times that, the largest value must be for the colours to end there


@dataclass(frozen=True)
class Panel:
    """One layer's differences."""

    title: str
    values: Any  # (tokens, units)
    rows: Sequence[str]  # text of each row of tokens
    edited: Sequence[bool]  # which rows differ between the prompts
    units: Sequence[int] = ()  # their numbers


def heatmap(
    panels: Sequence[Panel], style: Style = PLAIN, *, title: str = "", note: str = ""
) -> Figure:
    """Aligned tokens by the units that differ most, second prompt minus first, on one scale."""
    drawn = [_readable(panel) for panel in panels]
    limit, largest = _limits(drawn)
    tallest = max((len(panel.rows) for panel in drawn), default=0)
    width = max((panel.values.shape[1] for panel in drawn), default=0)
    longest = max((len(short(row)) for panel in drawn for row in panel.rows), default=0)
    panel_size = 0.7 + 0.07 * longest + max(1.2, 0.055 * width), 0.7 + 0.2 * max(tallest, 12)
    figure, axes = grid(style, len(drawn), panel_size, (1.5, 0.7))
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
    entitle(figure, style.title or title, "; ".join(filter(None, (bold, note))))
    return figure


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
    look = {"aspect": "auto", "interpolation": "nearest"}
    axis.imshow(panel.values, cmap=cmap, vmin=-limit, vmax=limit, **look)  # type: ignore[arg-type]
    axis.set_yticks(range(len(panel.rows)), [short(row) for row in panel.rows], fontsize=7)
    for label, edited in zip(axis.get_yticklabels(), panel.edited, strict=True):
        label.set_parse_math(False)
        label.set_fontweight("bold" if edited else "normal")
    axis.set_title(panel.title, fontsize=8)
    count = panel.values.shape[1]
    shown = [round(place) for place in np.linspace(0, count - 1, min(count, 5))]
    axis.set_xticks(shown, [str(panel.units[i]) for i in shown], fontsize=7)
    axis.set_xlabel("unit", fontsize=8)


def _readable(panel: Panel) -> Panel:
    """The rows and columns that differ most, as many as can be read; the title says so."""
    values = np.asarray(panel.values, np.float64)
    rows = _largest(np.abs(values).mean(axis=1), _ROWS)
    columns = _largest(np.abs(values).max(axis=0, initial=0), _COLUMNS)
    sizes = ((rows, len(values), "tokens"), (columns, values.shape[1], "units"))
    left = [f"{len(kept)} of {count} {what}" for kept, count, what in sizes if len(kept) < count]
    return Panel(
        f"{panel.title}\n({', '.join(left)} that differ most)" if left else panel.title,
        values[np.ix_(rows, columns)],
        [panel.rows[i] for i in rows],
        [panel.edited[i] for i in rows],
        [panel.units[i] if panel.units else i for i in columns],
    )


def _largest(sizes: Any, count: int) -> list[int]:
    """The places of the largest, in their order."""
    return sorted(int(i) for i in np.argsort(-sizes, kind="stable")[:count])
