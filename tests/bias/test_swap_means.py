"""Means over swaps that share words: right as often as said, by simulation, and by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from optipfair.bias.swap_means import Swap, mean_of_swaps
from optipfair.uncertainty import bootstrap_bounds

STUDIES, CONTROLS, SENTENCES = 4000, 8, 4
APART = {n: [(2 * i, 2 * i + 1) for i in range(n)] for n in (5, 10, 35)}
OF_ONE = {n: [(6 * (i // 5), 6 * (i // 5) + 1 + i % 5) for i in range(n)] for n in (5, 10, 35)}
DESIGNS = {
    **{f"{n} apart": edges for n, edges in APART.items()},
    **{f"{n} of references with five each": edges for n, edges in OF_ONE.items()},
    "10 of five words": list(combinations(range(5), 2)),
}


def null_studies(
    edges: list[tuple[int, int]], noise: float, pool: int, seed: int = 1
) -> tuple[np.ndarray, list[Swap]]:
    """The excess of pairs that are like their controls, (P, STUDIES), every swap in all sentences.

    A value is the sum of its two words' effects, of its sentence and of noise.
    """
    rng = np.random.default_rng(seed)
    used = 1 + max(map(max, edges))
    neutral = [used + rng.permutation(pool)[: 2 * CONTROLS].reshape(-1, 2) for _ in edges]
    effects = rng.normal(size=(used + pool, STUDIES))
    rows, swaps = [], []
    for edge, others in zip(edges, neutral, strict=True):
        loads: dict[int, float] = dict.fromkeys(edge, 1.0)
        for word in others.ravel().tolist():
            loads[word] = loads.get(word, 0.0) - 1 / CONTROLS
        for _ in range(SENTENCES):
            own = effects[list(edge)].sum(axis=0) + noise * rng.normal(size=STUDIES)
            controls = effects[others].sum(axis=1)  # (K, STUDIES)
            controls = controls + noise * rng.normal(size=controls.shape)
            rows.append(own - controls.mean(axis=0))
            swaps.append(Swap(edge, loads))
    return np.stack(rows), swaps


@pytest.mark.parametrize("pool", [40, 1000])  # neutral words that swaps have in common, or hardly
@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize("design", DESIGNS)
def test_where_nothing_is_to_be_found_it_errs_as_seldom_as_it_says(
    design: str, noise: float, pool: int
) -> None:
    found = mean_of_swaps(*null_studies(DESIGNS[design], noise, pool))
    assert found.swaps == len(DESIGNS[design])
    assert found.bounds is not None and found.p_values is not None
    low, high = found.bounds
    assert np.mean(found.p_values <= 0.05) <= 0.07
    assert np.mean((low <= 0) & (high >= 0)) >= 0.92


def test_counting_swaps_by_their_exact_words_errs_where_a_word_is_shared() -> None:
    """What was done before: of seven reference words, it finds something in a third of nothing."""
    values, swaps = null_studies(OF_ONE[35], 0.1, 1000)
    bounds = bootstrap_bounds(values[:, :500], clusters=[swap.label for swap in swaps])
    assert bounds is not None
    assert np.mean((bounds[0] > 0) | (bounds[1] < 0)) > 0.25


@pytest.mark.parametrize("design", ["10 apart", "35 of references with five each"])
def test_a_real_excess_is_found(design: str) -> None:
    values, swaps = null_studies(DESIGNS[design], 0.3, 1000)
    found = mean_of_swaps(values + 2, swaps)
    assert found.p_values is not None
    assert np.mean(found.p_values <= 0.05) > 0.9


def test_swaps_with_words_of_their_own_have_students_interval() -> None:
    values = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])
    found = mean_of_swaps(values, [Swap(i, {f"a{i}": 1, f"b{i}": 1}) for i in range(5)])
    # mean 3, standard deviation sqrt(2.5), over sqrt(5) is sqrt(0.5); t of 4 degrees is 2.776.
    assert found.bounds is not None and found.p_values is not None
    assert found.interval(0) == pytest.approx([3 - 2.7764 * 0.5**0.5, 3 + 2.7764 * 0.5**0.5], 1e-3)
    assert found.p_value(0) == pytest.approx(0.0132, abs=2e-4)  # t = 3 / sqrt(0.5) = 4.243


def test_a_shared_word_is_one_draw() -> None:
    """Five swaps of one reference: its effect is in the mean whole, theirs in fifths: 1 + 1/5."""
    values = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])
    found = mean_of_swaps(values, [Swap(i, {"white": 1, f"b{i}": 1}) for i in range(5)])
    half = 2.7764 * (2.5 * 1.2) ** 0.5
    assert found.interval(0) == pytest.approx([3 - half, 3 + half], 1e-3)


def test_the_same_words_in_many_sentences_count_once() -> None:
    rng = np.random.default_rng(0)
    swaps = [Swap(i, {f"a{i}": 1, f"b{i}": 1}) for i in range(6)]
    values = rng.normal(size=(6, 3))
    once = mean_of_swaps(values, swaps)
    often = mean_of_swaps(np.repeat(values, 7, axis=0), [each for each in swaps for _ in range(7)])
    assert once.bounds is not None and often.bounds is not None
    np.testing.assert_allclose(once.bounds, often.bounds)
    assert often.swaps == 6


def test_the_mean_is_that_of_the_pairs() -> None:
    values = np.array([[0.0], [0.0], [0.0], [4.0]])
    swaps = [Swap("a", {"x": 1}), Swap("a", {"x": 1}), Swap("a", {"x": 1}), Swap("b", {"y": 1})]
    assert mean_of_swaps(values, swaps).mean.tolist() == [1.0]


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (1, "one distinct swap is too few for an interval; 5 are needed"),
        (2, "two distinct swaps are too few for an interval; 5 are needed"),
        (4, "four distinct swaps are too few"),
    ],
)
def test_few_swaps_have_neither_interval_nor_p_value(count: int, reason: str) -> None:
    swaps = [Swap(i % count, {f"a{i % count}": 1}) for i in range(34)]
    found = mean_of_swaps(np.arange(34.0)[:, None], swaps)
    assert found.reason is not None and reason in found.reason
    assert (found.bounds, found.p_values, found.swaps) == (None, None, count)
    assert found.undefined == {"interval": found.reason, "p_value": found.reason}
    assert (found.interval(0), found.p_value(0)) == (None, None)


def test_five_swaps_of_too_few_words_are_too_few() -> None:
    swaps = [Swap(i, {i: 1, (i + 1) % 5: 1}) for i in range(5)]  # in a ring
    found = mean_of_swaps(np.arange(5.0)[:, None], swaps)
    assert found.bounds is None and found.reason is not None
    assert "share so many words that they count as 3.6" in found.reason


def test_one_swap_in_most_sentences_leaves_too_few() -> None:
    swaps = [Swap(max(i - 95, 0), {max(i - 95, 0): 1}) for i in range(100)]
    found = mean_of_swaps(np.arange(100.0)[:, None], swaps)
    assert (found.swaps, found.bounds) == (5, None)


def test_values_that_are_all_equal_are_no_find_at_zero() -> None:
    swaps = [Swap(i, {i: 1}) for i in range(6)]
    found = mean_of_swaps(np.array([[0.0, 0.1 + 0.2 - 0.3, 1.0]] * 6), swaps)
    assert found.p_values is not None
    assert found.p_values == pytest.approx([1.0, 1.0, 0.0])
