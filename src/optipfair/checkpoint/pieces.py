"""Pieces of stored tensors: where the neurons of an MLP, or the experts of a layer, lie in one.

Axes: `E` experts, `I` neurons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..arch.spec import TensorSlot
from ..arch.view import MLPView
from ..errors import UnsupportedModelError
from ..files.safetensors_reader import DTYPE_BITS, TensorInfo


@dataclass(frozen=True)
class Piece:
    """The neurons of one expert (or of the dense MLP) in one stored tensor."""

    info: TensorInfo  # the tensor
    expert: int  # 0 in a dense MLP
    slot: TensorSlot  # the tensor in memory that it belongs to
    offset: int  # where it begins in the file, in bytes
    shape: tuple[int, ...]  # (rows, columns) or (rows,)
    axis: int  # the one along which the neurons lie
    neurons: NDArray[np.int64]  # for each position along `axis` its `neuron + I * block`, or -1
    stored_axis: int  # the same axis of the tensor as it is stored, where that has more of them

    @property
    def whole(self) -> bool:
        """Whether the tensor holds one unit and nothing else, and stays or goes with it."""
        return self.axis == 0 and len(self.neurons) == 1 and self.shape[0] == 1


def pieces_of(mlp: MLPView, slot: TensorSlot, marks: Tensor, info: TensorInfo) -> list[Piece]:
    """Split a stored tensor by experts, or refuse a form that cannot be cut piece by piece.

    The marks are those of `arch.saved.probe`.
    """
    if mlp.spec.routed:
        return _of_experts(slot, marks, info)
    shape = info.shape
    per_expert = mlp.width * slot.blocks
    stacked = mlp.spec.experts and len(shape) == len(mlp.tensors[slot].shape)
    parts = list(marks) if stacked else [marks]
    inner = shape[1:] if stacked else shape
    size = info.nbytes // len(parts)
    pieces = []
    for number, part in enumerate(parts):
        by_rows = part.dim() == 1 or bool((part == part[:, :1]).all())  # else by columns
        if by_rows and part.dim() == 2 and bool((part == part[:1]).all()):  # one unit, all of it
            by_rows = slot.axis == 0
        axis = 0 if by_rows else 1
        flat = (part if part.dim() == 1 else part.select(1 - axis, 0)).numpy()
        expert = int(flat[0]) // per_expert
        if len(flat) != inner[axis] or np.any(flat // per_expert != expert):
            raise UnsupportedModelError(
                f"{info.name} is stored in a form that cannot be cut by rows."
            )
        start = info.start + number * size
        of_stored = axis + len(shape) - len(inner)
        pieces.append(
            Piece(info, expert, slot, start, tuple(inner), axis, flat % per_expert, of_stored)
        )
    return pieces


def _of_experts(slot: TensorSlot, marks: Tensor, info: TensorInfo) -> list[Piece]:
    """A stored tensor that holds the slices of all experts, or is that of one."""
    numbers, size = marks.numpy(), info.numel
    if numbers.min() == numbers.max() >= 0:
        return [Piece(info, 0, slot, info.start, (1, size), 0, numbers.reshape(-1)[:1], 0)]
    for axis, length in enumerate(info.shape):
        along = np.moveaxis(numbers, axis, 0).reshape(numbers.shape[axis], -1)
        if len(along) == length and bool((along == along[:, :1]).all()) and axis < 2:
            shape = (length, size // length) if axis == 0 else info.shape
            if len(shape) == 2:
                return [Piece(info, 0, slot, info.start, shape, axis, along[:, 0], axis)]
    raise UnsupportedModelError(f"{info.name} is stored in a form that no expert can be cut from.")


def item_size(dtype: str) -> int:
    """Bytes of one element; elements that are no whole bytes, or unknown, are refused."""
    bits = DTYPE_BITS.get(dtype, 0)
    if bits == 0 or bits % 8:
        raise UnsupportedModelError(f"Tensors of dtype {dtype!r} cannot be cut.")
    return bits // 8
