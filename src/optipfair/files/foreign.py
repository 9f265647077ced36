"""The boundary to files that others have made: whatever is wrong with one is one error of ours.

What a file of a foreign format can raise is no list that anyone could keep: parsers of JSON alone
raise ValueError, RecursionError, OverflowError and MemoryError. So the block that reads such a file
is the boundary, and names the file.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import OptiPFairError
from ..visible import reason

MOST = 100 * 2**20  # bytes of a file that is read whole


@contextmanager
def reading(what: object, error: type[OptiPFairError], way_out: str) -> Iterator[None]:
    """Turn whatever reading a foreign file raises into one error that names it."""
    try:
        yield
    except (OptiPFairError, MemoryError):
        raise
    except Exception as exc:
        raise error(f"{what} cannot be read: {reason(exc)}. {way_out}") from exc


def read_text(path: Path, most: int = MOST) -> str:
    """The text of a regular file of no more than so many bytes."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is no regular file")
    if about.st_size > most:
        raise ValueError(f"it has {about.st_size:,} bytes, more than {most:,}")
    return path.read_text(encoding="utf-8")


def read_json(path: Path, *, constants: bool = False) -> Any:
    """What a JSON file holds; NaN and Infinity, which JSON has not, only where they are usual."""
    return json.loads(read_text(path), parse_constant=float if constants else _no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
