"""Data files that cannot be read: what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from optipfair import DataError, evaluate_model
from optipfair.testing import byte_tokenizer
from support.comparing_processes import models
from support.small_data import LINES, ROWS, put, written


@pytest.mark.parametrize("name", [*ROWS, *LINES])
def test_a_bad_row_is_named_with_its_line_and_what_was_expected(tmp_path: Path, name: str) -> None:
    written(tmp_path)
    file = tmp_path / name
    bad = "\0" if name.startswith("wikitext2") else "{not a row"
    file.write_text(file.read_text(encoding="utf-8") + bad + "\n", encoding="utf-8")
    number = len(file.read_text(encoding="utf-8").splitlines())
    with pytest.raises(DataError) as caught:
        evaluate_model(models()[0], byte_tokenizer(), data=tmp_path)
    message = str(caught.value)
    assert str(file) in message
    assert "wikitext2" in name or f"line {number}:" in message
    assert "xpected" in message or "must hold one object" in message or "UTF-8" in message


# Columns that no task reads.
IGNORED = {"labels", "answerKey", "stereo_antistereo", "source"}
COLUMNS = [
    (name, column)
    for name, rows in ROWS.items()
    for column in rows[0]
    if column not in IGNORED and (Path(name).parts[0], column) != ("stereoset", "context")
]


@pytest.mark.parametrize(("name", "column"), COLUMNS)
def test_a_missing_column_is_named_with_the_file(tmp_path: Path, name: str, column: str) -> None:
    written(tmp_path, Path(name).parts[0])
    rows = [
        {key: value for key, value in row.items() if key != column or number == 0}
        for number, row in enumerate(ROWS[name])
    ]
    if not name.endswith("jsonl"):
        del rows[0][column]
    put(tmp_path / name, rows)
    line = 2 if name.endswith("jsonl") else 1
    with pytest.raises(DataError, match=rf"{name}, line {line}: .*\b{column}\b.* Expected"):
        evaluate_model(models()[0], byte_tokenizer(), data=tmp_path)


@pytest.mark.parametrize("text", ["half a \\ud800 pair", "number\\x"])
def test_what_is_no_text_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, "piqa") / "piqa/piqa_shared.jsonl"
    file.write_text(file.read_text().replace("a shoe", text))
    with pytest.raises(DataError, match="line 2: no JSON"):
        evaluate_model(models()[0], byte_tokenizer(), data=tmp_path)


def test_a_line_separator_in_a_text_ends_no_row(tmp_path: Path) -> None:
    file = written(tmp_path, "piqa") / "piqa/piqa_shared.jsonl"
    file.write_text(file.read_text().replace("a shoe", "a\u2028shoe\x85"), encoding="utf-8")
    found = evaluate_model(models()[0], byte_tokenizer(), data=tmp_path, tasks=["piqa"])
    assert found["tasks"][0]["items"] == 6


def test_no_items_after_what_is_left_out_is_refused_with_the_reason(tmp_path: Path) -> None:
    written(tmp_path, "winobias")
    for kind in (1, 2):
        file = tmp_path / f"winobias/anti_stereotyped_type{kind}.dev.txt"
        file.write_text(file.read_text().replace("[", "very [", 8))
    with pytest.raises(DataError, match=r"winobias: no item is left .* \(4 rows: .*differ in more"):
        evaluate_model(models()[0], byte_tokenizer(), data=tmp_path)
