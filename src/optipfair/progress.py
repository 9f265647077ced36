"""Progress bars. The only module that knows tqdm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(iterable: Iterable[T], label: str, enabled: bool, unit: str = "it") -> Iterator[T]:
    """Yield from `iterable`; show a bar with a rate on standard error if `enabled`."""
    if not enabled:
        yield from iterable
        return
    from tqdm import tqdm

    yield from tqdm(iterable, desc=label, unit=unit, leave=False, dynamic_ncols=True)
