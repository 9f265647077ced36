"""Tasks of ability: the files as they are, what is wrong with a file, and figures by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from optipfair import DataError
from optipfair.evaluation.one_figure import estimate
from optipfair.evaluation.tasks import TASKS
from optipfair.evaluation.tasks.task import Query, Score

GOOD: dict[str, dict[str, Any]] = {
    "lambada": {"id": 1, "context": "He said to", "continuation": "Ann"},
    "piqa": {"id": 1, "goal": "Dry.", "sol1": "sun", "sol2": "some water", "label": 0},
    "arc_easy": {"id": "a", "question": "Why?", "choices": ["no", "été", "yes"], "gold": 1},
    "winogrande": {"id": 1, "context_options": ["A", "B"], "continuation": "ran.", "gold": 1},
}
ASKED = {
    "lambada": [Query("He said to", " Ann")],
    "piqa": [
        Query("Question: Dry.\nAnswer:", " sun"),
        Query("Question: Dry.\nAnswer:", " some water"),
    ],
    "arc_easy": [Query("Question: Why?\nAnswer:", f" {word}") for word in ("no", "été", "yes")],
    "winogrande": [Query("A", " ran."), Query("B", " ran.")],
}


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def figures(name: str, folder: Path, *totals: list[float]) -> dict[str, float | None]:
    """Of the good row, as often as there are lists of log-likelihoods."""
    task = TASKS[name]
    items = task.read(written(folder, *({**GOOD[name], "id": n} for n in range(len(totals))))).items
    scores = [[Score((1,), (total,), total > -1) for total in own] for own in totals]
    columns = task.outcomes(items, scores)
    clusters = [item.cluster for item in items]
    return {m.name: estimate(m, columns, clusters).value for m in task.measures}


@pytest.mark.parametrize("name", GOOD)
def test_an_item_is_asked_as_its_protocol_says(name: str, tmp_path: Path) -> None:
    (item,) = TASKS[name].read(written(tmp_path, GOOD[name])).items
    assert list(item.queries) == ASKED[name]
    assert item.id == item.cluster == str(GOOD[name]["id"])
    assert all(isinstance(line, str) and line for line in TASKS[name].texts(item))


@pytest.mark.parametrize(
    ("name", "rows"), [("lambada", 2577), ("piqa", 919), ("arc_easy", 1188), ("winogrande", 634)]
)
def test_the_shared_files_are_read_whole(name: str, rows: int, shared_folder: Path) -> None:
    reading = TASKS[name].read(shared_folder / "data" / TASKS[name].path)
    assert (len(reading.items), reading.left_out) == (rows, {})
    assert len({item.id for item in reading.items}) == rows


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("lambada", {"continuation": " "}, "continuation is ' '; expected is text, not empty"),
    ("lambada", {"context": 7}, "context is 7; expected is text"),
    ("piqa", {"label": 2}, "label is 2; expected is 0 to 1"),
    ("piqa", {"label": True}, "label is True; expected is 0 to 1"),
    ("piqa", {"sol2": ""}, "sol2 is ''"),
    ("arc_easy", {"gold": 3}, "gold is 3; expected is 0 to 2"),
    ("arc_easy", {"choices": ["one"]}, r"choices is \['one'\]; expected are two or more texts"),
    ("arc_easy", {"choices": ["one", 2]}, ".*expected are two or more texts"),
    ("winogrande", {"context_options": ["A", " "]}, ".*expected are two or more texts"),
    ("winogrande", {"gold": -1}, "gold is -1; expected is 0 to 1"),
    ("winogrande", {"id": "0"}, "the id 0 is there twice, first in .*line 1"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD)
def test_a_wrong_row_is_named(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, {**GOOD[name], "id": 0}, {**GOOD[name], **change})
    with pytest.raises(DataError, match=f"rows.jsonl, line 2: {message}"):
        TASKS[name].read(path)


@pytest.mark.parametrize(("name", "column"), [(n, c) for n, row in GOOD.items() for c in row])
def test_a_missing_column_is_named(name: str, column: str, tmp_path: Path) -> None:
    row = {key: value for key, value in GOOD[name].items() if key != column}
    with pytest.raises(DataError, match=f"line 1: the column {column} is missing"):
        TASKS[name].read(written(tmp_path, row))


def test_last_words_by_hand(tmp_path: Path) -> None:
    """Greedy are those above -1: two of three. Perplexity is exp((0.5 + 0.5 + 5) / 3)."""
    found = figures("lambada", tmp_path, [-0.5], [-0.5], [-5.0])
    assert found == pytest.approx({"acc": 2 / 3, "perplexity": math.exp(2)})


def test_a_hopeless_model_has_a_perplexity_all_the_same(tmp_path: Path) -> None:
    assert figures("lambada", tmp_path, [-1e6], [-1e6])["perplexity"] == pytest.approx(
        math.exp(700)
    )


def test_answers_by_their_length_by_hand(tmp_path: Path) -> None:
    """Choices no, été (right), yes: 2, 3, 3 characters and 2, 5, 3 bytes.

    -4, -4.5, -9: no is largest; per character -2, -1.5, -3, per byte -2, -0.9, -3: été.
    -2, -4, -9: per character -1, -1.33, -3: no; per byte -1, -0.8, -3: été.
    """
    found = figures("arc_easy", tmp_path, [-4.0, -4.5, -9.0], [-2.0, -4.0, -9.0])
    assert found == {"acc": 0, "acc_norm": 0.5, "acc_bytes": 1}


def test_of_equal_answers_the_first_counts(tmp_path: Path) -> None:
    assert figures("winogrande", tmp_path, [-3.0, -3.0], [-3.0, -2.0]) == {"acc": 0.5}
    assert figures("piqa", tmp_path, [-3.0, -3.0], [-3.0, -2.0])["acc"] == 0.5


@pytest.mark.parametrize("name", GOOD)
def test_a_task_says_what_its_answers_are(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    items = task.read(written(tmp_path, GOOD[name])).items
    scores = [[Score((1,), (-1.0,), True) for _ in items[0].queries]]
    columns = task.outcomes(items, scores)
    assert task.answer is not None
    assert set(columns[task.answer]) <= {0.0, 1.0}
    for measure in task.measures:
        assert measure.parts(columns).shape[0] == 1
