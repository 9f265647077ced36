"""Progress bars, in the first of several processes. The only module that knows tqdm."""

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
def meter(total_bytes: int, label: str, enabled: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told the bytes done, by any thread; show rate and time left."""
    if not enabled or not is_first():
        yield lambda count: None
        return
    from tqdm import tqdm

    lock = Lock()
    options = {"unit": "B", "unit_scale": True, "leave": False, "dynamic_ncols": True}
    with tqdm(total=total_bytes, desc=visible(label), **options) as bar:  # type: ignore[call-overload]

        def report(count: int) -> None:
            with lock:
                bar.update(count)

        yield report
