"""What stands at the head of a `.gguf` file: its metadata, and the names and shapes of its tensors.

The format is that of ggml's `docs/gguf.md`, versions 2 and 3, little-endian. No tensor is read.
Without torch.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import CheckpointError
from .foreign import reading

_VERSIONS = (2, 3)
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_TEXT, _ARRAY = 8, 9
_MOST = 2**20  # fields, tensors, or bytes of a name: no real file comes near
_KEPT = 4096  # numbers of an array; longer ones are vocabularies


@dataclass(frozen=True)
class GgufTensor:
    """A tensor: its shape as torch has it, its ggml type, and where its bytes begin in the file."""

    shape: tuple[int, ...]
    kind: int
    start: int


@dataclass(frozen=True)
class GgufHeader:
    """The head of a file. Arrays of text, which are vocabularies, are left out of the metadata."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def fields(self) -> dict[str, Any]:
        """The metadata of the architecture, without its name before them."""
        head = f"{self.architecture}."
        return {k.removeprefix(head): v for k, v in self.metadata.items() if k.startswith(head)}

    def floats(self, name: str) -> list[float]:
        """The numbers of a small float32 tensor."""
        tensor = self.tensors[name]
        if tensor.kind != 0 or len(tensor.shape) != 1 or tensor.shape[0] > _KEPT:
            raise CheckpointError(f"{self.path}: {name} is no short list of float32 numbers.")
        with self.path.open("rb") as file:
            file.seek(tensor.start)
            data = file.read(4 * tensor.shape[0])
        return [float(each) for each in np.frombuffer(data, dtype="<f4")]


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the head of a `.gguf` file; one that is cut off or breaks the format is refused."""
    with (
        reading(f"{path} is damaged: its header", CheckpointError, "Download it again."),
        path.open("rb") as file,
    ):
        return _Reader(path, file).header()


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._size = path.stat().st_size

    def header(self) -> GgufHeader:
        if self._file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version, tensors, fields = self._unpack("IQQ")
        if version not in _VERSIONS:
            raise ValueError(f"it is of version {version}, not 2 or 3")
        if max(tensors, fields) > _MOST:
            raise ValueError(f"it counts {tensors} tensors and {fields} fields")
        metadata = {}
        for _ in range(fields):
            name = self._text()
            value = self._value(*self._unpack("I"))
            if value is not None:
                metadata[name] = value
        table = [self._tensor() for _ in range(tensors)]
        alignment = int(metadata.get("general.alignment", 32))
        if alignment < 1:
            raise ValueError(f"its alignment is {alignment}")
        data = -(-self._file.tell() // alignment) * alignment
        for name, shape, _, at in table:
            if max(math.prod(shape) // 8, data + at) > self._size:  # a weight takes a bit or more
                raise ValueError(f"{name} is larger than the file")
        placed = {name: GgufTensor(shape, kind, data + at) for name, shape, kind, at in table}
        if len(placed) != len(table):
            raise ValueError("it names a tensor twice")
        return GgufHeader(self._path, metadata, placed)

    def _unpack(self, form: str) -> tuple[Any, ...]:
        form = f"<{form}"
        return struct.unpack(form, self._file.read(struct.calcsize(form)))

    def _text(self) -> str:
        (length,) = self._unpack("Q")
        if length > _MOST:
            raise ValueError(f"a text of {length} bytes")
        data = self._file.read(length)
        if len(data) < length:
            raise ValueError("it is cut off")
        return data.decode("utf-8")

    def _value(self, kind: int) -> Any:
        """A value; None for texts in an array and for long arrays."""
        if kind in _SCALARS:
            value = self._unpack(_SCALARS[kind])[0]
            if not math.isfinite(value):
                raise ValueError(f"a value that is {value}")
            return value
        if kind == _TEXT:
            return self._text_of_any_length()
        if kind != _ARRAY:
            raise ValueError(f"a value of type {kind}")
        inner, count = self._unpack("IQ")
        if inner == _TEXT:
            for _ in range(count):
                self._skip(self._unpack("Q")[0])
            return None
        if inner not in _SCALARS:
            raise ValueError(f"an array of type {inner}")
        if count > _KEPT:
            return self._skip(count * struct.calcsize(_SCALARS[inner]))
        return list(self._unpack(f"{count}{_SCALARS[inner]}"))

    def _text_of_any_length(self) -> str:
        """A text that may be a template or a licence; what no header holds is not read."""
        (length,) = self._unpack("Q")
        data = self._file.read(min(length, 64 * _MOST))
        if len(data) < length:
            raise ValueError("it is cut off")
        return data.decode("utf-8", errors="replace")

    def _skip(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            raise ValueError("it is cut off")
        self._file.seek(count, 1)

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        (dimensions,) = self._unpack("I")
        if dimensions > 8:
            raise ValueError(f"{name} has {dimensions} dimensions")
        shape = self._unpack(f"{dimensions}Q")
        kind, start = self._unpack("IQ")
        return name, tuple(reversed(shape)), kind, start
