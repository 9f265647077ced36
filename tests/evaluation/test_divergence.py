from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from optipfair.errors import ArgumentError
from optipfair.evaluation.measures import jensen_shannon, softmax, total_variation

WEIGHTS = arrays(np.float64, 5, elements=st.floats(0, 100)).filter(lambda w: w.sum() > 1e-3)


@given(WEIGHTS, WEIGHTS)
def test_both_are_symmetric_bounded_and_zero_for_the_same(p: np.ndarray, q: np.ndarray) -> None:
    for distance in (jensen_shannon, total_variation):
        assert 0 <= distance(p, q) <= 1 + 1e-12
        assert distance(p, q) == distance(q, p)
        assert distance(p, p) == 0
        assert distance(p, 3 * q) == pytest.approx(float(distance(p, q)), abs=1e-12)


@given(WEIGHTS, WEIGHTS)
def test_total_variation_bounds_the_divergence(p: np.ndarray, q: np.ndarray) -> None:
    """JS <= TV in bits (Lin 1991, theorem 3), and TV^2 / (2 ln 2) <= JS by Pinsker."""
    js, tv = float(jensen_shannon(p, q)), float(total_variation(p, q))
    assert tv**2 / (2 * math.log(2)) - 1e-9 <= js <= tv + 1e-9


def test_rows_are_compared_one_by_one() -> None:
    p, q = np.array([[1, 0], [0.5, 0.5]]), np.array([[0, 1], [0.5, 0.5]])
    np.testing.assert_allclose(jensen_shannon(p, q), [1, 0])
    np.testing.assert_allclose(total_variation(p, q), [1, 0])


def test_smallest_weights_do_no_harm() -> None:
    assert jensen_shannon([5e-324, 1], [0, 1]) == 0
    assert math.isnan(jensen_shannon([math.nan, 1], [0, 1]))


@given(arrays(np.float64, 4, elements=st.floats(-700, 700)), st.floats(-50, 50))
def test_softmax_is_a_distribution_whatever_is_added(logs: np.ndarray, shift: float) -> None:
    assert softmax(logs).sum() == pytest.approx(1)
    np.testing.assert_allclose(softmax(logs + shift), softmax(logs), atol=1e-9)


def test_softmax_of_impossible_words() -> None:
    np.testing.assert_array_equal(softmax([-math.inf, 0.0]), [0, 1])
    assert np.isnan(softmax([-math.inf, -math.inf])).all()


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ([1, 2], [1, 2, 3], "shapes"),
        ([], [], "shapes"),
        (1.0, 1.0, "shapes"),
        ([-1, 2], [1, 2], "negative"),
        ([math.inf, 2], [1, 2], "infinite"),
        ([0, 0], [1, 2], "are 0"),
    ],
)
def test_what_is_no_distribution_is_refused(p: object, q: object, expected: str) -> None:
    for distance in (jensen_shannon, total_variation):
        with pytest.raises(ArgumentError, match=expected):
            distance(p, q)
