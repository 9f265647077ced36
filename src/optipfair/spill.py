"""Tensors in a temporary file without a name: it goes with the process, however that ends."""

from __future__ import annotations

import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Spilled:
    """Where a tensor lies in the file, and what it is."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class SpillFile:
    """A file that tensors are appended to, read from and overwritten in.

    Writing is by offset, so that a full disk is an error; reading maps only what is read, for as
    long as it is copied.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._end = 0
        weakref.finalize(self, file.close)

    @classmethod
    def temporary(cls, folder: Path | None = None) -> SpillFile:
        """A new file in a folder, by default in the system's for temporary files."""
        return cls(tempfile.TemporaryFile(dir=folder, buffering=0))

    @classmethod
    def existing(cls, path: Path) -> SpillFile:
        """A file that is there, to read from."""
        return cls(path.open("rb", buffering=0))

    def append(self, tensor: Tensor) -> Spilled:
        """Write a tensor behind the others."""
        place = Spilled(self._end, tuple(tensor.shape), tensor.dtype)
        self.overwrite(place, tensor)
        self._end += place.nbytes
        return place

    def overwrite(self, place: Spilled, tensor: Tensor) -> None:
        """Write a tensor of the same shape and dtype where another one was."""
        assert (tuple(tensor.shape), tensor.dtype) == (place.shape, place.dtype)
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        data, offset = flat.view(torch.uint8).numpy().data, place.offset
        while data:
            done = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[done:], offset + done

    def read(self, place: Spilled) -> Tensor:
        """A tensor of its own, on CPU."""
        data = torch.empty(place.nbytes, dtype=torch.uint8)
        if place.nbytes:
            mapped = np.memmap(self._file, np.uint8, "r", place.offset, (place.nbytes,))
            data.numpy()[:] = mapped
        return data.view(place.dtype).view(place.shape)
