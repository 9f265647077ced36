"""Children that are stopped by signals, forked from a process that has everything imported."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .interrupts import in_foreground

INTERRUPTED = 130
_NEVER = 0.0  # no signal is sent


class Nursery:
    """The way to that process: it runs one child at a time."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def run(self, job: Callable[..., object], *args: Any, **options: Any) -> int:
        """Run a job in a child, to its end; give its exit code."""
        return self._answer(job, args, options, _NEVER, None)

    def stopped(
        self,
        job: Callable[..., object],
        *args: Any,
        when: float | Path,
        by: signal.Signals,
        **options: Any,
    ) -> int:
        """Run a job in a child and send it a signal; give its exit code.

        Args:
            when: after so many seconds, or as soon as there is such a file or folder (its last
                name may be a pattern).
        """
        return self._answer(job, args, options, when, by)

    def _answer(self, *wish: Any) -> int:
        self._pipe.send(wish)
        code: int = self._pipe.recv()
        return code


@contextmanager
def opened() -> Iterator[Nursery]:
    """A nursery for the block; it is gone afterwards, whatever happened inside."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_raise_children, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Nursery(pipe)
    finally:
        pipe.close()
        process.kill()
        process.join()
        process.close()


def wait_for_a_signal() -> None:
    """Do nothing for a minute. A signal that comes just before a sleep ends it no sooner."""
    for _ in range(600):
        time.sleep(0.1)


def _raise_children(pipe: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    while True:
        try:
            job, args, options, when, by = pipe.recv()
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            _be_child(job, args, options)
        pipe.send(_end_of(child, when, by))


def _be_child(job: Callable[..., object], args: Any, options: Any) -> None:
    """SIGINT waits until it can be caught, and again once the job is over."""
    code = 1
    try:
        try:
            with in_foreground():
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
                job(*args, **options)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as exc:
        code = int(exc.code or 0)
    finally:
        os._exit(code)


def _end_of(child: int, when: float | Path, by: signal.Signals | None) -> int:
    """Wait for a child's end; until its signal is sent it is not reaped, so that it is still it."""
    if by is not None:
        _wait(child, when)
        os.kill(child, by)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _wait(child: int, when: float | Path) -> None:
    if not isinstance(when, Path):
        time.sleep(when)
        return
    over = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while not any(when.parent.glob(when.name)) and os.waitid(os.P_PID, child, over) is None:
        time.sleep(0.001)
