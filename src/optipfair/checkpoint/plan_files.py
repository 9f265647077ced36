"""A plan on disk: its JSON, and beside it the tensors that replace cut ones, if there are any.

`p.json` has them in `p.<digest of the plan>.safetensors`; the digest is in that file's header too,
with the SHA-256 of the tensors, so that a file that was changed or damaged is told.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import ArgumentError, CheckpointError
from ..files.safetensors_reader import read_header
from ..pruning.calibration.holding import Key, ReplacedTensors, Replacements, shape_of
from ..pruning.cut.plan import PruningPlan
from ..spill import Spilled
from .stored_rows import TORCH_DTYPES

_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_DIGEST, _CONTENT = "plan", "sha256"  # keys in the header's metadata
_CHUNK = 1 << 20
_WAY_OUT = "Copy it again, or decide anew with --save-plan (save_plan)"


def save_plan(path: Path, plan: PruningPlan, replacements: Replacements) -> None:
    """Write a plan, and its replaced tensors beside it; a file appears only when complete.

    Raises:
        OSError: the disk is full or fails; then there is no new file.
    """
    side = side_file(path, plan)
    if needs_replacements(plan):
        with _appearing(side) as file:
            _write_tensors(file, plan, replacements)
    try:
        with _appearing(path) as file:
            file.write(f"{plan.to_json()}\n".encode())
    except BaseException:
        side.unlink(missing_ok=True)
        raise


def side_file(path: Path, plan: PruningPlan) -> Path:
    """Where the replaced tensors of a plan lie."""
    return path.with_name(f"{path.stem}.{plan.digest}.safetensors")


def needs_replacements(plan: PruningPlan) -> bool:
    """Whether a plan alone does not say all that is to be done."""
    return bool(plan.request.get("compensate")) and bool(plan.width_cuts or _blocks(plan))


def _blocks(plan: PruningPlan) -> set[tuple[int, str]]:
    """Layer and MLP of what is fitted to removed blocks, as a plan records it.

    Raises:
        ArgumentError: the record is not as it was written.
    """
    try:
        blocks = plan.request.get("replaced_blocks") or ()
        return {(block["layer"], block["mlp"]) for block in blocks}
    except (TypeError, KeyError) as exc:
        raise ArgumentError(
            f"The plan's replaced_blocks are not as they were written ({exc!r}). {_WAY_OUT}."
        ) from exc


def load_replacements(plan: PruningPlan, path: Path | None) -> Replacements:
    """Find the replaced tensors of a plan, by its digest; they are read when they are needed.

    Args:
        plan: the plan.
        path: the file that it comes from, None if from none.

    Raises:
        ArgumentError: it needs such tensors, and they are not there or not its own.
    """
    if not needs_replacements(plan):
        return {}
    if path is None:
        raise ArgumentError(
            "In this plan what stays makes up for what goes, by tensors that a PruningPlan does "
            "not hold. Give the file that save_plan wrote, with the .safetensors file beside it."
        )
    named = side_file(path, plan)
    others = sorted(path.parent.glob(f"*.{plan.digest}.safetensors"))
    found = next((each for each in [named, *others] if each.is_file()), None)
    if found is None:
        raise ArgumentError(
            f"In the plan {path} what stays makes up for what goes, by the tensors in "
            f"{named.name}, which is not beside it. Put it there, or decide anew with --save-plan "
            '(save_plan). With "compensate": false in the plan, the rest is only removed.'
        )
    return _opened(found, plan)


def _opened(path: Path, plan: PruningPlan) -> ReplacedTensors:
    try:
        infos = read_header(path)
        places = {
            _key(name): Spilled(info.start, info.shape, TORCH_DTYPES[info.dtype])
            for name, info in infos.items()
        }
        metadata = _metadata(path)
        content = _content(path)
    except CheckpointError as exc:
        raise ArgumentError(f"{path} does not hold the tensors of a plan: {exc}") from exc
    except (OSError, ValueError, KeyError) as exc:
        raise ArgumentError(
            f"{path} does not hold the tensors of a plan ({exc}). {_WAY_OUT}."
        ) from exc
    digest = metadata.get(_DIGEST)
    if digest != plan.digest:
        raise ArgumentError(
            f"{path} holds the tensors of another plan ({digest}; this one is {plan.digest}). Give "
            "the plan that they belong to, or decide anew with --save-plan (save_plan)."
        )
    if metadata.get(_CONTENT) != content or not _are_of(places, plan):
        raise ArgumentError(f"{path} is not as it was written. {_WAY_OUT}.")
    return ReplacedTensors.in_file(path, places)


def _are_of(keys: Iterable[Key], plan: PruningPlan) -> bool:
    """Whether these are all tensors that a plan needs; not every removed block needs one."""
    found = {key[:2] for key in keys}
    cuts = {(cut.layer, cut.mlp) for cut in plan.width_cuts}
    return cuts <= found <= cuts | _blocks(plan)


def _content(path: Path) -> str:
    """SHA-256 of what follows the header."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(int.from_bytes(file.read(8), "little"), os.SEEK_CUR)
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _metadata(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        found: dict[str, Any] = json.loads(file.read(length)).get("__metadata__", {})
    return found


def _key(name: str) -> Key:
    layer, mlp, tensor = name.split("/", 2)
    return int(layer), mlp, tensor


def _write_tensors(file: BinaryIO, plan: PruningPlan, replacements: Replacements) -> None:
    """A safetensors file, one tensor in memory at a time; its checksum is filled in at the end."""
    content = hashlib.sha256()
    metadata = {"format": "pt", _DIGEST: plan.digest, _CONTENT: content.hexdigest()}
    entries: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for key in replacements:
        place = Spilled(position, shape_of(replacements, key), _dtype_of(replacements, key))
        position += place.nbytes
        entries["/".join(map(str, key))] = {
            "dtype": _NAMES[place.dtype],
            "shape": list(place.shape),
            "data_offsets": [place.offset, position],
        }
    file.write(_header(entries))
    for key in replacements:
        chunk = _bytes_of(replacements[key])
        content.update(chunk)
        file.write(chunk)
    metadata[_CONTENT] = content.hexdigest()
    file.seek(0)
    file.write(_header(entries))


def _header(entries: Mapping[str, object]) -> bytes:
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _dtype_of(replacements: Replacements, key: Key) -> torch.dtype:
    if isinstance(replacements, ReplacedTensors):
        return replacements.dtype_of(key)
    return replacements[key].dtype


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


@contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """A file under a temporary name, which takes its place when the block ends well."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
