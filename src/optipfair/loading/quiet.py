"""transformers at work without its messages, and with errors of ours."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CheckpointError, OptiPFairError
from .sources import Source


@contextmanager
def quiet_transformers(show_progress: bool = False) -> Iterator[None]:
    """Silence transformers' messages inside the block, and its bars unless they are wanted."""
    with no_messages(show_progress):
        if show_progress:
            yield
        else:  # the bar of the GGUF reader heeds no setting
            with contextlib.redirect_stderr(io.StringIO()):
                yield


@contextmanager
def no_messages(show_progress: bool = False) -> Iterator[None]:
    """Silence transformers' messages and bars inside the block; what else is said is shown."""
    from transformers.utils import logging as transformers_logging

    control: Any = transformers_logging
    verbosity, bars = control.get_verbosity(), control.is_progress_bar_enabled()
    control.set_verbosity_error()
    try:
        if not show_progress:
            control.disable_progress_bar()
        yield
    finally:
        control.set_verbosity(verbosity)
        if bars:
            control.enable_progress_bar()


@contextmanager
def reading(source: Source, show_progress: bool = False) -> Iterator[None]:
    """Turn what transformers raises about a model that cannot be read into our error."""
    try:
        with quiet_transformers(show_progress):
            yield
    except (OptiPFairError, MemoryError):
        raise
    except Exception as exc:  # of many libraries; no list of what they raise is ever complete
        reason = " ".join(str(exc).split())[:300]
        hint = (
            " It is no local path; as a hub id it must exist and the hub must be reachable."
            if source.kind == "hub"
            else ""
        )
        if "trust_remote_code" in str(exc):
            hint += " Its code runs only with --trust-remote-code (trust_remote_code=True)."
        raise CheckpointError(f"Cannot read the model {source.given!r}.{hint} {reason}") from exc
