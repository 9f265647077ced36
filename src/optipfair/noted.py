"""Warnings: shown as Python shows them, and kept for the JSON and the card of a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .errors import PruningWarning

_KEPT: ContextVar[list[str] | None] = ContextVar("kept", default=None)


def warn(message: str) -> None:
    """Warn of what was done, but is probably not what was meant."""
    kept = _KEPT.get()
    if kept is not None and message not in kept:
        kept.append(message)
    warnings.warn(message, PruningWarning, stacklevel=2)


@contextmanager
def unheard() -> Iterator[None]:
    """Nothing that this thread warns of inside the block is shown or kept."""
    token = _KEPT.set(None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PruningWarning)
            yield
    finally:
        _KEPT.reset(token)


@contextmanager
def keeping_warnings() -> Iterator[list[str]]:
    """Yield a list that holds what this thread warns of inside the block."""
    kept: list[str] = []
    token = _KEPT.set(kept)
    try:
        yield kept
    finally:
        _KEPT.reset(token)
