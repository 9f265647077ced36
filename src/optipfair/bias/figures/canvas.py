"""What all figures share: style, panels in rows, titles, shortened labels.

Figures know numbers and labels only. Nothing is registered with pyplot, so no window opens and
nothing has to be closed. Colours: Okabe and Ito's, which colour-blind people tell apart, each with
a marker or a dash of its own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...errors import ArgumentError, UnknownNameError
from ...registry import unknown_name

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#777777")
_LABEL = 32  # characters of a token's label
_TITLE_LINES = 4


@dataclass(frozen=True)
class Style:
    """What a caller may change of every figure."""

    figsize: tuple[float, float] | None = None  # inches; None for what fits
    dpi: int = 120  # of raster formats
    cmap: str = "RdBu_r"  # of heatmaps
    title: str | None = None  # in the place of the figure's own

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Style:
        """Refuse what cannot be drawn."""
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


PLAIN = Style()


def grid(
    style: Style,
    count: int,
    panel: tuple[float, float],
    margin: tuple[float, float],
    *,
    across: int = 4,
    share: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Panels in rows of at most so many, which may share their axes; sizes in inches."""
    columns = max(1, min(count, across))
    rows = max(1, -(-count // columns))
    figure = style.figure(margin[0] + columns * panel[0], margin[1] + rows * panel[1])
    panels = figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False).flat
    for axis in panels[count:]:
        axis.set_visible(False)
    return figure, list(panels[:count])


def entitle(figure: Figure, title: str, note: str = "") -> None:
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


def short(label: str, most: int = _LABEL) -> str:
    """A label on one line, its middle left out where it is long."""
    line = " ".join(label.split()) or repr(label)
    return line if len(line) <= most else f"{line[: most // 2]}…{line[-most // 2 :]}"


def _is_size(given: object) -> bool:
    sides = list(given) if isinstance(given, Iterable) else []
    return len(sides) == 2 and all(isinstance(x, int | float) and 0 < x <= 100 for x in sides)
