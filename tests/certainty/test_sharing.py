"""What items share, and how much less they say."""

from __future__ import annotations

import numpy as np
import pytest

from optipfair.certainty.sharing import sharing_of


def test_items_of_one_label_fall_into_clusters() -> None:
    shared = sharing_of(["a", "b", "a", "c"])
    assert shared.one_way and not shared.independent
    assert shared.components.tolist() == [0, 1, 0, 2]
    assert shared.clusters() == 3
    assert sharing_of([1, 2, 3]).independent


def test_items_are_connected_through_others() -> None:
    shared = sharing_of([frozenset("ab"), frozenset("bc"), frozenset("d"), frozenset("ce")])
    assert shared.components.tolist() == [0, 0, 1, 0]
    assert not shared.one_way


def test_the_effective_number_counts_pairs_that_share() -> None:
    """a-b and b-c share b, d alone: 3 + 2 ordered pairs of 9."""
    shared = sharing_of([frozenset("ab"), frozenset("bc"), frozenset("d")])
    assert shared.effective(np.ones(3)) == pytest.approx(9 / 5)
    assert shared.clusters() == 1
    even = sharing_of([frozenset({f"w{n % 5}", f"alone {n}"}) for n in range(20)])
    assert even.clusters() == 5


def test_the_variance_adds_the_products_of_items_that_share() -> None:
    """Errors 1, 2, -3; the first two share: (1 + 4 + 9 + 2 * 2) * n / (n - 1), n = 9 / 5."""
    errors = np.array([1.0, 2.0, -3.0])
    shared = sharing_of([frozenset("ab"), frozenset("bc"), frozenset("d")])
    freedom = max(1.0, 9 / 5 - 1)
    assert shared.variance(errors) == pytest.approx(18 * (freedom + 1) / freedom)
    clusters = sharing_of(["x", "x", "y"])
    assert clusters.variance(errors) == pytest.approx(2 * (3**2 + 3**2))


def test_opposite_errors_of_sharing_items_gain_no_certainty() -> None:
    shared = sharing_of([frozenset({"a", str(n)}) for n in range(2)] * 1)
    assert shared.variance(np.array([1.0, -1.0])) >= 2.0


def test_items_that_say_the_same_count_once_by_cluster() -> None:
    labels = [n // 4 for n in range(40)]
    values, weights = np.repeat(np.arange(10) % 2, 4).astype(float), np.ones(40)
    count = sharing_of(labels).effective_count(values, weights, 0.25)
    assert 5 < count < 10  # ten, less what so few tell of their variance
    assert sharing_of(range(40)).effective_count(values, weights, 0.25) == 40
    assert sharing_of(labels).effective_count(np.ones(40), weights, 0.0) == 10
    some = sharing_of(labels).taken(np.arange(40) < 8)
    assert some.clusters() == 2
