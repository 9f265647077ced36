"""Working folders: where a run makes what takes its place only when it is complete.

Each is made under a name that nobody else has, says in a mark whose it is, and is locked as long as
its run lives. So the next run with the same mark can tell what a killed one left, and clears it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: two runs with one mark are not told apart there
    fcntl = None  # type: ignore[assignment]

_NAME = ".optipfair-"  # begins the name of a working folder
_MARK = "owner.json"  # in it: whose it is
_HALF = f"{_MARK}.part"
_NO_SUCH_THING = (errno.EINVAL, errno.ENOTSUP, errno.ENOLCK)  # of some network file systems

Mark = Mapping[str, str]


def _nothing(_: Path) -> None:
    """Rescue nothing of what a killed run left."""


@contextmanager
def working_folder(
    parent: Path, mark: Mark, *, busy: str | None, rescue: Callable[[Path], None] = _nothing
) -> Iterator[Path]:
    """Yield a new folder in `parent`, which is gone afterwards.

    What killed runs left with the same mark goes first, after `rescue` has seen it. `busy` is the
    error where another run with this mark is at work; None lets both work.
    """
    parent = parent.resolve()
    work, held = _made(parent, mark, busy, rescue)
    try:
        yield work
    finally:
        if not holds_another(work):
            _remove(work)
        _unlock(held)


def holds_another(work: Path) -> bool:
    """Whether what a new folder was to replace lies in the working folder, not in its place."""
    return (work / "old").exists() and (work / "new").exists()


def check_free(parent: Path, mark: Mark, busy: str) -> None:
    """Refuse to begin what another run with this mark is doing."""
    for other in parent.glob(f"{_NAME}*"):
        if _is_marked(other, mark):
            _unlock(_locked_or_busy(other, busy))


def take_over_rights(new: Path, old: Path) -> None:
    """Give a file or folder the owner and the permissions of the one that it replaces."""
    about = old.lstat()
    if stat.S_IFMT(about.st_mode) != stat.S_IFMT(new.lstat().st_mode) or stat.S_ISLNK(
        about.st_mode
    ):
        return
    with suppress(OSError, AttributeError):  # only root may give away; Windows has no owners
        os.chown(new, about.st_uid, about.st_gid)
    with suppress(OSError):
        new.chmod(stat.S_IMODE(about.st_mode))


def flush_names(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
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


def _made(
    parent: Path, mark: Mark, busy: str | None, rescue: Callable[[Path], None]
) -> tuple[Path, int | None]:
    """A new working folder and its lock.

    While it is made, the folder around it is locked: of two runs one comes first, and what has no
    mark yet is of a run that was killed.
    """
    around = _locked(parent, wait=True)
    try:
        for other in sorted(parent.glob(f"{_NAME}*")):
            if _is_marked(other, mark):
                _clear(other, busy, rescue)
            elif around is not None:
                _clear_unmarked(other)
        work = Path(tempfile.mkdtemp(prefix=_NAME, dir=parent))
        try:
            half = work / _HALF  # whole or not at all: half a mark would mark nothing
            half.write_text(json.dumps(dict(mark)), encoding="utf-8")
            half.replace(work / _MARK)
            return work, _locked(work, wait=False)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    finally:
        _unlock(around)


def _clear(work: Path, busy: str | None, rescue: Callable[[Path], None]) -> None:
    """Clear what a killed run left; one that still runs is an error, or is left alone."""
    if busy is None and fcntl is None:
        return
    try:
        held = _locked_or_busy(work, busy or "")
    except OutputError:
        if busy is None:
            return
        raise
    try:
        rescue(work)
        _remove(work)
    finally:
        _unlock(held)


def _clear_unmarked(work: Path) -> None:
    """Clear the folder of a run that was killed before it had written its mark."""
    try:
        if _is_mine(work) and {each.name for each in work.iterdir()} <= {_HALF}:
            (work / _HALF).unlink(missing_ok=True)
            work.rmdir()
    except OSError:
        return  # someone else is at it


def _remove(work: Path) -> None:
    """Remove a working folder, its mark last: what a kill leaves is still known to be ours."""
    for part in work.iterdir():
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
        elif part.name != _MARK:
            part.unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)


def _locked_or_busy(work: Path, busy: str) -> int | None:
    try:
        return _locked(work, wait=False)
    except BlockingIOError:
        raise OutputError(busy) from None


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


def _unlock(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _is_marked(work: Path, mark: Mark) -> bool:
    """Whether a folder is the working folder of a run of this user's with this mark."""
    try:
        if not _is_mine(work) or not stat.S_ISREG((work / _MARK).lstat().st_mode):
            return False
        return bool(json.loads((work / _MARK).read_text(encoding="utf-8")) == mark)
    except (OSError, ValueError, RecursionError):
        return False


def _is_mine(work: Path) -> bool:
    about = work.lstat()
    return stat.S_ISDIR(about.st_mode) and about.st_uid == getattr(os, "getuid", lambda: 0)()
