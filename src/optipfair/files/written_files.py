"""Which files of a folder a run has written: a folder of such files alone may be replaced.

Each result lists them in `.optipfair.json`, small ones with their SHA-256, large ones with their
size, so that the list holds for a copy of the folder too.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..errors import OutputError

FILES = ".optipfair.json"  # what a run has written into a folder
_SMALL = 1_000_000  # bytes of a file that is known by what it holds
_NO_FILE = -1  # a link, a device, an empty folder

Stamp = int | str  # what a file is known by: its size or its SHA-256

# Without a list of files: what models of other tools and of earlier versions hold.
_OF_A_MODEL = (
    *(
        "config.json",
        "generation_config.json",
        "model*.safetensors",
        "model.safetensors.index.json",
    ),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model"),
    *("chat_template.jinja", "preprocessor_config.json", "processor_config.json", "README.md"),
    *("pruning_plan.json", "recipe.yaml", FILES),
)


def check_replaceable(path: Path, target: Path, overwrite: bool) -> None:
    """Refuse a folder that holds anything that no run has written."""
    if os.path.ismount(target):
        raise OutputError(
            f"The output folder {path} is where a disk is mounted, which cannot be replaced. Give "
            "a folder inside it."
        )
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not (target / "config.json").is_file() and not any(target.glob("*.gguf")):
        raise OutputError(
            f"The output folder {path} is not empty and holds no model (no config.json, no .gguf "
            "file), so it is never overwritten. Give another folder."
        )
    if not overwrite:
        raise OutputError(
            f"The output folder {path} holds a model. Give --overwrite (overwrite=True) to replace "
            "it, or another folder."
        )
    others = _not_ours(target)
    if others:
        raise OutputError(
            f"The output folder {path} holds what no run has written, or what was changed since: "
            f"{', '.join(others[:3])}. Move it away, or give another folder; it is never deleted."
        )
    _check_removable(path, target)


def _check_removable(path: Path, target: Path) -> None:
    """Refuse a folder that this user could not move away and delete."""
    folders = [target, *(Path(each) for each, _, _ in os.walk(target))]
    closed = [each for each in folders if not os.access(each, os.W_OK | os.X_OK)]
    if closed or _is_sticky(target):
        whose = closed[0] if closed else target
        raise OutputError(
            f"The output folder {path} cannot be replaced: {whose} belongs to another user, or may "
            "not be written. Give another folder."
        )


def _is_sticky(target: Path) -> bool:
    """Whether only owners may move what is in the folder around, and this user is none."""
    around, user = target.parent.stat(), getattr(os, "geteuid", lambda: 0)()
    owners = (0, around.st_uid, target.stat().st_uid)
    return bool(around.st_mode & stat.S_ISVTX) and user not in owners


def _not_ours(folder: Path) -> list[str]:
    """What is in a folder but not in its list of files, or not as it stands there."""
    listed = _listed(folder)
    here = entries(folder)
    if listed is None:
        known = [name for name in here if any(fnmatch(name, each) for each in _OF_A_MODEL)]
        return sorted(set(here) - set(known))
    here.pop(FILES, None)
    return sorted(name for name, stamp in here.items() if listed.get(name) != stamp)


def _listed(folder: Path) -> dict[str, Stamp] | None:
    """Name → stamp of the files that a run wrote, None where no list can be read."""
    try:
        files: Any = json.loads((folder / FILES).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return files if isinstance(files, dict) else None


def entries(folder: Path) -> dict[str, Stamp]:
    """Name → stamp of all that is in a folder but folders that hold something."""
    entries = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if not stat.S_ISDIR(path.lstat().st_mode) or not any(path.iterdir()):
                entries[path.relative_to(folder).as_posix()] = _stamp(path)
    return entries


def _stamp(path: Path) -> Stamp:
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        return _NO_FILE
    if about.st_size > _SMALL:
        return about.st_size
    return hashlib.sha256(path.read_bytes()).hexdigest()


def list_files(folder: Path) -> None:
    text = json.dumps({"files": entries(folder)}, indent=1, sort_keys=True)
    (folder / FILES).write_text(text + "\n", encoding="utf-8")
