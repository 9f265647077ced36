"""Lines over the layers, a panel for each component: one pair of prompts beside its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import COLOURS, PLAIN, Style, entitle, short

_NAME = 0.07, 0.6  # inches of a character in a legend, and of what stands before it
_TICKS = 6  # layers that are all named on an axis


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


def mean_difference(
    lines: Mapping[str, Line],
    style: Style = PLAIN,
    *,
    title: str = "Difference between the prompts by layer",
    ylabel: str = "relative difference",
    xlabel: str = "layer",
) -> Figure:
    """One panel per component: its line, and behind it the band of the neutral control pairs."""
    figure, axes = component_grid(style, len(lines))
    layers = sorted({layer for line in lines.values() for layer in line.layers})
    for axis, (name, line) in zip(axes, lines.items(), strict=True):
        _draw_line(axis, line)
        if len(layers) <= _TICKS:
            axis.set_xticks(layers)
        elif all(isinstance(layer, int) for layer in layers):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_title(name, fontsize=9)
    figure.axes[0].set_ylim(bottom=0)  # of all, once all are drawn
    finish_components(figure, axes, xlabel, ylabel)
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
        *(line.layers, line.values),
        color=COLOURS[0],
        linestyle="-" if follow else ":",
        linewidth=1.5 if follow else 0.8,
        marker="o",
        markersize=4,
        label="this pair",
    )


def component_grid(style: Style, count: int) -> tuple[Figure, list[Axes]]:
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


def finish_components(figure: Figure, axes: Sequence[Axes], xlabel: str, ylabel: str) -> None:
    """The axes' names, and a legend that hides nothing."""
    for axis in _lowest(axes):
        axis.set_xlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    named: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    most = max(10, int((figure.get_figwidth() - _NAME[1]) / _NAME[0]))
    names = [short(name, most) for name in named]
    figure.legend(list(named.values()), names, fontsize=8, loc="outside lower left")


def _lowest(axes: Sequence[Axes]) -> list[Axes]:
    """The last panel of each column."""
    return list(axes[-3:])
