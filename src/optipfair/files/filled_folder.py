"""Files that a run puts into a folder which may hold others: all of them, or none.

They are made in a working folder inside it. Once they are complete it is called `ready`; from then
on the next run finishes what a killed one began to put in its place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError
from .working_folder import Mark, flush_names, take_over_rights, working_folder

Check = Callable[[Path], None]


def _anything(_: Path) -> None:
    """Let every file be replaced."""


@contextmanager
def filled_folder(
    folder: Path, mark: Mark, *, check: Check = _anything, first: str = ""
) -> Iterator[Path]:
    """Yield an empty folder, whose files take their places in `folder` when the block ends well.

    `check` is asked about each place just before, and refuses by an error. The file called `first`
    is the first to appear. After an error all is as before. Several runs may fill a folder at once.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)

    def finish(work: Path) -> None:
        _put_in_place(work, folder, check, first)

    try:
        with working_folder(folder, mark, busy=None, rescue=finish) as work:
            new = work / "new"
            new.mkdir()
            yield new
            _flush(new)
            for each in new.iterdir():
                check(folder / each.name)
            (work / "aside").mkdir()
            new.rename(work / "ready")
            finish(work)
            flush_names(folder)
    except BaseException:
        with suppress(OSError):  # someone else has put something there
            for each in made:
                each.rmdir()
        raise


def _put_in_place(work: Path, folder: Path, check: Check, first: str) -> None:
    """Move what is ready to its place; after an error all is as before."""
    ready, aside = work / "ready", work / "aside"
    if not ready.is_dir():
        return
    done: list[str] = []
    try:
        names = [each.name for each in ready.iterdir()]
        for name in sorted(names, key=lambda name: (name != first, name)):
            check(folder / name)
            _keep(folder / name, aside / name)
            done.append(name)
            if os.path.lexists(folder / name):
                take_over_rights(ready / name, folder / name)
            (ready / name).replace(folder / name)
    except BaseException:
        for name in done:
            if os.path.lexists(aside / name):
                (aside / name).replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        raise


def _keep(place: Path, aside: Path) -> None:
    """A second name for what is in a place, or a copy where the disk has none."""
    if not os.path.lexists(place):
        return
    aside.unlink(missing_ok=True)  # of the killed run that is finished now
    try:
        os.link(place, aside, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(place, aside, follow_symlinks=False)


def _flush(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    flush_names(folder)


def check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing could be written; nothing stays behind."""
    with writing_explained(folder):
        whole = folder.absolute()
        nearest = next(each for each in (whole, *whole.parents) if each.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(0, f"{nearest} is a file")
        with working_folder(nearest, {"trial": whole.name}, busy=None):
            return


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
