"""Tokens of both prompts on the two directions in which they vary most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ...uncertainty import Floats
from .canvas import COLOURS, PLAIN, Style, entitle, grid, short

_ROUNDING = 1e-6  # a direction with less than this of the largest is rounding of float32
# Where texts go beside points, so that they hide neither points nor each other; in inches.
_SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
_GAPS = (0.11, 0.3, 0.5)  # between a point and its text
_HALF = 0.06  # of a point's marker
_FAR = 0.5  # what a farther place costs, in points hidden
_OUTSIDE, _TEXT = 100.0, 10.0  # out of the panel, over another text: as much as so many points
_LOOKS = ((COLOURS[0], "o", "first prompt"), (COLOURS[1], "^", "second prompt"))
_NAMED = 8  # tokens written beside their points
_SMALL = 7  # points, of text in a panel
_MARGIN = 0.85, 0.75  # inches of a panel beside its axes


@dataclass(frozen=True)
class Points:
    """The tokens of both prompts in one layer, before projection."""

    title: str
    first: Any  # (tokens, units), aligned
    second: Any
    rows: Sequence[str]  # text of each pair of tokens
    edited: Sequence[bool] = ()  # which of them differ between the prompts


def pca(
    points: Sequence[Points],
    style: Style = PLAIN,
    *,
    highlight: bool = True,
    title: str = "",
    note: str = "",
) -> Figure:
    """Tokens of both prompts on the two directions in which they vary most, aligned ones joined."""
    figure, axes = grid(style, len(points), (3.8, 3.6), (2.0, 0.6))
    for each, axis in zip(points, axes, strict=True):
        _draw_points(axis, each, highlight, _panel_inches(figure, axis))
    if axes:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=_SMALL, loc="outside right center")
    own = "each panel has directions and a scale of its own" if len(axes) > 1 else ""
    entitle(figure, style.title or title, "; ".join(filter(None, (own, note))))
    return figure


def project(first: Any, second: Any) -> tuple[Any, Any]:
    """Principal components of both prompts' tokens together.

    Of (M, U) each: coordinates (2 M, 2) of the first prompt's tokens and then the second's, and the
    shares of the variance (2,) that the two directions explain; zeros where nothing varies.
    """
    both = np.concatenate([np.asarray(first, np.float64), np.asarray(second, np.float64)])
    centred = both - both.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    sizes[sizes <= _ROUNDING * sizes.max(initial=0)] = 0
    left, sizes = np.pad(left, ((0, 0), (0, 1))), np.pad(sizes, (0, 1))  # a single unit has one
    return left[:, :2] * sizes[:2], np.square(sizes[:2]) / (np.square(sizes).sum() or 1.0)


def _draw_points(axis: Axes, points: Points, highlight: bool, inches: tuple[float, float]) -> None:
    look: dict[str, Any]
    coordinates, shares = project(points.first, points.second)
    half = len(coordinates) // 2
    one, two = coordinates[:half], coordinates[half:]
    joined = LineCollection(list(np.stack([one, two], axis=1)), colors="#bbbbbb", linewidths=0.8)
    axis.add_collection(joined, autolim=False)
    for each, colour, marker, name in ((one, *_LOOKS[0]), (two, *_LOOKS[1])):
        look = {"color": colour, "marker": marker, "label": name}
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
    distances = np.linalg.norm(one - two, axis=1)
    named = sorted(edited, key=lambda i: -distances[i]) or np.argsort(-distances)[:3].tolist()
    _label_points(axis, coordinates, [half + i for i in named[:_NAMED]], inches, points.rows)


def _panel_inches(figure: Figure, axis: Axes) -> tuple[float, float]:
    """About how wide and high a panel will be; only drawing the figure would tell."""
    place = axis.get_subplotspec()
    assert place is not None
    rows, columns = place.get_gridspec().get_geometry()
    sizes = zip(figure.get_size_inches(), (columns, rows), _MARGIN, strict=True)
    width, height = (max(float(size) / count - margin, 0.5) for size, count, margin in sizes)
    return width, height


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
    texts = [short(rows[anchor - len(coordinates) // 2]) for anchor in anchors]
    sizes = [text_size(text, _SMALL) for text in texts]
    labels = place_labels(places, anchors, sizes, inches)
    for text, anchor, label in zip(texts, anchors, labels, strict=True):
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


class Label(NamedTuple):
    """A text beside a point."""

    side: tuple[int, int]  # -1, 0 or 1 each: where it lies of the point, to the right and above
    gap: float  # how far from it

    @property
    def far(self) -> bool:
        """Whether only a line would say which point it belongs to."""
        return self.gap > _GAPS[0]


def text_size(text: str, points: float) -> tuple[float, float]:
    """About how wide and high a text is in a font of so many points."""
    width = sum(0.62 if ord(character) < 0x1100 else 1.05 for character in text)
    return width * points / 72, 1.35 * points / 72


def place_labels(
    points: Floats, anchors: Sequence[int], sizes: Sequence[tuple[float, float]], panel: Any
) -> list[Label]:
    """Give each text the place where it hides least, one after the other.

    `points` (N, 2) are all that are drawn, from the lower left corner of a panel of so much width
    and height; `anchors` have a text, of such sizes. Of equally good places the first is taken.
    """
    candidates = [Label(side, gap) for gap in _GAPS for side in _SIDES]
    sides = np.array([each.side for each in candidates])
    gaps = np.array([[each.gap] for each in candidates])
    far = _FAR * np.repeat(range(len(_GAPS)), len(_SIDES))
    taken: list[tuple[Floats, Floats]] = []
    labels = []
    for anchor, size in zip(anchors, np.array(sizes), strict=True):
        low = points[anchor] + sides * gaps - size * (1 - sides) / 2  # (candidates, 2)
        high = low + size
        beside = (points > low[:, None] - _HALF) & (points < high[:, None] + _HALF)
        hidden = beside.all(axis=2).sum(axis=1)
        over = sum(((low < top) & (bottom < high)).all(axis=1) for bottom, top in taken)
        outside = ((low < 0) | (high > panel)).any(axis=1)
        best = int(np.argmin(hidden + far + _TEXT * over + _OUTSIDE * outside))
        taken.append((low[best], high[best]))
        labels.append(candidates[best])
    return labels
