"""Room on a disk: asked for before a long work, and missed under one name, whatever wrote."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import OutputError

_OF_TORCH = ("inline_container", "PytorchStreamWriter", "PytorchFileWriter")


def check_room(folder: Path, nbytes: int, what: str) -> None:
    """Refuse a work whose files, named by `what`, take more bytes than a folder's disk has."""
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise OutputError(
            f"{what} take {nbytes / 1e9:.2g} GB in {folder}, and its disk has {free / 1e9:.2g} GB "
            "free. Make room, or give a folder on another disk."
        )


@contextmanager
def disk_errors() -> Iterator[None]:
    """Inside the block a file that cannot be written is an OSError.

    safetensors and torch have errors of their own for it.
    """
    try:
        yield
    except SafetensorError as exc:
        if "I/O error" not in str(exc):
            raise
        raise OSError(errno.EIO, f"{exc}.") from exc
    except RuntimeError as exc:
        reading = "PytorchStreamReader" in str(exc)  # a damaged file, not a disk without room
        if reading or not any(name in str(exc) for name in _OF_TORCH):
            raise
        raise OSError(errno.EIO, "A file could not be written, as on a full disk.") from exc
