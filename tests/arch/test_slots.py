"""The axis arithmetic: whatever the layout, neurons are read, taken and zeroed alike."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optipfair.arch.slots import read, take, width, zero_
from optipfair.arch.spec import TensorSlot


@st.composite
def stored_tensors(draw: st.DrawFn) -> tuple[Tensor, TensorSlot, list[int]]:
    """A matrix of distinct non-zero values in any layout, its slot, and some of its neurons."""
    neurons, hidden = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    blocks, axis = draw(st.integers(1, 2)), draw(st.integers(0, 1))
    shape = [hidden, hidden]
    shape[axis] = blocks * neurons
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    tensor = torch.arange(1, shape[0] * shape[1] + 1, dtype=dtype).reshape(shape)
    chosen = draw(st.lists(st.integers(0, neurons - 1), unique=True).map(sorted))
    return tensor, TensorSlot("w", "gate+up" if blocks == 2 else "up", axis, blocks), chosen


@given(stored_tensors())
def test_taking_keeps_the_rows_of_the_kept_neurons(
    case: tuple[Tensor, TensorSlot, list[int]],
) -> None:
    tensor, slot, keep = case
    taken = take(tensor, slot, torch.tensor(keep, dtype=torch.int64))
    assert width(taken, slot) == len(keep)
    for role, matrix in read(tensor, slot).items():
        assert torch.equal(read(taken, slot)[role], matrix[keep])
    assert taken.dtype == tensor.dtype


@given(stored_tensors())
def test_zeroing_touches_only_the_dropped_neurons(
    case: tuple[Tensor, TensorSlot, list[int]],
) -> None:
    tensor, slot, drop = case
    zeroed = tensor.clone()
    zero_(zeroed, slot, torch.tensor(drop, dtype=torch.int64))
    for role, matrix in read(tensor, slot).items():
        expected = matrix.clone()
        expected[drop] = 0
        assert torch.equal(read(zeroed, slot)[role], expected)


@given(stored_tensors())
def test_reading_gives_a_row_for_each_neuron_in_order(
    case: tuple[Tensor, TensorSlot, list[int]],
) -> None:
    tensor, slot, _ = case
    matrices = read(tensor, slot)
    assert list(matrices) == slot.role.split("+")
    stacked = torch.cat(list(matrices.values()))  # (blocks * I, H)
    assert torch.equal(stacked, tensor if slot.axis == 0 else tensor.T)


def test_reading_makes_no_copy() -> None:
    tensor = torch.ones(6, 3)
    gate = read(tensor, TensorSlot("w", "gate+up", 0, 2))["gate"]
    gate.zero_()
    assert tensor[:3].sum() == 0


def test_each_expert_keeps_its_own_neurons() -> None:
    tensor = torch.arange(2 * 8 * 3).reshape(2, 8, 3)  # (E, 2 * I, H)
    slot = TensorSlot("experts", "gate+up", 1, 2)
    taken = take(tensor, slot, torch.tensor([[0, 3], [1, 2]]))
    inner = replace(slot, axis=0)
    assert torch.equal(taken[0], take(tensor[0], inner, torch.tensor([0, 3])))
    assert torch.equal(taken[1], tensor[1][[1, 2, 5, 6]])


def test_a_bias_is_cut_in_each_of_its_blocks() -> None:
    slot = TensorSlot("b", "bias", 0, 2)
    assert take(torch.arange(6), slot, torch.tensor([0, 2])).tolist() == [0, 2, 3, 5]


@st.composite
def tensors_of_units(draw: st.DrawFn) -> tuple[Tensor, TensorSlot, int]:
    """A matrix in which each unit has some rows in each of one to three parts."""
    parts = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    units, axis = draw(st.integers(1, 5)), draw(st.integers(0, 1))
    shape = [4, 4]
    shape[axis] = units * sum(parts)
    roles = {1: "query", 2: "gate+up", 3: "query+key+value"}
    slot = TensorSlot("w", roles[len(parts)], axis, len(parts), parts=parts)  # type: ignore[arg-type]
    return torch.arange(1.0, shape[0] * shape[1] + 1).reshape(shape), slot, units


@given(tensors_of_units(), st.data())
def test_units_keep_their_rows_of_each_part(
    case: tuple[Tensor, TensorSlot, int], data: st.DataObject
) -> None:
    tensor, slot, units = case
    keep = data.draw(st.lists(st.integers(0, units - 1), unique=True).map(sorted))
    taken, zeroed = take(tensor, slot, torch.tensor(keep, dtype=torch.int64)), tensor.clone()
    zero_(zeroed, slot, torch.tensor(keep, dtype=torch.int64))
    assert (width(tensor, slot), width(taken, slot)) == (units, len(keep))
    for (role, matrix), rows in zip(read(tensor, slot).items(), slot.parts, strict=True):
        by_unit = matrix.reshape(units, rows, 4)
        assert torch.equal(read(taken, slot)[role], by_unit[keep].reshape(-1, 4))
        by_unit = by_unit.clone()
        by_unit[keep] = 0
        assert torch.equal(read(zeroed, slot)[role].reshape(units, rows, 4), by_unit)
