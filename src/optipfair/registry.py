"""A table of named entries with aliases. An unknown name answers with close matches and the list.

It knows nothing of what it holds; importing it costs nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from .errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries by name and alias, in the order of registration."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._aliases: dict[str, str] = {}

    def add(self, name: str, entry: T, aliases: tuple[str, ...] = ()) -> T:
        for key in (name, *aliases):
            if key in self._aliases:
                raise ValueError(f"{self.kind} {key!r} is registered twice")
            self._aliases[key] = name
        self._entries[name] = entry
        return entry

    def register(self, name: str, *aliases: str) -> Callable[[T], T]:
        """Decorate the function that is the entry."""
        return lambda entry: self.add(name, entry, aliases)

    def canonical(self, name: object) -> str:
        """Return the canonical name of `name`, which may be in any case.

        An unknown one raises `UnknownNameError` with close matches.
        """
        known = same_but_for_case(name, self._aliases) if isinstance(name, str) else None
        if known is not None:
            return self._aliases[known]
        raise UnknownNameError(unknown_name(self.kind, name, self.names()))

    def __getitem__(self, name: object) -> T:
        return self._entries[self.canonical(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def names(self) -> list[str]:
        """All names and aliases, sorted."""
        return sorted(self._aliases)


def same_but_for_case(given: str, names: Iterable[str]) -> str | None:
    """The name that is given, in this case or in another that no second name shares."""
    known = list(names)
    if given in known:
        return given
    alike = [name for name in known if name.casefold() == given.casefold()]
    return alike[0] if len(alike) == 1 else None


def unknown_name(kind: str, given: object, available: list[str]) -> str:
    """Say that `given` is not one of `available`, with the closest ones first."""
    by_lower = {name.lower(): name for name in available}
    close = difflib.get_close_matches(str(given).lower(), by_lower, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(by_lower[c]) for c in close)}?" if close else ""
    return f"Unknown {kind} {given!r}.{hint} Available: {', '.join(available)}."
