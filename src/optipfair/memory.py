"""How much memory is free, as far as the system says, and a file for tensors that are too many."""

from __future__ import annotations

import os
import tempfile
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MEMINFO = Path("/proc/meminfo")
_LIMIT = Path("/sys/fs/cgroup/memory.max")
_USED = Path("/sys/fs/cgroup/memory.current")


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a device, None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    known = stated_bytes(_MEMINFO, "MemAvailable"), _below_limit()
    return min((free for free in known if free is not None), default=None)


def stated_bytes(file: Path, field: str) -> int | None:
    """What a file below /proc says of a field, in kB there; None where it does not."""
    with suppress(OSError, ValueError):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None


def _below_limit() -> int | None:
    """What the process's group may still take; what it has of files' pages counts as taken."""
    with suppress(OSError, ValueError):  # no such group, or no limit ("max")
        limit = int(_LIMIT.read_text(encoding="utf-8"))
        return max(limit - int(_USED.read_text(encoding="utf-8")), 0)
    return None


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

    Writing is by offset, so that a full disk is an error; reading maps only what is read.
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
