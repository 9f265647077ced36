"""What `pytorch_model.bin` files hold, without reading their weights: names, dtypes, shapes.

They become a folder of safetensors files in which nothing but the headers is written.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, UnsupportedModelError
from ..files.safetensors_reader import INDEX_FILE, TensorInfo
from ..files.torch_dtypes import TORCH_DTYPES
from .side_files import side_files

# What torch raises about a file that it does not read.
_UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError),
    *(AttributeError, TypeError),
)
_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()} | {
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.bool: "BOOL",
}

SameBytes = Callable[[TensorInfo, TensorInfo], bool]


def unpickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped where its form allows it. Code in a pickle is not run."""
    try:
        content: Any = torch.load(
            file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
        )
    except _UNREADABLE as exc:
        raise CheckpointError(
            f"{file} is damaged, or holds more than tensors, which is not read since it can run "
            "code. Download it again, or convert it once with model.save_pretrained(folder), which "
            "writes safetensors."
        ) from exc
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise CheckpointError(f"{file} holds no tensors by name. Give the weights of a model.")
    return {str(name): tensor for name, tensor in content.items()}


def write_headers(folder: Path, files: Sequence[Path], target: Path) -> SameBytes:
    """Write what a folder of such files would be as safetensors, with holes for the numbers.

    Returns what compares two of its tensors, by the numbers in the original files.
    """
    tensors: dict[str, Tensor] = {}
    weight_map: dict[str, str] = {}
    for number, file in enumerate(files, 1):
        own, name = unpickled(file), f"model-{number:05d}-of-{len(files):05d}.safetensors"
        _write_header(own, target / name)
        tensors |= own
        weight_map |= dict.fromkeys(own, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (target / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    side_files(folder, ()).copy_to(target)
    return lambda first, second: torch.equal(tensors[first.name], tensors[second.name])


def _write_header(tensors: dict[str, Tensor], path: Path) -> None:
    entries, end = {}, 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise UnsupportedModelError(f"{name} is of dtype {tensor.dtype}, which is not read.")
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
