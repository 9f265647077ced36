"""Output folders, which appear only when they are complete.

Everything is made in a working folder beside the output, which a run makes under a name that nobody
else has, marks as its own and locks.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import OptiPFairError, OutputError
from ..visible import is_utf8
from .written_files import check_replaceable, entries, list_files

try:
    import fcntl
except ImportError:  # Windows: two runs into one folder are not told apart there
    fcntl = None  # type: ignore[assignment]

_WORK = ".optipfair-"  # begins the name of a working folder
_OWNER = "owner.json"  # in it: for which output it is
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
    missing = [each for each in (target, *target.parents) if not each.exists()]
    try:
        work = Path(tempfile.mkdtemp(prefix=_WORK, dir=_nearest(target.parent)))
        try:
            names = [each.name for each in reversed(missing)] or [target.name]
            tried = work.joinpath(*names)
            tried.mkdir(parents=True)
            (tried / _LONGEST).touch()
        finally:
            shutil.rmtree(work)
    except OSError as exc:
        raise OutputError(
            f"The output {path} cannot be written: {exc.strerror or exc}. Give another folder."
        ) from exc


def _nearest(folder: Path) -> Path:
    """The folder itself, or the first one above that is there."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing could be written; nothing stays behind."""
    with writing_explained(folder):
        nearest = _nearest(folder.absolute())
        if not nearest.is_dir():
            raise NotADirectoryError(0, f"{nearest} is a file")
        Path(tempfile.mkdtemp(prefix=_WORK, dir=nearest)).rmdir()


@contextmanager
def writing_explained(folder: Path) -> Iterator[None]:
    """Name the folder where the system refuses to write."""
    try:
        yield
    except OSError as exc:
        raise OutputError(
            f"The output folder {folder} cannot be written: {exc.strerror or exc}. Choose another, "
            "or free it for writing."
        ) from exc


def beside(path: Path) -> Path:
    """A name beside a file that nothing has, for what is written before it takes its place."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it takes the place of `path`.

    What was there goes only after the new folder is complete and on the disk, by two renames, and
    only if it is still what it was at the beginning. After an error everything is as before. What a
    killed run left is put back or cleared by the next one.
    """
    target = path.resolve()
    made = _make_parents(target)
    work, held = _work_folder(target, path)
    new = work / "new"
    try:
        before = _identity(target)
        new.mkdir()
        with _called(path, new):
            yield new
        list_files(new)
        _take_over_mode(new, target)
        _flush(new)
        _swap(work, target, before, path)
        _flush_names(target.parent)
    except BaseException:
        if not ((work / "old").exists() and new.exists()):  # what was there is not in its place
            _remove(work)
        with suppress(OSError):  # someone else has put something there
            for parent in made:
                parent.rmdir()
        raise
    else:
        _remove(work)
    finally:
        if held is not None:
            os.close(held)


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


def _work_folder(target: Path, path: Path) -> tuple[Path, int | None]:
    """A new working folder beside the target, and its lock, which goes with the process.

    While it is made, the folder around it is locked, so that of two runs one comes first.
    """
    parent = _locked(target.parent, wait=True)
    try:
        for other in sorted(target.parent.glob(f"{_WORK}*")):
            _clear(other, target, path)
        work = Path(tempfile.mkdtemp(prefix=_WORK, dir=target.parent))
        mark = work / f"{_OWNER}.part"  # whole or not at all: half a mark would mark nothing
        mark.write_text(json.dumps({"output": target.name}), encoding="utf-8")
        mark.replace(work / _OWNER)
        return work, _locked(work, wait=False)
    finally:
        if parent is not None:
            os.close(parent)


def _locked(folder: Path, *, wait: bool) -> int | None:
    """Lock a folder; None where the system has no locks. A lock that another holds: an OSError."""
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as exc:
        if exc.errno in _NO_SUCH_THING:
            return handle
        os.close(handle)
        raise
    return handle


_NO_SUCH_THING = (errno.EINVAL, errno.ENOTSUP, errno.ENOLCK)  # of some network file systems


def _clear(work: Path, target: Path, path: Path) -> None:
    """Clear the working folder of a run that was killed, if it was for this target.

    If it died between its two renames, the first is undone. One that still runs is an error.
    """
    if not _is_for(work, target):
        return
    try:
        held = _locked(work, wait=False)
    except BlockingIOError:
        raise OutputError(
            f"Another run is writing to {path}. Wait for it, or give another folder."
        ) from None
    try:
        old = work / "old"
        if (work / "new").exists() and old.is_dir():
            with suppress(OSError):
                target.rmdir()  # an empty one that someone has made since
            if target.exists():
                raise OutputError(
                    f"A run that was killed left the model that was in {path} in {old}, and "
                    f"something else is in {path} now. Move one of them away."
                )
            old.rename(target)
        _remove(work)
    finally:
        if held is not None:
            os.close(held)


def _remove(work: Path) -> None:
    """Remove a working folder, its mark last: what a kill leaves is still known to be ours."""
    for part in (work / "old", work / "new"):
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)


def _is_for(work: Path, target: Path) -> bool:
    """Whether a folder is the working folder of a run of this user's for this target."""
    try:
        about, mark = work.lstat(), (work / _OWNER).lstat()
        if not stat.S_ISDIR(about.st_mode) or not stat.S_ISREG(mark.st_mode):
            return False
        owner = json.loads((work / _OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    mine = not hasattr(os, "getuid") or about.st_uid == os.getuid()
    return mine and owner == {"output": target.name}


def _identity(target: Path) -> tuple[int, int, dict[str, int]] | None:
    """What says that a folder is still the same; None where there is none, or an empty one."""
    if not target.is_dir() or not any(target.iterdir()):
        return None
    about = target.stat()
    return about.st_dev, about.st_ino, entries(target)


def _take_over_mode(new: Path, target: Path) -> None:
    """Give a folder the owner and the permissions of the one that it replaces."""
    if target.is_dir():
        about = target.stat()
        with suppress(OSError, AttributeError):  # only root may give away; Windows has no owners
            for path in (new, *new.rglob("*")):
                os.chown(path, about.st_uid, about.st_gid)
        with suppress(OSError):
            new.chmod(stat.S_IMODE(about.st_mode))


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
            _flush_names(path)
    _flush_names(folder)


def _flush_names(folder: Path) -> None:
    if fcntl is None:  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno not in _NO_SUCH_THING:
            raise
    finally:
        os.close(handle)


def _make_parents(target: Path) -> list[Path]:
    """Make the missing parents; return them, innermost first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing
