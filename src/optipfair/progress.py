"""Progress bars, in the first of several processes, and times in words. Only it knows tqdm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

from .distributed import is_first
from .visible import visible

T = TypeVar("T")


def track(iterable: Iterable[T], label: str, enabled: bool, unit: str = "it") -> Iterator[T]:
    """Yield from `iterable`; show a bar with a rate on standard error if `enabled`."""
    if not enabled or not is_first():
        yield from iterable
        return
    from tqdm import tqdm

    yield from tqdm(iterable, desc=visible(label), unit=unit, leave=False, dynamic_ncols=True)


@contextmanager
def meter(total: int, label: str, enabled: bool, unit: str = "B") -> Iterator[Callable[..., None]]:
    """Yield a function that is told how much more is done, by any thread; show rate and time left.

    It may be told in a few words, too, what to show beside them.
    """
    if not enabled or not is_first():
        yield lambda count, note="": None
        return
    from tqdm import tqdm

    lock = Lock()
    options = {"unit": unit, "unit_scale": True, "leave": False, "dynamic_ncols": True}
    with tqdm(total=total, desc=visible(label), **options) as bar:  # type: ignore[call-overload]

        def report(count: int, note: str = "") -> None:
            with lock:
                bar.set_postfix_str(note, refresh=False)
                bar.update(count)

        yield report


def duration(seconds: float) -> str:
    """A time for people: `40 seconds`, `5 minutes`, `3.2 hours`."""
    if seconds < 90:
        whole = max(round(seconds), 1)
        return f"{whole} second{'s' * (whole > 1)}"
    minutes = seconds / 60
    return f"{round(minutes)} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
