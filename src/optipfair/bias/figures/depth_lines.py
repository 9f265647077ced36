"""Several models by relative depth, a line for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from .canvas import COLOURS, PLAIN, Style, entitle
from .layer_lines import Line, component_grid, finish_components


def layer_profile(
    profiles: Mapping[str, Mapping[str, Line]],
    style: Style = PLAIN,
    *,
    title: str = "Difference over relative depth",
    ylabel: str = "relative difference",
) -> Figure:
    """Several models (or categories), one line each, a panel per component."""
    components = list(dict.fromkeys(c for lines in profiles.values() for c in lines))
    figure, axes = component_grid(style, len(components))
    for axis, component in zip(axes, components, strict=True):
        for number, (name, lines) in enumerate(profiles.items()):
            if component not in lines:
                continue
            line = lines[component]
            look: dict[str, Any] = {
                "color": COLOURS[number % len(COLOURS)],
                "linestyle": ("-", "--", ":", "-.")[number % 4],
            }
            axis.plot(line.layers, line.values, label=name, **look)
            if line.band is not None:
                axis.fill_between(line.layers, *line.band, color=look["color"], alpha=0.15)
        axis.set_title(component, fontsize=9)
    if any(axis.dataLim.y0 < 0 for axis in axes):
        for axis in axes:
            axis.axhline(0, color="black", linewidth=0.8)
    finish_components(figure, axes, "relative depth, 0 first layer, 1 last", ylabel)
    entitle(figure, style.title or title)
    return figure
