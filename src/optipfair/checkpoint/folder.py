"""An output folder that appears only when it is complete."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    try:
        target = path.resolve()
        target.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # nothing is there yet; a file on the way is found below
    except (OSError, RuntimeError) as exc:  # a name too long, a loop of links
        raise OutputError(f"The output {path} cannot be written: {exc}.") from exc
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
    if not ancestor.is_dir():
        raise OutputError(f"The output {path} cannot be written: {ancestor} is a file.")
    if target.is_dir() and any(target.iterdir()):
        _check_replaceable(path, overwrite)
    _try_to_write(path, target, target.parent if ancestor == target else ancestor)


def _try_to_write(path: Path, target: Path, folder: Path) -> None:
    """Make and remove a folder: permissions alone say too much (of root, in /proc, read-only)."""
    probe = _temporary(folder / target.name, secrets.token_hex(4))
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as exc:
        raise OutputError(
            f"The output {path} cannot be written: {exc.strerror or exc} ({folder})."
        ) from exc


def _temporary(target: Path, mark: str) -> Path:
    return target.with_name(f".{target.name}.partial-{mark}")


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
    temporary = _temporary(target, mark)
    try:
        temporary.mkdir()
        yield temporary
        _swap(temporary, target, target.with_name(f".{target.name}.old-{mark}"))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # someone else has put something there
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
        shutil.rmtree(old, ignore_errors=True)
