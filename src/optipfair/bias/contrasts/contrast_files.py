"""Contrasts by name, and from files of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from ...errors import ArgumentError, UnknownNameError
from ...files.foreign import read_json, reading
from ...registry import same_but_for_case, unknown_name
from .contrast import Contrast

_WAY_OUT = (
    'Give a .json file with an object or a list of objects {"name": ..., "templates": ["The {word} '
    'said that"], "words": [[...], [...]], "continuations": [[" she"], [" he"]]}.'
)


def _shipped() -> dict[str, Contrast]:
    text = files("optipfair.bias.contrasts").joinpath("shipped_contrasts.json").read_text("utf-8")
    return {each.name: each for each in map(Contrast.of_dict, json.loads(text))}


CONTRASTS = _shipped()


def find_contrasts(given: str | Contrast | Iterable[str | Contrast]) -> list[Contrast]:
    """The contrasts of these names, files (`.json`) or values; each once.

    Raises:
        ArgumentError, UnknownNameError: there is no such contrast, or a file holds none.
    """
    if isinstance(given, str | Contrast):
        given = [given]
    found: list[Contrast] = []
    for each in given:
        found += [each] if isinstance(each, Contrast) else _named(str(each))
    if not found:
        raise ArgumentError(f"No contrast is given. There are: {', '.join(CONTRASTS)}.")
    names = [each.name for each in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArgumentError(f"The contrast {twice!r} is given twice. Give each once.")
    return found


def _named(name: str) -> list[Contrast]:
    if name.lower().endswith(".json"):
        return _of_file(Path(name))
    known = same_but_for_case(name, list(CONTRASTS))
    if known is None:
        raise UnknownNameError(unknown_name("contrast", name, list(CONTRASTS)))
    return [CONTRASTS[known]]


def _of_file(path: Path) -> list[Contrast]:
    with reading(path, ArgumentError, _WAY_OUT):
        rows = read_json(path)
    try:
        return [Contrast.of_dict(row) for row in (rows if isinstance(rows, list) else [rows])]
    except (ArgumentError, UnknownNameError) as exc:
        raise type(exc)(f"{path}: {exc}") from exc
