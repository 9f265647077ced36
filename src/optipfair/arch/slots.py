"""The only axis arithmetic: the neurons of a stored tensor, read, taken or zeroed by slot.

Axes: `H` hidden, `I` intermediate (neurons), `E` experts, `k` kept neurons.
A kept set is a sorted index tensor of shape (k,), or (E, k) where each expert keeps its own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .spec import TensorSlot

_CHUNK_ROWS = 64


def width(tensor: Tensor, slot: TensorSlot) -> int:
    """Number of neurons `I` along the slot's axis."""
    return (int(tensor.shape[slot.axis]) - slot.tail) // slot.rows


def read(tensor: Tensor, slot: TensorSlot) -> dict[str, Tensor]:
    """Return the slot's matrices by role, each a view of shape (I, H), or (E, I, H) for experts.

    A fused `gate+up` tensor gives two entries, any other role one. Biases are not read. Where a
    neuron is a unit of several rows, all of them are there, unit by unit.
    """
    matrix = tensor.movedim(slot.axis, -2)  # (.., blocks * I, H)
    if slot.parts:
        sizes = [part * width(tensor, slot) for part in slot.parts]
        parts = torch.split(matrix, sizes, dim=-2)
    elif slot.interleaved:
        parts = tuple(matrix[..., block :: slot.blocks, :] for block in range(slot.blocks))
    else:
        parts = matrix.chunk(slot.blocks, dim=-2)
    return dict(zip(slot.role.split("+"), parts, strict=True))


def take(tensor: Tensor, slot: TensorSlot, keep: Tensor) -> Tensor:
    """Return a new tensor with only the neurons `keep`: sorted, (k,), or (E, k) of experts."""
    if keep.dim() == 2:  # one set for each expert
        inner = replace(slot, axis=slot.axis - 1)
        shape = list(tensor.shape)
        shape[slot.axis] = slot.blocks * keep.shape[1]
        out = tensor.new_empty(shape)
        for expert, kept in enumerate(keep):
            out[expert] = take(tensor[expert], inner, kept)
        return out
    index = _stored_index(tensor, slot, keep)
    if slot.tail:
        size = tensor.shape[slot.axis]
        index = torch.cat([index, torch.arange(size - slot.tail, size, device=index.device)])
    is_half = tensor.is_floating_point() and tensor.element_size() == 2
    if slot.axis == 1 and tensor.dim() == 2 and is_half and tensor.device.type == "cpu":
        return _take_half_columns(tensor, index)
    return tensor.index_select(slot.axis, index)


def _take_half_columns(tensor: Tensor, index: Tensor) -> Tensor:
    """Columns of a 16-bit matrix on CPU, through float32, which is exact both ways.

    index_select along the last axis takes 27 ms for 2048 x 8192 bfloat16; in float32 chunks that
    stay in the cache it takes 8 ms.
    """
    out = tensor.new_empty(tensor.shape[0], len(index))
    wide = torch.empty(_CHUNK_ROWS, tensor.shape[1], dtype=torch.float32)
    narrow = torch.empty(_CHUNK_ROWS, len(index), dtype=torch.float32)
    for rows, cut in zip(
        torch.split(tensor, _CHUNK_ROWS), torch.split(out, _CHUNK_ROWS), strict=True
    ):
        size = len(rows)
        wide[:size].copy_(rows)
        cut.copy_(torch.index_select(wide[:size], 1, index, out=narrow[:size]))
    return out


def zero_(tensor: Tensor, slot: TensorSlot, drop: Tensor) -> None:
    """Set the neurons in `drop`, (n,), to zero, in place (in every expert, where there are)."""
    tensor.index_fill_(slot.axis, _stored_index(tensor, slot, drop), 0)


def _stored_index(tensor: Tensor, slot: TensorSlot, neurons: Tensor) -> Tensor:
    """Neuron numbers → positions along the stored axis, repeated for each block."""
    neurons = neurons.to(tensor.device)
    if slot.parts:
        size, starts = width(tensor, slot), [sum(slot.parts[:i]) for i in range(len(slot.parts))]
        pairs = zip(slot.parts, starts, strict=True)
        return torch.cat([size * start + rows_of(neurons, part) for part, start in pairs])
    if slot.interleaved:
        first = neurons * slot.blocks
        return torch.stack([first + block for block in range(slot.blocks)], dim=1).flatten()
    size = width(tensor, slot)
    return torch.cat([neurons + block * size for block in range(slot.blocks)])


def rows_of(units: Tensor, rows: int) -> Tensor:
    """The rows of units that take so many each: (n,) → (n * rows,)."""
    return (units[:, None] * rows + torch.arange(rows, device=units.device)).flatten()
