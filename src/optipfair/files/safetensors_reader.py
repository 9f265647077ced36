"""What a safetensors checkpoint holds, from its headers alone: names, dtypes, shapes, places.

Nothing is unpickled and no tensor is read. Without torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checking import is_file
from ..errors import CheckpointError
from .foreign import read_json, reading

SINGLE_FILE = "model.safetensors"
_HEADS = ("lm_head", "embed_out", "output_layer")
INDEX_FILE = "model.safetensors.index.json"
_PICKLED_FILE = "pytorch_model.bin"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_MAX_HEADER_BYTES = 100 * 2**20  # the limit of the safetensors format itself

_AT_ONCE = 2**22  # bytes that are compared

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


FileState = tuple[int, int, int, int]  # device, inode, size, time of the last change


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint: what it is and where its bytes lie (offsets in the file)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a folder, by name, and what its files were when it was opened."""

    folder: Path
    tensors: dict[str, TensorInfo]
    files: dict[str, FileState]

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def file_bytes(self) -> int:
        """Of all weight files, headers included."""
        return sum(file.stat().st_size for file in {info.file for info in self.tensors.values()})

    @property
    def dtypes(self) -> list[str]:
        """All types of its tensors, sorted."""
        return sorted({tensor.dtype for tensor in self.tensors.values()})

    def check_unchanged(self) -> None:
        """Refuse a folder whose files are no longer those that were opened."""
        now = _states(self.folder)
        other = sorted(name for name in self.files if now.get(name) != self.files[name])
        if other:
            raise CheckpointError(
                f"{self.folder} changed during the run ({', '.join(other[:3])}), so what was read "
                "may be a mixture of two models. Run it again once the files stay as they are."
            )


def read_config(folder: Path) -> dict[str, Any]:
    """Return the folder's `config.json`."""
    path = folder / "config.json"
    if not path.is_file():
        empty = folder.is_dir() and not any(folder.iterdir())
        what = "is empty" if empty else "holds no config.json"
        raise CheckpointError(
            f"{folder} {what}. Give the folder of a model in transformers format, as "
            "save_pretrained writes it."
        )
    with reading(path, CheckpointError, "Restore or download it."):
        config = read_json(path, constants=True)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{path} names no model_type. Restore or download it.")
    return config


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read and check all headers of a folder's weights."""
    index, single, files = folder / INDEX_FILE, folder / SINGLE_FILE, _states(folder)
    if single.is_file():  # before the index, as transformers does
        return Checkpoint(folder, read_header(single), files)
    if index.is_file():
        return Checkpoint(folder, _read_sharded(folder, index), files)
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{folder} holds pickled weights only ({', '.join(pickled[:3])}), which are not read: "
            "they can run code. Convert them once with model.save_pretrained(folder), which "
            "writes safetensors."
        )
    raise CheckpointError(
        f"{folder} holds no weights: neither {SINGLE_FILE} nor {INDEX_FILE} is there. "
        "Download the model completely."
    )


def _states(folder: Path) -> dict[str, FileState]:
    states = {}
    for path in folder.iterdir():
        with suppress(OSError):  # a link that leads nowhere
            if path.is_file():
                state = path.stat()
                states[path.name] = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    return states


def pickled_files(folder: Path) -> list[Path]:
    """The `pytorch_model.bin` files of a folder without safetensors, if there are any."""
    if any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
        return []
    single, index = folder / _PICKLED_FILE, folder / f"{_PICKLED_FILE}.index.json"
    if single.is_file() or not index.is_file():
        return [single] if single.is_file() else []
    return [folder / name for name in _shards_of(folder, _weight_map(index))]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read the header of one safetensors file and check it against the file's size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(_damaged(path, "its header is cut off"))
        text = file.read(length)
    with reading(f"{path} is damaged: its header", CheckpointError, "Download it again."):
        entries = json.loads(text, object_pairs_hook=_without_duplicates)
        beside = entries.pop("__metadata__", {})
        if not isinstance(beside, dict) or not all(isinstance(x, str) for x in beside.values()):
            raise TypeError("__metadata__ is no table of texts")
        tensors = {name: _tensor(name, entry, path, 8 + length) for name, entry in entries.items()}
    _check_offsets(path, tensors, 8 + length, size)
    return tensors


def read_into(path: Path, start: int, buffer: memoryview) -> None:
    """Fill a buffer with the bytes of a file from `start` on.

    By offset, not by mapping: mapped pages would count as this process's memory.
    """
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        done = 0
        while done < len(buffer):
            count = file.readinto(buffer[done:])
            if not count:
                raise CheckpointError(_damaged(path, f"it ends before byte {start + len(buffer)}"))
            done += count


def same_bytes(first: TensorInfo, second: TensorInfo) -> bool:
    """Whether two tensors are the same, bit for bit."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    for done in range(0, first.nbytes, _AT_ONCE):
        size = min(_AT_ONCE, first.nbytes - done)
        parts = []
        for info in (first, second):
            part = bytearray(size)
            read_into(info.file, info.start + done, memoryview(part))
            parts.append(part)
        if parts[0] != parts[1]:
            return False
    return True


def _tensor(name: str, entry: dict[str, Any], path: Path, data_start: int) -> TensorInfo:
    start, end = entry["data_offsets"]
    if entry["dtype"] not in [*DTYPE_BITS]:
        raise TypeError(f"{name} has the dtype {entry['dtype']!r}, which safetensors has not")
    shape = tuple(entry["shape"])
    for number in (start, end, *shape):
        if type(number) is not int or number < 0:
            raise TypeError(f"{name} has {number!r} where a size or a place belongs")
    name.encode()  # half a character cannot be written again
    return TensorInfo(name, entry["dtype"], shape, path, data_start + start, data_start + end)


def _check_offsets(path: Path, tensors: dict[str, TensorInfo], start: int, size: int) -> None:
    position = start
    for tensor in sorted(tensors.values(), key=lambda each: each.start):
        if 8 * tensor.nbytes != tensor.numel * DTYPE_BITS[tensor.dtype]:
            raise CheckpointError(
                _damaged(path, f"{tensor.name} takes {tensor.nbytes} bytes, which its shape is not")
            )
        if tensor.start != position:
            raise CheckpointError(_damaged(path, f"{tensor.name} does not follow its predecessor"))
        position = tensor.end
    if position != size:
        raise CheckpointError(
            _damaged(path, f"its tensors end at byte {position}, the file at {size}")
        )


def _read_sharded(folder: Path, index: Path) -> dict[str, TensorInfo]:
    weight_map = _weight_map(index)
    shards = {file: read_header(folder / file) for file in _shards_of(folder, weight_map)}
    absent = [name for name, file in weight_map.items() if name not in shards[file]]
    if absent:
        raise CheckpointError(_damaged(index, f"{absent[0]} is not in {weight_map[absent[0]]}"))
    named = {name: shards[file][name] for name, file in weight_map.items()}
    # What a file holds beside what the index says of it is loaded too, by transformers as here.
    return {name: info for shard in shards.values() for name, info in shard.items()} | named


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor → file, as an index says."""
    with reading(f"{index} is damaged: it", CheckpointError, "Download it again."):
        weight_map: dict[str, str] = read_json(index)["weight_map"]
    named = isinstance(weight_map, dict) and weight_map
    if not named or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(_damaged(index, "its weight_map names no file for each tensor"))
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file or len(file.encode(errors="replace")) > 255:
            where = f"it points outside the folder ({file[:200]!r})"
            raise CheckpointError(_damaged(index, where))
    return weight_map


def _shards_of(folder: Path, weight_map: dict[str, str]) -> list[str]:
    """The files that an index names, which are all there."""
    files = sorted(set(weight_map.values()))
    for file in files:
        if not is_file(folder / file):
            raise CheckpointError(f"{folder} lacks the shard {file} that its index names.")
    return files


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{repeated} is there twice")
    return found


def _damaged(path: Path, reason: str) -> str:
    return f"{path} is damaged: {reason}. Download or write it again."


def incomplete(where: object, missing: Sequence[str], more: str = "") -> CheckpointError:
    """The error about tensors that a model's files lack, which would be filled with noise."""
    listed = ", ".join(missing[:3])
    if all(name.split(".")[0] in _HEADS for name in missing):
        return CheckpointError(
            f"{where} has no output head ({listed}), so it is no language model: it was saved "
            "without, as embedding models are. Give the model that it was made from."
        )
    return CheckpointError(
        f"{where} lacks {len(missing)} tensors of its model{more} ({listed}), so they would be "
        "random. Download it again."
    )
