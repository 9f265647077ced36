"""The heatmap of one prompt: tokens by bins of units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .canvas import Style, entitle, grid, short

_ROWS = 40  # more than this cannot be read


def prompt_heatmap(
    values: Any,
    tokens: Sequence[str],
    style: Style,
    *,
    title: str,
    bin_size: int,
    percentile: float,
) -> Figure:
    """Mean |activation| of bins (tokens, bins); colours end at a percentile of all of them.

    Of a long prompt the last tokens are drawn, and the title says so.
    """
    limit = float(np.percentile(values, percentile)) or 1.0
    if len(tokens) > _ROWS:
        title = f"{title}\n(the last {_ROWS} of {len(tokens)} tokens)"
        values, tokens = values[-_ROWS:], tokens[-_ROWS:]
    longest = max(len(short(token)) for token in tokens)
    size = 1.0 + 0.07 * longest + max(2.5, 0.11 * values.shape[1]), 1.0 + 0.2 * len(tokens)
    figure, (axis,) = grid(style, 1, size, (1.5, 0.7))
    image = axis.imshow(
        values, cmap=style.cmap, vmin=0, vmax=limit, aspect="auto", interpolation="nearest"
    )
    axis.set_yticks(range(len(tokens)), [short(token) for token in tokens], fontsize=7)
    for label in axis.get_yticklabels():
        label.set_parse_math(False)
    bins = values.shape[1]
    axis.set_xticks([round(place) for place in np.linspace(0, bins - 1, min(bins, 5))])
    axis.set_xlabel(f"bins of {bin_size} units", fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    beyond = bool((np.asarray(values) > limit).any())
    bar = figure.colorbar(image, ax=axis, shrink=0.8, extend="max" if beyond else "neither")
    bar.set_label("mean |activation|", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    entitle(figure, style.title or title)
    return figure
