"""Lines over the layers, a panel for each component: a pair beside its controls, or two models."""

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
    figure, axes = _component_grid(list(lines), style)
    layers = sorted({layer for line in lines.values() for layer in line.layers})
    for axis, line in zip(axes, lines.values(), strict=True):
        _draw_line(axis, line)
        if len(layers) <= _TICKS:
            axis.set_xticks(layers)
        elif all(isinstance(layer, int) for layer in layers):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylim(bottom=0)  # of all, once all are drawn
    _finish(figure, axes, "layer", "relative difference")
    entitle(figure, style.title or title)
    return figure


def layer_profile(
    profiles: Mapping[str, Mapping[str, Line]], style: Style = PLAIN, *, title: str = ""
) -> Figure:
    """Several models, one line each by relative depth, a panel per component."""
    components = list(dict.fromkeys(c for lines in profiles.values() for c in lines))
    figure, axes = _component_grid(components, style)
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
    _finish(figure, axes, depth, "excess of the relative difference")
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


def _component_grid(components: Sequence[str], style: Style) -> tuple[Figure, list[Axes]]:
    """A panel for each component, on the same axes; the lowest of each column has the ticks."""
    figure, axes = grid(style, len(components), (3.2, 2.4), (1.2, 1.4), across=3, share=True)
    for axis, component in zip(axes, components, strict=True):
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.set_title(component, fontsize=9)
    for axis in axes[-3:]:
        axis.tick_params(labelbottom=True)
    return figure, axes


def _finish(figure: Figure, axes: Sequence[Axes], xlabel: str, ylabel: str) -> None:
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
