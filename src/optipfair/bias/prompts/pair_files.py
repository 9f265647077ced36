"""Pairs of prompts in a CSV or JSONL file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import ArgumentError
from .pairs import COLUMNS, PromptPair, counted, read_pair


def read_prompt_pairs(path: str | Path) -> list[PromptPair]:
    """Read pairs from a CSV or JSONL file in UTF-8.

    A CSV file begins with the header `prompt1,prompt2`, with `category` as a third column if
    wanted. (Without a header the first pair could not be told from a misspelled one.) A JSONL file
    has an object with these keys on each line. Empty lines are skipped.

    Args:
        path: of a file whose name ends in `.csv` or `.jsonl`.

    Returns:
        At least one pair, in the order of the file.

    Raises:
        ArgumentError: there is no such file, it cannot be read as what its name says, or a line
            holds no pair; the line is named.
    """
    path = Path(path)
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() not in readers:
        raise ArgumentError(
            f"{path} ends in {path.suffix!r}. Give a file of pairs ending in .csv or .jsonl."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise ArgumentError(f"Cannot read {path}: {exc.strerror}. Give a file of pairs.") from exc
    except UnicodeDecodeError as exc:
        raise ArgumentError(f"{path} is not encoded in UTF-8 ({exc}). Save it as UTF-8.") from exc
    pairs = [
        read_pair(f"{path}, line {line}", row)
        for line, row in readers[path.suffix.lower()](path, text)
    ]
    if not pairs:
        raise ArgumentError(f"{path} holds no pairs. Give at least one.")
    return pairs


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    begins = 1
    try:
        for cells in reader:
            line, begins = begins, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _checked_header(f"{path}, line {line}", cells)
                continue
            if len(cells) != len(header):
                way_out = (
                    'Put prompts that hold a comma between quotation marks: "...".'
                    if len(cells) > len(header)
                    else f"Give all of {', '.join(header)}, with commas between them."
                )
                raise ArgumentError(
                    f"{path}, line {line} has {counted(len(cells), 'column')}, the header "
                    f"{len(header)}. {way_out}"
                )
            row = dict(zip(header, cells, strict=True))
            yield line, {key: cell for key, cell in row.items() if cell or key != "category"}
    except csv.Error as exc:
        raise ArgumentError(f"{path}, line {begins} is not CSV: {exc}.") from exc


def _checked_header(where: str, cells: list[str]) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    unknown = set(header) - set(COLUMNS)
    if unknown or not set(COLUMNS[:2]) <= set(header) or len(set(header)) < len(header):
        raise ArgumentError(
            f"{where} is the header {','.join(cells)!r}. The first line must name the columns: "
            "prompt1,prompt2 or prompt1,prompt2,category."
        )
    return header


def _jsonl_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                yield line, json.loads(content)
            except json.JSONDecodeError as exc:
                raise ArgumentError(
                    f"{path}, line {line} is not JSON: {exc}. Write one object a line, such as "
                    '{"prompt1": "...", "prompt2": "..."}.'
                ) from exc
