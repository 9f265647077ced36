"""Distances of hidden states: values by hand."""

from __future__ import annotations

import math

import pytest
import torch

from optipfair.recovery.distilling.hidden_terms import (
    cosine_distance,
    derivative_distance,
    trajectory_distance,
)

EAST, NORTH = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])


def test_the_cosine_distance_of_two_directions_by_hand() -> None:
    same, right, opposite = (float(cosine_distance(EAST, x)) for x in (2 * EAST, NORTH, -EAST))
    assert (same, right, opposite) == pytest.approx((0, 1, 2))
    # 45 degrees: 1 - 1/sqrt(2)
    assert float(cosine_distance(EAST, 3 * EAST + NORTH)) == pytest.approx(1 - 1 / math.sqrt(2))


def test_the_trajectory_is_the_mean_over_the_layers() -> None:
    found = trajectory_distance([EAST, EAST], [EAST, NORTH])
    assert found.tolist() == pytest.approx([0.5])


def test_the_derivative_compares_what_changes_between_layers() -> None:
    # student: east, then + north, then + west; teacher: the same changes from another start
    student = [EAST, EAST + NORTH, NORTH]
    teacher = [NORTH, 3 * NORTH, 3 * NORTH - EAST]
    assert derivative_distance(student, teacher).tolist() == pytest.approx([0.0])
    assert derivative_distance(student, [-each for each in teacher]).tolist() == pytest.approx([2])


def test_states_that_do_not_change_give_no_nan() -> None:
    still = [EAST.clone().requires_grad_() for _ in range(2)]
    loss = derivative_distance(still, [EAST, NORTH]).sum()
    loss.backward()
    assert float(loss.detach()) == 1
    assert all(each.grad is not None and bool(each.grad.isfinite().all()) for each in still)


def test_narrow_states_are_compared_in_float32() -> None:
    states = [each.bfloat16() for each in (EAST, NORTH)]
    assert trajectory_distance(states, states).dtype == torch.float32
