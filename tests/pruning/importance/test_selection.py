"""Which units stay and go: pure functions, by property."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optipfair import ArgumentError, UnknownNameError, select_layers_to_remove
from optipfair.checking import check_layer_indices
from optipfair.pruning.importance.selection import select_neurons
from optipfair.pruning.layers.strategies import LAYER_STRATEGIES

# Few distinct values, so that ties are common.
score_lists = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=30)
BY_COUNT = [
    name
    for name in LAYER_STRATEGIES
    if LAYER_STRATEGIES[name].needs == "nothing" and name != "custom"
]


@given(score_lists, st.data())
def test_kept_neurons_are_sorted_distinct_in_range_and_as_many_as_asked(
    scores: list[float], data: st.DataObject
) -> None:
    kept = data.draw(st.integers(1, len(scores)))
    keep = select_neurons(torch.tensor(scores), kept).tolist()
    assert keep == sorted(set(keep))
    assert len(keep) == kept
    assert set(keep) <= set(range(len(scores)))


@given(score_lists, st.data())
def test_the_highest_scores_stay_and_ties_go_to_the_lower_index(
    scores: list[float], data: st.DataObject
) -> None:
    kept = data.draw(st.integers(1, len(scores)))
    by_rank = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    assert select_neurons(torch.tensor(scores), kept).tolist() == sorted(by_rank[:kept])


def test_experts_choose_apart() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [3.0, 1.0, 2.0]])
    assert select_neurons(scores, 2).tolist() == [[1, 2], [0, 2]]


@given(st.integers(2, 100), st.data())
def test_layer_strategies_give_sorted_distinct_layers_of_the_exact_count(
    total: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, total - 1))
    for method in BY_COUNT:
        drop = select_layers_to_remove(total, count, method)
        assert drop == sorted(set(drop))
        assert len(drop) == count
        assert set(drop) <= set(range(total))


def test_last_and_first_take_the_ends() -> None:
    assert select_layers_to_remove(30, 3, "last") == [27, 28, 29]
    assert select_layers_to_remove(30, 3, "first") == [0, 1, 2]


@given(st.integers(2, 60), st.data())
def test_custom_layers_come_back_sorted(total: int, data: st.DataObject) -> None:
    chosen = st.sets(st.integers(0, total - 1), min_size=1, max_size=total - 1)
    indices = data.draw(chosen.flatmap(lambda drop: st.permutations(sorted(drop))))
    assert select_layers_to_remove(total, len(indices), "custom", indices) == sorted(indices)


@given(
    st.integers(-3, 40),
    st.one_of(st.integers(max_value=0), st.integers(40), st.floats(), st.booleans(), st.text()),
    st.sampled_from(["last", "first"]),
)
def test_impossible_layer_counts_are_refused(total: int, count: object, method: str) -> None:
    with pytest.raises(ArgumentError):
        select_layers_to_remove(total, count, method)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((30, 40, "last"), r"num_layers_to_remove=40.*1 to 29"),
        ((30, 30, "last"), r"1 to 29"),
        ((30, 0, "last"), r"1 to 29"),
        ((30, 2.0, "last"), "no whole number"),
        ((30, True, "last"), "no whole number"),
        ((1, 1, "last"), "one layer"),
        ((30, 2, "lasst"), "Did you mean 'last'"),
        ((30, 2, "custom"), "needs the indices"),
        ((30, 2, "custom", [1]), r"1 layers.*says 2"),
        ((30, 2, "custom", [1, 30]), r"\[30\].*30 layers"),
        ((30, 2, "custom", [1, -1]), r"\[-1\]"),
        ((30, 2, "custom", [1, 1]), "more than once"),
        ((30, 2, "custom", []), "empty"),
        ((2, 1, "custom", [0, 1]), "all 2 layers"),
        ((30, 2, "last", [1, 2]), "excludes"),
    ],
)
def test_requests_that_do_not_fit_are_refused(arguments: tuple[object, ...], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        select_layers_to_remove(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [None, 3, ["last"], "lasst"], ids=str)
def test_an_unknown_strategy_lists_the_known_ones(method: object) -> None:
    with pytest.raises(UnknownNameError, match="Available: custom, first, last"):
        select_layers_to_remove(4, 1, method)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "indices",
    [[3, 1], (3, 1), range(1, 4, 2), np.array([3, 1]), torch.tensor([3, 1]), {1, 3},
     [np.int64(3), np.int32(1)]],
    ids=repr,
)  # fmt: skip
def test_any_sequence_of_integers_names_layers(indices: object) -> None:
    assert check_layer_indices("layer_indices", indices, 4) == [1, 3]


@pytest.mark.parametrize(
    "indices",
    [[True, 2], [1.0], ["1"], "12", b"12", 3, [None], np.array([True, False]), np.array([1.0]),
     torch.tensor([True]), [[1]]],
    ids=repr,
)  # fmt: skip
def test_what_is_no_sequence_of_integers_is_refused(indices: object) -> None:
    with pytest.raises(ArgumentError, match=r"no whole number|no sequence"):
        check_layer_indices("layer_indices", indices, 4)
