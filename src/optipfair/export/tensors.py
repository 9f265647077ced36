"""Tensors on their way from a checkpoint to another file: read one at a time, changed, written.

Axes: `I` neurons, `H` hidden, `D` size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UnsupportedModelError
from ..files.safetensors_reader import TensorInfo, read_into
from ..files.safetensors_writer import OutputTensor
from ..files.torch_dtypes import TORCH_DTYPES

STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Made:
    """A tensor to write: what it is made of, and how."""

    name: str  # in the result
    shape: tuple[int, ...]  # of the result
    source: TensorInfo
    change: Change | None = None  # None where the values stay

    def value(self) -> Tensor:
        """Its values, in the dtype of the source."""
        found = read_tensor(self.source)
        return found if self.change is None else self.change(found)


def read_tensor(info: TensorInfo) -> Tensor:
    """A stored tensor, in its own dtype."""
    data = bytearray(info.nbytes)
    if info.nbytes:
        read_into(info.file, info.start, memoryview(data))
        return torch.frombuffer(data, dtype=TORCH_DTYPES[info.dtype]).view(info.shape)
    return torch.empty(info.shape, dtype=TORCH_DTYPES[info.dtype])


def as_output(made: Made, dtype: str) -> OutputTensor:
    """For the writer of safetensors; the dtype is that of all floats, `auto` for their own."""
    is_float = made.source.dtype in TORCH_DTYPES
    stored = STORED[dtype] if is_float and dtype != "auto" else made.source.dtype
    if made.change is None and stored == made.source.dtype:
        return OutputTensor(made.name, stored, made.shape, made.source)

    def chunks() -> Iterator[memoryview]:
        value = in_dtype(made.value(), TORCH_DTYPES[stored], made.name).contiguous()
        yield value.view(-1).view(torch.uint8).numpy().data

    return OutputTensor(made.name, stored, made.shape, made.source, chunks)


def in_dtype(values: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """A tensor in another dtype, which must have room for its values.

    Raises:
        UnsupportedModelError: a finite value would become infinite.
    """
    if values.dtype == dtype:
        return values
    found = values.to(dtype)
    if bool((found.isinf() & values.isfinite()).any()):
        raise UnsupportedModelError(
            f"{name} holds values up to {values.abs().max():.3g}, more than {dtype} does. Give "
            "dtype bfloat16 or float32. Nothing was written."
        )
    return found


def padded(size: int, axis: int) -> Change:
    """Zeros behind the last position of an axis, up to a size: neurons that give nothing."""

    def change(tensor: Tensor) -> Tensor:
        missing = list(tensor.shape)
        missing[axis] = size - tensor.shape[axis]
        return torch.cat([tensor, tensor.new_zeros(missing)], dim=axis)

    return change


def zeros(*shape: int) -> Change:
    """Zeros in the place of whatever is there, in its dtype."""
    return lambda tensor: tensor.new_zeros(shape)


def ones(*shape: int) -> Change:
    """Ones in the place of whatever is there, in its dtype."""
    return lambda tensor: tensor.new_ones(shape)


def halves_interleaved(heads: int) -> Change:
    """Rows of queries or keys as llama.cpp turns them: of each head, its two halves by turns.

    transformers turns position i with i + D/2, llama.cpp's Llama 2 i with 2 i + 1.
    """

    def change(tensor: Tensor) -> Tensor:
        by_head = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return by_head.swapaxes(1, 2).reshape(tensor.shape)

    return change
