"""A plan on disk: its JSON, and beside it the tensors that replace cut ones, if there are any.

`p.json` has them in `p.<digest of the plan>.safetensors`; the digest is in that file's header too,
with the SHA-256 of the tensors, so that a file that was changed or damaged is told.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch

from ...errors import ArgumentError, CheckpointError
from ...files.output_folder import beside
from ...files.safetensors_reader import read_header
from ...files.torch_dtypes import TORCH_DTYPES
from ...memory import Spilled
from ..calibration.holding import Key, ReplacedTensors, Replacements, peek

if TYPE_CHECKING:
    from .plan import PruningPlan

_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_WAY_OUT = "Copy it again, or decide anew with --save-plan (save_plan)"


def write_plan(path: Path, plan: PruningPlan) -> None:
    """Write a plan, and its replaced tensors beside it; a file appears only when complete."""
    side = side_file(path, plan)
    if plan.replacements is not None:
        with _appearing(side) as file:
            _write_tensors(file, plan.digest, plan.replacements)
    try:
        with _appearing(path) as file:
            file.write(f"{plan.to_json()}\n".encode())
    except BaseException:
        side.unlink(missing_ok=True)
        raise


def side_file(path: Path, plan: PruningPlan) -> Path:
    """Where the replaced tensors of a plan lie."""
    return path.with_name(f"{path.stem}.{plan.digest}.safetensors")


def find_replacements(path: Path, plan: PruningPlan) -> Replacements | None:
    """The replaced tensors of the plan in a file, by its digest; read when they are needed."""
    others = sorted(path.parent.glob(f"*.{plan.digest}.safetensors"))
    files = (each for each in [side_file(path, plan), *others] if each.is_file())
    return next((_opened(side, plan) for side in files), None)


def check_complete(plan: PruningPlan, path: str | Path | None = None) -> None:
    """Refuse a plan, from a file or from none, whose replaced tensors are missing."""
    if not plan.lacks_replacements:
        return
    if path is None:
        raise ArgumentError(
            "In this plan what stays makes up for what goes, by tensors that it does not hold. "
            "Give the file that save_plan wrote, with the .safetensors file beside it."
        )
    raise ArgumentError(
        f"In the plan {path} what stays makes up for what goes, by the tensors in "
        f"{side_file(Path(path), plan).name}, which is not beside it. Put it there, or decide anew "
        'with --save-plan (save_plan). With "compensate": false in the plan, the rest is only '
        "removed."
    )


def _opened(path: Path, plan: PruningPlan) -> Replacements:
    try:
        places = {
            _key(name): Spilled(info.start, info.shape, TORCH_DTYPES[info.dtype])
            for name, info in read_header(path).items()
        }
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            content = hashlib.file_digest(file, "sha256").hexdigest()
        metadata = header.get("__metadata__", {})
    except (CheckpointError, OSError, ValueError, KeyError) as exc:
        why = f": {exc}" if isinstance(exc, CheckpointError) else f" ({exc}). {_WAY_OUT}."
        raise ArgumentError(f"{path} does not hold the tensors of a plan{why}") from exc
    if metadata.get("plan") != plan.digest:
        raise ArgumentError(
            f"{path} holds the tensors of another plan ({metadata.get('plan')}; this one is "
            f"{plan.digest}). Give the plan that they belong to, or decide anew with --save-plan "
            "(save_plan)."
        )
    of_mlps = {key[:2] for key in places}
    cuts = {cut.key for cut in plan.width_cuts}
    complete = cuts <= of_mlps <= cuts | plan.replaced_blocks  # not every block needs a tensor
    if metadata.get("sha256") != content or not complete:
        raise ArgumentError(f"{path} is not as it was written. {_WAY_OUT}.")
    return ReplacedTensors.in_file(path, places)


def _key(name: str) -> Key:
    layer, mlp, tensor = name.split("/", 2)
    return int(layer), mlp, tensor


def _write_tensors(file: BinaryIO, digest: str, replacements: Replacements) -> None:
    """A safetensors file, one tensor in memory at a time; its checksum is filled in at the end."""
    content = hashlib.sha256()
    metadata = {"format": "pt", "plan": digest, "sha256": content.hexdigest()}
    entries: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for key in replacements:
        place = peek(replacements, key)
        entries["/".join(map(str, key))] = {
            "dtype": _NAMES[place.dtype],
            "shape": list(place.shape),
            "data_offsets": [position, position + place.nbytes],
        }
        position += place.nbytes
    file.write(_header(entries))
    for key in replacements:
        flat = replacements[key].detach().cpu().contiguous().reshape(-1)
        chunk = flat.view(torch.uint8).numpy().data
        content.update(chunk)
        file.write(chunk)
    metadata["sha256"] = content.hexdigest()
    file.seek(0)
    file.write(_header(entries))


def _header(entries: Mapping[str, object]) -> bytes:
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """A file under a temporary name, which takes its place when the block ends well."""
    temporary = beside(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
