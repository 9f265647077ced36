"""An output folder that appears only when it is complete."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError


def check_output(path: Path, source: Path | None, overwrite: bool) -> None:
    """Refuse an output folder that could not or must not be written, before any work.

    Args:
        path: where the result shall be.
        source: the folder or file that is read, if it is local.
        overwrite: whether a model that is there may be replaced.

    Raises:
        OutputError: with what to do instead.
    """
    target = path.resolve()
    if source is not None:
        read = source.resolve()
        if target == read or target in read.parents:
            raise OutputError(
                f"The output {path} is or holds the input {source}. Give another folder; the "
                "input is never overwritten."
            )
    if target.exists() and not target.is_dir():
        raise OutputError(f"The output {path} is a file. Give the name of a folder.")
    ancestor = target
    while not ancestor.exists():
        ancestor = ancestor.parent
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise OutputError(f"The output {path} cannot be written: no permission in {ancestor}.")
    if target.is_dir() and any(target.iterdir()):
        _check_replaceable(path, overwrite)


def _check_replaceable(path: Path, overwrite: bool) -> None:
    if not (path / "config.json").is_file():
        raise OutputError(
            f"The output folder {path} is not empty and holds no model (no config.json), so it is "
            "never overwritten. Give another folder."
        )
    if not overwrite:
        raise OutputError(
            f"The output folder {path} holds a model. Give --overwrite (overwrite=True) to replace "
            "it, or another folder."
        )


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it takes the place of `path`.

    What was there goes only after the new folder is complete, by two renames. After an error
    everything is as before.
    """
    target = path.resolve()
    made = _make_parents(target)
    mark = secrets.token_hex(4)
    temporary = target.with_name(f".{target.name}.partial-{mark}")
    try:
        temporary.mkdir()
        yield temporary
        _swap(temporary, target, target.with_name(f".{target.name}.old-{mark}"))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:
            parent.rmdir()
        raise


def _make_parents(target: Path) -> list[Path]:
    """Make the missing parents; return them, innermost first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _swap(temporary: Path, target: Path, old: Path) -> None:
    replaced = target.exists()
    if replaced:
        target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        if replaced:
            old.rename(target)
        raise
    if replaced:
        shutil.rmtree(old)
