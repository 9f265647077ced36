"""Optimal brain surgeon, by hand and against trying every removal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optipfair.pruning.importance.selection import (
    _SHRINKAGE,
    elimination_order,
    unit_elimination_order,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def second_moments(tokens: Tensor) -> Tensor:
    return tokens.T @ tokens


def loss_without(weight: Tensor, moments: Tensor, gone: list[int]) -> float:
    """What is lost without some inputs when the others, solved anew, make up for them."""
    shrunk = moments + _SHRINKAGE * moments.diagonal().mean() * torch.eye(len(moments))
    stay = [index for index in range(len(moments)) if index not in gone]
    wanted = (weight @ shrunk)[:, stay]
    best = torch.linalg.solve(shrunk[stay][:, stay], wanted.T).T
    return float((weight @ shrunk * weight).sum() - (best * wanted).sum())


def test_of_independent_inputs_the_one_that_adds_least_goes_first() -> None:
    # Shrinkage adds 0.01 * (9 + 1) / 2 = 0.05. What an input adds is w^2 times its power:
    # 1 * 9.05 = 9.05 and 4 * 1.05 = 4.2, so the second goes, though its weight is larger.
    order = elimination_order(torch.tensor([[1.0, 2.0]]), torch.diag(torch.tensor([9.0, 1.0])), 1)
    assert order.tolist() == [1]


def test_of_two_equal_inputs_one_goes_first_and_the_other_takes_over() -> None:
    # x0 = x1 with weights of 10, x2 apart from them with 2; shrinkage adds 0.01.
    # [H^-1]_00 of [[1.01, 1], [1, 1.01]] is 1.01 / 0.0201 = 50.2: 100 / 50.2 = 2.0, and
    # 4 * 1.01 = 4.04 for x2, so one of the twins goes. The other's weight is then
    # 10 + 10 / 1.01 = 19.9, its score 400: next goes x2.
    moments = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    first, second = elimination_order(torch.tensor([[10.0, 10.0, 2.0]]), moments, 2).tolist()
    assert first in (0, 1)
    assert second == 2


def test_an_input_that_two_others_sum_up_to_goes_before_a_small_one() -> None:
    x = normal(200, 3)
    tokens = torch.cat([x, (x[:, 0] + x[:, 1])[:, None]], dim=1)
    weight = torch.tensor([[5.0, 5.0, 3.0, 5.0]])
    order = elimination_order(weight, second_moments(tokens), 1)
    assert order.item() in (0, 1, 3)  # any of the three is the others' sum or difference


def test_nothing_is_removed_where_nothing_is_asked() -> None:
    order = elimination_order(normal(2, 3), second_moments(normal(9, 3)), 0)
    assert order.shape == (0,)
    assert order.dtype == torch.int64


def test_inputs_that_are_never_active_go_first() -> None:
    tokens = normal(50, 6)
    tokens[:, [1, 4]] = 0
    order = elimination_order(normal(3, 6, seed=1), second_moments(tokens), 3).tolist()
    assert set(order[:2]) == {1, 4}


def test_without_any_activity_the_order_is_still_one() -> None:
    order = elimination_order(normal(3, 5), torch.zeros(5, 5), 4).tolist()
    assert len(set(order)) == 4


def test_what_was_given_is_left_as_it_was() -> None:
    weight, moments = normal(3, 6), second_moments(normal(20, 6, seed=1))
    before = weight.clone(), moments.clone()
    elimination_order(weight, moments, 4)
    assert torch.equal(weight, before[0])
    assert torch.equal(moments, before[1])


@pytest.mark.parametrize("seed", range(8))
def test_each_removal_is_the_one_that_costs_least_of_all(seed: int) -> None:
    """Against trying all: the inputs that went are the context of the next removal."""
    weight, tokens = normal(4, 7, seed=seed), normal(30, 7, seed=seed + 100)
    moments = second_moments(tokens @ normal(7, 7, seed=seed + 200))
    gone: list[int] = []
    for index in elimination_order(weight, moments, 6).tolist():
        costs = {i: loss_without(weight, moments, [*gone, i]) for i in range(7) if i not in gone}
        assert costs[index] == pytest.approx(min(costs.values()))
        gone.append(index)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e6])
def test_the_scale_of_the_activations_does_not_matter(scale: float) -> None:
    weight, moments = normal(4, 9), second_moments(normal(30, 9, seed=1))
    expected = elimination_order(weight, moments, 8)
    assert torch.equal(elimination_order(weight, moments * scale, 8), expected)


@given(width=st.sampled_from([2, 3, 10, 200, 300]), seed=st.integers(0, 20), data=st.data())
def test_fewer_removals_are_the_first_of_more(width: int, seed: int, data: st.DataObject) -> None:
    """At 200 inputs and more several go at a time."""
    count = data.draw(st.integers(1, min(width - 1, 40)))
    fewer = data.draw(st.integers(0, count))
    weight = normal(3, width, seed=seed)
    moments = second_moments(normal(width + 5, width, seed=seed + 1))
    order = elimination_order(weight, moments, count)
    assert torch.equal(elimination_order(weight, moments, fewer), order[:fewer])
    assert len(set(order.tolist())) == count
    assert 0 <= int(order.min()) <= int(order.max()) < width


def columns(units: list[int], size: int) -> list[int]:
    return [unit * size + column for unit in units for column in range(size)]


@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(1, 3))
def test_each_unit_that_goes_is_the_one_whose_loss_is_least(
    seed: int, units: int, size: int
) -> None:
    weight = normal(4, units * size, seed=seed)
    moments = second_moments(normal(40, units * size, seed=seed + 1))
    gone: list[int] = []
    for unit in unit_elimination_order(weight, moments, units - 1, size).tolist():
        losses = {
            each: loss_without(weight, moments, columns([*gone, each], size))
            for each in range(units)
            if each not in gone
        }
        assert losses[unit] <= min(losses.values()) * (1 + 1e-6)
        gone.append(unit)


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(2, 4))
def test_as_many_units_go_from_each_group(seed: int, groups: int, share: int) -> None:
    weight = normal(4, groups * share * 2, seed=seed)
    moments = second_moments(normal(60, groups * share * 2, seed=seed + 1))
    order = unit_elimination_order(weight, moments, groups * (share - 1), 2, groups).tolist()
    assert len(set(order)) == len(order)
    assert [sum(unit // share == group for unit in order) for group in range(groups)] == [
        share - 1
    ] * groups
