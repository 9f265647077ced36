"""An output folder that appears only when it is complete."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: two runs into one folder are not told apart there
    fcntl = None  # type: ignore[assignment]


def check_output(path: Path, source: Path | None, overwrite: bool) -> None:
    """Refuse an output folder that could not or must not be written, before any work.

    `source` is the folder or file that is read, if it is local.
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
        if read in target.parents and read.is_dir():
            raise OutputError(
                f"The output {path} lies inside the input {source}. Give a folder elsewhere; "
                "nothing is written into the model that is read."
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
    probe = _temporary(folder / target.name, "probe")
    try:
        probe.mkdir(exist_ok=True)  # one that a killed run left will do
        probe.rmdir()
    except OSError as exc:
        raise OutputError(
            f"The output {path} cannot be written: {exc.strerror or exc} ({folder})."
        ) from exc


def _temporary(target: Path, mark: str) -> Path:
    return target.with_name(f".{target.name}.{mark}")


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


def check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing could be written; nothing stays behind."""
    with writing_explained(folder):
        nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(0, f"{nearest} is a file")
        Path(tempfile.mkdtemp(prefix=".optipfair-", dir=nearest)).rmdir()


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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it takes the place of `path`.

    What was there goes only after the new folder is complete and on the disk, by two renames.
    After an error everything is as before. What a killed run left is cleared by the next one.
    """
    target = path.resolve()
    made = _make_parents(target)
    temporary, old = _temporary(target, "partial"), _temporary(target, "old")
    held = _hold(temporary, path)
    try:
        _clear_remains(temporary, old, target)
        yield temporary
        _flush(temporary)
        _swap(temporary, target, old)
        _flush_names(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # someone else has put something there
            for parent in made:
                parent.rmdir()
        raise
    finally:
        if held is not None:
            os.close(held)


def _hold(temporary: Path, path: Path) -> int | None:
    """Make the temporary folder, or take over what a killed run left, and lock it.

    The lock is on the folder itself and goes with the process, however that ends.
    """
    while True:
        temporary.mkdir(exist_ok=True)
        if fcntl is None:
            return None
        with suppress(FileNotFoundError):  # another run has just finished: begin anew
            held = os.open(temporary, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if temporary.stat().st_ino == os.fstat(held).st_ino:
                    return held
            except BlockingIOError:
                os.close(held)
                raise OutputError(
                    f"Another run is writing to {path}. Wait for it, or give another folder."
                ) from None
            os.close(held)


def _clear_remains(temporary: Path, old: Path, target: Path) -> None:
    """Empty what a killed run left; if it died between its two renames, undo the first."""
    for entry in temporary.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if old.is_dir() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


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
    except OSError as exc:  # some network file systems know no such thing
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _make_parents(target: Path) -> list[Path]:
    """Make the missing parents; return them, innermost first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _swap(temporary: Path, target: Path, old: Path) -> None:
    try:
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    except BaseException:  # Ctrl-C too
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
