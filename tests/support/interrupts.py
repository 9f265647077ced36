"""SIGINT, for all tests that need it: what Ctrl-C does may not depend on how the tests were begun.

What a script starts in the background ignores SIGINT, and so do its children, and theirs.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def in_foreground() -> Iterator[None]:
    """SIGINT interrupts this process, and the processes that the block starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt(*_: object, **__: object) -> None:
    """Press Ctrl-C, from whichever thread and in the place of whichever function."""
    expected = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert expected, "a test that interrupts itself must ask for the fixture `foreground`"
    signal.raise_signal(signal.SIGINT)
