"""Where an interrupted training goes on: a folder beside the output, which says what was asked.

It goes when the output is complete. A folder that no run has made is never touched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...distributed import in_first, is_first
from ...errors import ArgumentError, DataError, OutputError

_ENDING = ".unfinished"
_REQUEST = "request.json"
_MADE_BY = {"made_by": "optipfair recover"}  # in it: another tool's request.json is no mark


def folder_beside(output: Path) -> Path:
    """The folder of an output that is not complete."""
    return output.with_name(output.name + _ENDING)


def check_unfinished(
    output: Path, request: Mapping[str, Any], *, resume: bool, overwrite: bool
) -> None:
    """Refuse to begin where another run left off, or to go on where none did."""
    folder = folder_beside(output)
    if not _is_there(folder):
        if resume:
            raise ArgumentError(
                f"There is nothing to go on with: no unfinished run lies in {folder}. Leave "
                "--resume (resume) out."
            )
        return
    before = _request(folder)
    if before is None:
        raise OutputError(
            f"{folder} is in the way and was made by no run. Move it, or give another output."
        )
    if resume:
        changed = sorted(name for name in request if before.get(name) != request[name])
        if changed:
            name = changed[0]
            raise ArgumentError(
                f"The unfinished run in {folder} was asked for {name}={before.get(name)!r}, this "
                f"one for {name}={request[name]!r}. Ask for the same, or begin anew with "
                "--overwrite (overwrite=True) and without --resume."
            )
    elif not overwrite:
        raise OutputError(
            f"An unfinished run lies in {folder}. Go on with it (--resume, resume=True), or begin "
            "anew (--overwrite, overwrite=True)."
        )


@contextmanager
def unfinished(output: Path, request: Mapping[str, Any], *, resume: bool) -> Iterator[Path]:
    """Yield the folder for checkpoints; it goes when the block ends well, and stays otherwise.

    It goes too where a new run was refused, since there is nothing to go on with.
    """
    folder = folder_beside(output)

    def begin() -> None:
        if not resume and folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{_REQUEST}.part"
        part.write_text(json.dumps({**_MADE_BY, **request}), encoding="utf-8")
        part.replace(folder / _REQUEST)

    in_first(begin)
    try:
        yield folder
    except (ArgumentError, DataError, OutputError):
        if not resume and is_first():
            shutil.rmtree(folder)
        raise
    except OSError as exc:
        exc.add_note(
            f"What the training reached lies in {folder}: make room on the disk if it is full, and "
            "go on with --resume (resume=True)."
        )
        raise
    in_first(lambda: shutil.rmtree(folder))


def _is_there(folder: Path) -> bool:
    """Whether something lies there; a run that was killed as it began has left nothing."""
    try:
        return any(each.name != f"{_REQUEST}.part" for each in folder.iterdir())
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _request(folder: Path) -> dict[str, Any] | None:
    """What the run that made a folder was asked for; None where no run has made it."""
    try:
        found = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.items() >= _MADE_BY.items() else None
