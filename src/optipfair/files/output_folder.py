"""Output folders, which appear only when they are complete.

Everything is made in a working folder beside the output.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import OptiPFairError, OutputError
from ..visible import is_utf8
from .working_folder import (
    Mark,
    check_free,
    flush_names,
    holds_another,
    take_over_rights,
    working_folder,
)
from .written_files import Stamp, check_replaceable, entries, list_files

_LONGEST = "model-00001-of-00001.safetensors"  # of the names in a result


def check_output(path: Path, source: Path | None, overwrite: bool) -> None:
    """Refuse an output folder that could not or must not be written, before any work.

    `source` is the folder or file that is read, if it is local.
    """
    if not is_utf8(str(path)):
        raise OutputError(f"The output {str(path)!r} is not in UTF-8. Give another name.")
    try:
        target = path.resolve()
        target.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # nothing is there yet; a file on the way is found below
    except (OSError, RuntimeError) as exc:  # a name too long, a loop of links
        raise OutputError(f"The output {path} cannot be written: {exc}.") from exc
    if source is not None:
        _check_apart(path, target, source)
    if target.exists() and not target.is_dir():
        raise OutputError(f"The output {path} is a file. Give the name of a folder.")
    ancestor = target
    while not ancestor.exists():
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        raise OutputError(f"The output {path} cannot be written: {ancestor} is a file.")
    check_replaceable(path, target, overwrite)
    check_free(target.parent, _mark(target), _busy(path))
    _try_to_write(path, target)


def _check_apart(path: Path, target: Path, source: Path) -> None:
    read = source.resolve()
    if target == read or target in read.parents:
        raise OutputError(
            f"The output {path} is or holds the input {source}. Give another folder; the input is "
            "never overwritten."
        )
    if not read.is_dir():
        return
    if read in target.parents:
        raise OutputError(
            f"The output {path} lies inside the input {source}. Give a folder elsewhere; nothing "
            "is written into the model that is read."
        )
    for file in read.iterdir():
        if target in file.resolve().parents:
            raise OutputError(
                f"The output {path} holds {file.resolve().name}, which the input's {file.name} is "
                "a link to. Give another folder; the input is never overwritten."
            )


def _try_to_write(path: Path, target: Path) -> None:
    """Do what the run will do, and undo it: permissions alone say too much."""
    nearest = next(each for each in target.parents if each.exists())
    missing = [each for each in (target, *target.parents) if not each.exists()]
    try:
        with working_folder(nearest, {"trial": target.name}, busy=None) as work:
            names = [each.name for each in reversed(missing)] or [target.name]
            tried = work.joinpath(*names)
            tried.mkdir(parents=True)
            (tried / _LONGEST).touch()
    except OSError as exc:
        raise OutputError(
            f"The output {path} cannot be written: {exc.strerror or exc}. Give another folder."
        ) from exc


def _mark(target: Path) -> Mark:
    return {"output": target.name}


def _busy(path: Path) -> str:
    return f"Another run is writing to {path}. Wait for it, or give another folder."


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it takes the place of `path`.

    What was there goes only after the new folder is complete and on the disk, by two renames, and
    only if it is still what it was at the beginning. After an error everything is as before. What a
    killed run left is put back or cleared by the next one.
    """
    target = path.resolve()
    made = _make_parents(target)

    def put_back(work: Path) -> None:
        _put_back(work, target, path)

    try:
        with working_folder(
            target.parent, _mark(target), busy=_busy(path), rescue=put_back
        ) as work:
            before = _identity(target)
            new = work / "new"
            new.mkdir()
            with _called(path, new):
                yield new
            list_files(new)
            _take_over_rights(new, target)
            _flush(new)
            _swap(work, target, before, path)
            flush_names(target.parent)
    except BaseException:
        with suppress(OSError):  # someone else has put something there
            for parent in made:
                parent.rmdir()
        raise


@contextmanager
def _called(path: Path, new: Path) -> Iterator[None]:
    """Let errors name the folder that was asked for, not the one that is written meanwhile."""
    try:
        yield
    except (OptiPFairError, OSError) as exc:
        exc.args = tuple(_asked(each, path, new) for each in exc.args)
        for name in ("filename", "filename2"):
            if getattr(exc, name, None) is not None:
                setattr(exc, name, _asked(getattr(exc, name), path, new))
        raise


def _asked(value: Any, path: Path, new: Path) -> Any:
    text = str(value) if isinstance(value, Path) else value
    return text.replace(str(new), str(path)) if isinstance(text, str) else value


def _put_back(work: Path, target: Path, path: Path) -> None:
    """Undo the first of the two renames of a run that was killed between them."""
    if not holds_another(work):
        return
    old = work / "old"
    with suppress(OSError):
        target.rmdir()  # an empty one that someone has made since
    if os.path.lexists(target):
        raise OutputError(
            f"A run that was killed left the model that was in {path} in {old}, and something else "
            f"is in {path} now. Move one of them away."
        )
    old.rename(target)


def _identity(target: Path) -> tuple[int, int, dict[str, Stamp]] | None:
    """What says that a folder is still the same; None where there is none, or an empty one."""
    if not target.is_dir() or not any(target.iterdir()):
        return None
    about = target.stat()
    return about.st_dev, about.st_ino, entries(target)


def _take_over_rights(new: Path, target: Path) -> None:
    """Give a folder and its files the rights of those that they replace, new files the owner."""
    if not target.is_dir():
        return
    about = target.stat()
    for path in new.rglob("*"):
        with suppress(OSError, AttributeError):  # only root may give away; Windows has no owners
            os.chown(path, about.st_uid, about.st_gid)
        old = target / path.relative_to(new)
        if os.path.lexists(old):
            take_over_rights(path, old)
    take_over_rights(new, target)


def _swap(work: Path, target: Path, before: object, path: Path) -> None:
    """Put the new folder in its place, if that is as it was."""
    new, old = work / "new", work / "old"
    if _identity(target) != before or (target.exists() and not target.is_dir()):
        raise OutputError(
            f"The output {path} was changed by someone else during the run. Nothing was written; "
            "give another folder."
        )
    try:
        if before is not None:
            target.rename(old)
        new.rename(target)  # fails if something is there
    except BaseException as exc:  # Ctrl-C too
        if old.exists() and new.exists() and not target.exists():
            old.rename(target)
        if isinstance(exc, FileExistsError | NotADirectoryError) or (
            isinstance(exc, OSError) and exc.errno == errno.ENOTEMPTY
        ):
            raise OutputError(
                f"Something appeared at the output {path} during the run. Nothing was written; "
                "give another folder."
            ) from exc
        raise


def _flush(folder: Path) -> None:
    """Bring every file and name in a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            flush_names(path)
    flush_names(folder)


def _make_parents(target: Path) -> list[Path]:
    """Make the missing parents; return them, innermost first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing
