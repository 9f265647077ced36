"""A comparison as files: JSON and CSV of every number, and nothing half written."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from optipfair import OutputError
from optipfair.report.report_files import (
    check_report_folder,
    comparison_page,
    write_comparison_report,
)
from optipfair.report.tables import (
    COLUMNS,
    FLIP_HEADER,
    GENERATION_HEADER,
    MEASURE_HEADER,
    VERDICT_HEADER,
    comparison_csv,
    first_token_lines,
    flip_rows,
    generation_rows,
    measure_rows,
    verdict_rows,
)
from support.comparisons import HOSTILE, as_read, bare, hostile, ordinary

NAMES = ["comparison.json", "measures.csv", "report.html"]
NUMBERS = ("value", "low", "high")


def read(text: str) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert all(list(row) == list(COLUMNS) for row in rows)
    return rows


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


@pytest.mark.parametrize("made", [ordinary, hostile, bare])
def test_every_number_is_in_the_table_unrounded(made: Callable[[], Any]) -> None:
    rows = read(comparison_csv(made()))
    written = Counter(float(row[key]) for row in rows for key in NUMBERS if row[key])
    assert written == Counter(numbers(made()))


def test_rows_are_told_apart_by_what_they_say() -> None:
    rows = read(comparison_csv(ordinary()))
    keys = [
        tuple(row[key] for key in ("section", "id", "group", "model", "quantity")) for row in rows
    ]
    assert len(set(keys)) == len(keys) - 1  # two reasons for rows left out of one task
    row = next(r for r in rows if r["id"] == "text.word_perplexity" and r["quantity"] == "change")
    assert [row[key] for key in NUMBERS] == ["1.2468", "1.214", "1.2803"]
    gap = [row for row in rows if row["id"] == "winobias.gap" and row["quantity"] == "harm"]
    assert [(row["value"], row["reason"]) for row in gap] == [("", "no item counts towards it")]


def test_no_cell_is_a_formula() -> None:
    signs = ("=", "+", "-", "@", "\t", "\r", "\n")
    given = hostile()
    given["tasks"][0]["name"] = "  @SUM(1)"
    given["tasks"][1]["name"] = "-2+3"
    text = comparison_csv(given)
    for row in csv.reader(io.StringIO(text, newline="")):
        for cell in row:
            if cell.lstrip(" ")[:1] in signs:
                float(cell)  # numbers may be negative
    assert "'  @SUM(1)" in text and "'-2+3" in text and f"'{HOSTILE[3]}" in text


def test_files_are_those_of_the_comparison(tmp_path: Path) -> None:
    given = hostile()
    found = write_comparison_report(given, tmp_path / "new" / "report")
    assert sorted(found) == NAMES == sorted(p.name for p in (tmp_path / "new/report").iterdir())
    assert json.loads(found["comparison.json"].read_text()) == given
    assert found["report.html"].read_text("utf-8") == comparison_page(given)
    assert found["measures.csv"].read_bytes().decode() == comparison_csv(given)


def test_writing_again_replaces_and_leaves_other_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    write_comparison_report(ordinary(), tmp_path)
    found = write_comparison_report(bare(), tmp_path)
    assert json.loads(found["comparison.json"].read_text()) == bare()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*NAMES, "mine.txt"])


@pytest.mark.parametrize("there", [True, False])
def test_a_failure_leaves_everything_as_it_was(
    there: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    untouched: Callable[[Path], AbstractContextManager[None]],
) -> None:
    folder = tmp_path / "deep" / "report"
    if there:
        write_comparison_report(bare(), folder)
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if target == folder / "measures.csv":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with untouched(tmp_path), pytest.raises(OutputError, match="No space left"):
        write_comparison_report(ordinary(), folder)


def test_what_cannot_be_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    given = ordinary()
    given["protocol"]["seconds"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_comparison_report(given, tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_are_refused(
    tmp_path: Path, untouched: Callable[[Path], AbstractContextManager[None]]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "held" / "report.html").mkdir(parents=True)
    with untouched(tmp_path):
        for folder in ("file", "file/below", "held", "n" * 300):
            for act in (check_report_folder, lambda to: write_comparison_report(bare(), to)):
                with pytest.raises(OutputError, match="output"):
                    act(tmp_path / folder)
        check_report_folder(tmp_path / "new" / "folder")
    with pytest.raises(OutputError):
        check_report_folder("/proc/report")


def test_rows_for_a_terminal_have_their_columns_and_no_control_characters() -> None:
    for made in (ordinary(), hostile(), bare()):
        for header, rows in (
            (VERDICT_HEADER, verdict_rows(as_read(made))),
            (MEASURE_HEADER, measure_rows(as_read(made))),
            (GENERATION_HEADER, generation_rows(as_read(made))),
            (FLIP_HEADER, flip_rows(as_read(made))),
        ):
            assert all(len(row) == len(header) for row in rows)
            assert "\x1b" not in "".join(cell for row in rows for cell in row)
    assert measure_rows(as_read(ordinary()))[0] == [
        *("text.word_perplexity", "31.2", "38.9", "×1.25", "[×1.21, ×1.28]", "0.003")  # noqa: RUF001
    ]
    assert generation_rows(as_read(bare())) == []
    assert generation_rows(as_read(ordinary()))[1:4] == [
        ["the same first 33 tokens are written", "9 %", "[2 %, 16 %]"],
        ["tokens until they part, median", "11.0", "[7.5, 14.5]"],
        ["KL divergence at positions 0-15", "0.310", "[0.290, 0.330]"],
    ]
    assert [row[1] for row in verdict_rows(as_read(ordinary()))] == [
        *("worse", "no detectable change", "better")
    ]


def test_a_terminal_shows_what_turned_and_where_items_are_too_few() -> None:
    given = ordinary()
    given["measures"][-1]["headline"] = True
    given["flips"].append(
        given["flips"][0] | {"task": "bbq", "p": None, "p_holm": None, "untested": "3 turned"}
    )
    assert flip_rows(as_read(given)) == [
        ["crows_pairs", "3 to stereotyped", "4 to anti-stereotyped", "790", "1.000"],
        ["bbq", "3 to stereotyped", "4 to anti-stereotyped", "790", "too few to tell"],
    ]
    tested = {row[0]: row[-1] for row in measure_rows(as_read(given))}
    assert tested["winogender.agreement"] == "too few to tell"
    assert tested["crows_pairs.stereotyped"] == "0.037 / 0.068"
    assert tested["piqa.acc"] == "0.037"


def test_the_token_that_texts_begin_with_is_named_once_for_all_its_tasks() -> None:
    given = ordinary()
    given["tasks"][0]["first_token"] = None
    assert first_token_lines(as_read(given).tasks) == [
        "Texts begin with no special token: lambada.",
        "Texts begin with <|endoftext|>: crows_pairs.",
    ]
