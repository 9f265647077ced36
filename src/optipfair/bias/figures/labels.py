"""Where texts beside points go, so that they hide neither points nor each other.

Geometry in inches; it knows no figures. Axes: `N` points, (x, y) each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...uncertainty import Floats

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
