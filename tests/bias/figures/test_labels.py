"""Texts beside points lie where they hide least, by counting what they hide."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optipfair.bias.figures.pca import Label, place_labels, text_size

PANEL = (3.0, 2.0)
SIZE = (0.6, 0.13)


def box(point: np.ndarray, label: Label, size: tuple[float, float]) -> tuple[float, ...]:
    """Left, right, bottom, top: a text beside a point ends or begins a gap away from it."""
    ends = []
    for place, side, length in zip(point, label.side, size, strict=True):
        start = {1: place + label.gap, 0: place - length / 2, -1: place - label.gap - length}[side]
        ends += [start, start + length]
    return tuple(ends)


def test_a_text_goes_to_the_free_side() -> None:
    """A wall of points on three sides leaves the fourth."""
    middle = np.array([[1.5, 1.0]])
    steps = np.linspace(-1.3, 1.3, 60)
    wall = np.array([[x, y] for x in steps for y in steps if x > -0.05 or abs(y) > 0.15])
    (found,) = place_labels(np.concatenate([middle, middle + wall]), [0], [SIZE], PANEL)
    assert found.side == (-1, 0) and not found.far


@given(st.integers(0, 1000), st.integers(1, 30))
def test_a_single_text_stays_inside_and_hides_no_point_where_one_place_is_free(
    seed: int, count: int
) -> None:
    points = np.random.default_rng(seed).random((count, 2)) * PANEL
    (found,) = place_labels(points, [0], [SIZE], PANEL)
    left, right, low, high = box(points[0], found, SIZE)
    assert left >= 0 and low >= 0 and right <= PANEL[0] and high <= PANEL[1]
    alone = place_labels(points[:1], [0], [SIZE], PANEL)[0]
    hidden = [
        ((points[:, 0] > a) & (points[:, 0] < b) & (points[:, 1] > c) & (points[:, 1] < d)).sum()
        for a, b, c, d in (box(points[0], each, SIZE) for each in (found, alone))
    ]
    assert hidden[0] <= hidden[1] + 1  # nearer places may be worth one point


@given(st.integers(0, 1000), st.integers(2, 6))
def test_texts_of_points_apart_do_not_lie_on_each_other(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    points = np.stack([rng.random(count) * 2.4 + 0.3, np.linspace(0.2, 1.8, count)], axis=1)
    labels = place_labels(points, range(count), [SIZE] * count, PANEL)
    boxes = [box(point, label, SIZE) for point, label in zip(points, labels, strict=True)]
    for i, one in enumerate(boxes):
        for two in boxes[:i]:
            apart = one[0] >= two[1] or two[0] >= one[1] or one[2] >= two[3] or two[2] >= one[3]
            assert apart
    assert labels == place_labels(points, range(count), [SIZE] * count, PANEL)


def test_wide_letters_are_wider() -> None:
    assert text_size("中文", 7)[0] > text_size("ab", 7)[0] > text_size("a", 7)[0]
    assert text_size("a", 14) == tuple(2 * each for each in text_size("a", 7))
