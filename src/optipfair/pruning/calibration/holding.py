"""What a calibration holds meanwhile: hidden states and replaced tensors, in memory or on disk.

Axes: `B` batch, `S` sequence, `H` hidden.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...memory import Spilled, SpillFile, free_bytes

_SHARE = 4  # what is held takes a quarter of the free memory at most

Key = tuple[int, str, str]  # layer, MLP, name of the tensor inside the layer
Replacements = Mapping[Key, Tensor]


@dataclass(frozen=True)
class Holding:
    """Where to hold what a calibration needs meanwhile.

    Hidden states lie on `cpu`, `device` (where the layers run), `disk` (a memory-mapped temporary
    file), or `auto`: the first of device, CPU and disk of whose free memory they take a quarter at
    most. Replaced tensors lie in a temporary file where they are more than so many bytes together,
    by default a quarter of the free memory.
    """

    hidden_states: str = "auto"
    replaced_bytes: int | None = None
    folder: Path | None = None  # of temporary files, None for the system's

    def hidden(self, nbytes: int, device: torch.device) -> HiddenStates:
        """Hold hidden states of `nbytes` in all, which are computed on `device`."""
        place = self.hidden_states
        if place == "auto":
            own, main = (_room(each) for each in (device, torch.device("cpu")))
            place = "cpu" if main is None or nbytes <= main else "disk"
            if device.type != "cpu" and own is not None and nbytes <= own:
                place = "device"
        return HiddenStates(place, self.folder)

    def replaced(self) -> ReplacedTensors:
        """Hold replaced tensors."""
        limit = self.replaced_bytes
        return ReplacedTensors(_room(torch.device("cpu")) if limit is None else limit, self.folder)


def _room(device: torch.device) -> int | None:
    free = free_bytes(device)
    return None if free is None else free // _SHARE


def _value(held: Tensor | Spilled, file: SpillFile | None) -> Tensor:
    if isinstance(held, Tensor):
        return held
    assert file is not None
    return file.read(held)


class HiddenStates:
    """The hidden states of all batches in order, each (B, S, H); used as a list."""

    def __init__(self, place: str = "device", folder: Path | None = None) -> None:
        self.place = place
        self._folder = folder
        self._held: list[Tensor | Spilled] = []
        self._file = SpillFile.temporary(folder) if place == "disk" else None

    def others(self) -> HiddenStates:
        """Room for as many in the same place."""
        return HiddenStates(self.place, self._folder)

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Tensor:
        return _value(self._held[number], self._file)

    def __setitem__(self, number: int, hidden: Tensor) -> None:
        held = self._held[number]
        if isinstance(held, Spilled):
            assert self._file is not None
            self._file.overwrite(held, hidden)
        else:
            self._held[number] = self._in_place(hidden)

    def append(self, hidden: Tensor) -> None:
        self._held.append(self._in_place(hidden))

    def _in_place(self, hidden: Tensor) -> Tensor | Spilled:
        if self._file is not None:
            return self._file.append(hidden)
        return hidden.cpu() if self.place == "cpu" else hidden


class ReplacedTensors(UserDict[Key, Tensor]):
    """Tensors that take the place of cut ones, on CPU; on disk once they are more than a limit."""

    data: dict[Key, Any]  # a tensor, or where it was spilled to

    def __init__(self, limit: int | None = None, folder: Path | None = None) -> None:
        """Hold up to `limit` bytes in memory, any number if None; then spill into `folder`."""
        super().__init__()
        self.limit = limit
        self._folder = folder
        self._file: SpillFile | None = None

    @classmethod
    def in_file(cls, path: Path, places: Mapping[Key, Spilled]) -> ReplacedTensors:
        """Tensors that lie in a file, which is only read."""
        replaced = cls()
        replaced._file = SpillFile.existing(path)
        replaced.data.update(places)
        return replaced

    def peek(self, key: Key) -> Tensor | Spilled:
        """A tensor, or where it lies: either way its shape, dtype and size, without reading it."""
        held: Tensor | Spilled = self.data[key]
        return held

    def __setitem__(self, key: Key, tensor: Tensor) -> None:
        self.data[key] = tensor.cpu()
        if self.limit is None or self.nbytes <= self.limit:
            return
        self._file = self._file or SpillFile.temporary(self._folder)
        for each, held in self.data.items():
            if isinstance(held, Tensor):
                self.data[each] = self._file.append(held)

    def __getitem__(self, key: Key) -> Tensor:
        return _value(self.data[key], self._file)

    @property
    def nbytes(self) -> int:
        """Of all tensors, wherever they are."""
        return sum(held.nbytes for held in self.data.values())


def peek(replacements: Replacements, key: Key) -> Tensor | Spilled:
    """The shape, dtype and size of a replaced tensor, which is not read for it."""
    if isinstance(replacements, ReplacedTensors):
        return replacements.peek(key)
    return replacements[key]
