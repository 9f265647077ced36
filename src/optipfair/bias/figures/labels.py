"""Where texts beside points go, so that they hide neither points nor each other.

Geometry in inches; it knows no figures. Axes: `N` points, (x, y) each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
_GAPS = (0.11, 0.3, 0.5)  # between a point and its text
_HALF = 0.06  # of a point's marker
_FAR = 0.5  # what a farther place costs, in points hidden
_OUTSIDE, _TEXT = 100.0, 10.0  # out of the panel, over another text: as much as so many points


class Label(NamedTuple):
    """A text beside a point.

    Attributes:
        side: -1, 0 or 1 each: where it lies of the point, to the right and above.
        gap: how far from it.
    """

    side: tuple[int, int]
    gap: float

    @property
    def far(self) -> bool:
        """Whether only a line would say which point it belongs to."""
        return self.gap > _GAPS[0]


def text_size(text: str, points: float) -> tuple[float, float]:
    """About how wide and high a text is in a font of so many points."""
    width = sum(0.62 if ord(character) < 0x1100 else 1.05 for character in text)
    return width * points / 72, 1.35 * points / 72


def place_labels(
    points: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    anchors: Sequence[int],
    sizes: Sequence[tuple[float, float]],
    panel: tuple[float, float],
) -> list[Label]:
    """Give each text the place where it hides least, one after the other.

    `points` (N, 2) are all that are drawn, from the lower left corner of a panel of so much width
    and height; `anchors` have a text, of such sizes. Of equally good places the first is taken.
    """
    candidates = [Label(side, gap) for gap in _GAPS for side in _SIDES]
    taken: list[tuple[float, float, float, float]] = []
    found = []
    for anchor, size in zip(anchors, sizes, strict=True):
        boxes = [_box(points[anchor], size, each) for each in candidates]
        costs = [
            _cost(box, points, taken, panel) + _FAR * _GAPS.index(each.gap)
            for box, each in zip(boxes, candidates, strict=True)
        ]
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        found.append(candidates[best])
    return found


def _box(
    point: np.ndarray[tuple[int, ...], np.dtype[np.float64]], size: tuple[float, float], at: Label
) -> tuple[float, float, float, float]:
    """Left, bottom, right, top."""
    low = [
        float(place) + side * at.gap - length * (1 - side) / 2
        for place, length, side in zip(point, size, at.side, strict=True)
    ]
    return low[0], low[1], low[0] + size[0], low[1] + size[1]


def _cost(
    box: tuple[float, float, float, float],
    points: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    taken: Sequence[tuple[float, float, float, float]],
    panel: tuple[float, float],
) -> float:
    left, bottom, right, top = box
    x, y = points.T
    hidden = (x > left - _HALF) & (x < right + _HALF) & (y > bottom - _HALF) & (y < top + _HALF)
    over = sum(
        left < other[2] and other[0] < right and bottom < other[3] and other[1] < top
        for other in taken
    )
    outside = left < 0 or bottom < 0 or right > panel[0] or top > panel[1]
    return float(hidden.sum()) + _TEXT * over + _OUTSIDE * outside
