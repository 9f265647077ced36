"""A plan on disk: its JSON, and beside it the tensors that replace cut ones, if there are any.

`p.json` has them in `p.<digest of the plan>.safetensors`; the digest is in that file's header too,
with the SHA-256 of the tensors, so that a file that was changed or damaged is told.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch

from ...errors import ArgumentError, CheckpointError, OutputError
from ...files.filled_folder import filled_folder
from ...files.foreign import read_text
from ...files.safetensors_reader import read_header
from ...files.torch_dtypes import TORCH_DTYPES
from ...files.written_files import FILES
from ...memory import Spilled
from ..calibration.holding import Key, ReplacedTensors, Replacements, peek

if TYPE_CHECKING:
    from .plan import PruningPlan

PLAN_FILE = "pruning_plan.json"  # in the folder of a pruned model
_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_WAY_OUT = "Copy it again, or decide anew with --save-plan (save_plan)"


def write_plan(path: Path, plan: PruningPlan) -> None:
    """Write a plan, and its replaced tensors beside it: both or none, once they are complete."""
    side = side_file(path, plan.digest)

    def check(place: Path) -> None:
        if place.name == path.name:
            check_plan_file(path, type(plan).from_json)
        else:
            _check_side(side, plan.digest)

    check_plan_file(path, type(plan).from_json)
    with filled_folder(path.parent, {"plan": path.name}, check=check, first=side.name) as new:
        if plan.replacements is not None:
            with (new / side.name).open("xb") as file:
                _write_tensors(file, plan.digest, plan.replacements)
        (new / path.name).write_text(f"{plan.to_json()}\n", encoding="utf-8")


def check_plan_file(path: Path, read: Callable[[str], PruningPlan]) -> None:
    """Refuse to write a plan over what `read` reads no plan from; links are not followed."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OutputError(
            f"The plan file {path} is no regular file, so it is never replaced. Give the name of "
            "one."
        )
    if (path.parent / FILES).exists():
        raise OutputError(
            f"The plan file {path} is of the model in that folder, and never overwritten alone. "
            "Give the name of a file elsewhere."
        )
    try:
        read(read_text(path))
    except (ArgumentError, OSError, ValueError) as exc:
        raise OutputError(
            f"The plan file {path} is there and holds no plan, so it is never overwritten. Give "
            "the name of a new file, or of a plan."
        ) from exc


def _check_side(path: Path, digest: str) -> None:
    """Refuse to write tensors over anything but those of the same plan."""
    if not os.path.lexists(path):
        return
    if not path.is_symlink() and path.is_file():
        with suppress(CheckpointError, OSError, ValueError):
            read_header(path)
            with path.open("rb") as file:
                if _metadata(file).get("plan") == digest:
                    return
    raise OutputError(
        f"{path}, where the plan's tensors belong, is there and does not hold them, so it is never "
        "overwritten. Move it away, or give the plan another name."
    )


def side_file(path: Path, digest: str) -> Path:
    """Where the replaced tensors of a plan lie, by the plan's digest."""
    return path.with_name(f"{path.stem}.{digest}.safetensors")


def find_replacements(path: Path, plan: PruningPlan) -> Replacements | None:
    """The replaced tensors of the plan in a file, by its digest; read when they are needed."""
    others = sorted(path.parent.glob(f"*.{plan.digest}.safetensors"))
    files = (each for each in [side_file(path, plan.digest), *others] if each.is_file())
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
        f"{side_file(Path(path), plan.digest).name}, which is not beside it. Put it there, or "
        'decide anew with --save-plan (save_plan). With "compensate": false in the plan, the rest '
        "is only removed."
    )


def _opened(path: Path, plan: PruningPlan) -> Replacements:
    try:
        places = {
            _key(name): Spilled(info.start, info.shape, TORCH_DTYPES[info.dtype])
            for name, info in read_header(path).items()
        }
        with path.open("rb") as file:
            metadata = _metadata(file)
            content = hashlib.file_digest(file, "sha256").hexdigest()
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
    cuts = {cut.key for cut in plan.width_cuts if cut.kept}
    complete = cuts <= of_mlps <= cuts | plan.replaced_blocks  # not every block needs a tensor
    if metadata.get("sha256") != content or not complete:
        raise ArgumentError(f"{path} is not as it was written. {_WAY_OUT}.")
    return ReplacedTensors.in_file(path, places)


def _metadata(file: BinaryIO) -> dict[str, str]:
    """What stands in the header of a safetensors file beside the tensors."""
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    found: dict[str, str] = header.get("__metadata__", {})
    return found


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
