"""Data files → rows with the columns a task needs → items; and texts. Faults name their line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import DataError
from .task import Item, Reading

Place = str  # such as `file, line 3`
Row = dict[str, Any]
Rows = list[tuple[Place, Row]]


def reading_of(rows: Rows, made: Callable[[Place, Row], Item]) -> Reading:
    """The items that are made of rows, each with an id of its own."""
    items: dict[str, Item] = {}
    places: dict[str, Place] = {}
    for place, row in rows:
        item = made(place, row)
        if item.id in items:
            raise DataError(
                f"{place}: the id {item.id} is there twice, first in {places[item.id]}. Give each "
                "row its own."
            )
        items[item.id], places[item.id] = item, place
    return Reading([*items.values()])


def json_rows(path: Path, columns: Mapping[str, type]) -> Rows:
    """The objects of a JSONL file."""
    rows = []
    for place, line in text_lines(path):
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except ValueError as exc:
            raise DataError(f"{place}: no JSON ({exc}). Each line must hold one object.") from exc
        if not isinstance(row, dict):
            raise DataError(
                f"{place}: {line[:60]!r} is no JSON object. Expected is one with "
                f"{', '.join(columns)}."
            )
        rows.append((place, _checked(place, row, columns)))
    return _some(path, rows)


def table_rows(path: Path, columns: tuple[str, ...], delimiter: str = ",") -> Rows:
    """The rows of a CSV or TSV file with a header."""
    reader = csv.DictReader(
        io.StringIO(_text(path)), delimiter=delimiter, restkey="", strict=delimiter == ",",
        quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE,
    )  # fmt: skip
    missing = [name for name in columns if name not in (reader.fieldnames or [])]
    if missing:
        raise DataError(
            f"{path}, line 1: the header lacks {', '.join(missing)}. Expected are the columns "
            f"{', '.join(columns)}."
        )
    rows: Rows = []
    try:
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if "" in row or None in row.values():
                raise DataError(
                    f"{place}: the row has not the {len(reader.fieldnames or [])} fields of the "
                    f"header. Expected is one for each of {', '.join(reader.fieldnames or [])}."
                )
            rows.append((place, _checked(place, dict(row), dict.fromkeys(columns, str))))
    except csv.Error as exc:
        raise DataError(
            f"{path}, line {reader.line_num}: {exc}. Expected are rows with the columns "
            f"{', '.join(columns)}, and quotes in pairs."
        ) from exc
    return _some(path, rows)


def detokenised(text: str) -> str:
    """WikiText as people write: ` @-@ ` becomes `-`, and no space stands before punctuation.

    `<unk>` and the headings (` = Title = `) stay.

    Example:
        >>> detokenised("It 's a low @-@ cost , well built (sort of ) ship .")
        "It's a low-cost, well built (sort of) ship."
    """
    text = re.sub(r" @(.)@ ", r"\1", text)
    text = re.sub(r" ([,.;:!?%)\]])", r"\1", text)
    return re.sub(r"([(\[$]) ", r"\1", text).replace(" n't", "n't").replace(" 's", "'s")


def text_lines(path: Path) -> Iterator[tuple[Place, str]]:
    """The lines of a text file that are not empty."""
    # Only line feeds end lines: texts may hold U+2028 and its kin.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", line


def choice(place: Place, row: Row, name: str, allowed: int) -> int:
    """A column that is the index of one of several choices."""
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < allowed:
        raise DataError(f"{place}: {name} is {value!r}; expected is 0 to {allowed - 1}.")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise DataError(
            f"Cannot read {path}: {exc.strerror}. Give a file that can be read."
        ) from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{path} is not encoded in UTF-8 ({exc}). Save it as UTF-8.") from exc


def _checked(place: Place, row: Row, columns: Mapping[str, type]) -> Row:
    for name, kind in columns.items():
        if name not in row:
            raise DataError(
                f"{place}: the column {name} is missing. Expected: {', '.join(columns)}."
            )
        if not isinstance(row[name], kind) or (kind is str and not row[name].strip()):
            what = "text" if kind is str else kind.__name__
            raise DataError(f"{place}: {name} is {row[name]!r}; expected is {what}, not empty.")
    return row


def _some(path: Path, rows: Rows) -> Rows:
    if not rows:
        raise DataError(f"{path} holds no rows.")
    return rows
