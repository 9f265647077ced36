"""Calculations: which are read from worked solutions, and what counts as the right number."""

from __future__ import annotations

import os
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from optipfair import DataError, evaluate_model
from optipfair.evaluation.tasks import TASKS
from optipfair.evaluation.tasks.arithmetic import (
    begins_with,
    calculations,
    read_arithmetic,
    value_of,
)
from optipfair.testing import byte_tokenizer
from support.comparing_processes import models
from support.small_data import put, written

SHARED = Path(__file__).parents[4] / "shared" / "data"
DATA = Path(os.environ.get("OPTIPFAIR_DATA", SHARED))
FILE = "text_mix/train.jsonl"
SOLUTION = """Question: Ann has 3 bags of 4 apples and eats 2. How many are left?
Answer: She has 3 * 4 = 12 apples.
Then 12-2=10 apples are left, which is 1/3 = 0.33 of nothing.
The answer is 10

Question: A hat costs $5 and a coat 20 times as much. What do both cost?
Answer: The coat costs 20 x $5 = $100 and both 5 + 100 = $105.
The answer is 105
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("She has 3 * 4 = 12 apples.", [("She has 3 * 4 =", "12")]),
        ("so 12-2=10 are left", [("so 12-2 =", "10")]),
        ("$1,200 / 3 = $400.", [("$1,200 / 3 =", "400")]),
        ("(2 + 4) x 3 = 18", [("(2 + 4) x 3 =", "18")]),
        ("half of it is 8 × .5 = 4", []),  # noqa: RUF001
        ("7 × 2.5 = 17.50", [("7 × 2.5 =", "17.50")]),  # noqa: RUF001
        ("a third is 10/3 = 3.33", []),  # not equal
        ("3 bags * 4 = 12", []),  # words between
        (
            "1 bag 3 + 4 = 7 and 7 - 2 = 5",
            [("1 bag 3 + 4 =", "7"), ("1 bag 3 + 4 = 7 and 7 - 2 =", "5")],
        ),
        ("10 - 2 * 3 = 4", [("10 - 2 * 3 =", "4")]),
        ("100 * 100,000 = 10,000,000", []),  # too long a result
        ("2 ** 3 = 8, 1/0 = 1, 05 + 1 = 6", []),
        ("x + 1 = 2, 3 = 3", []),
    ],
)
def test_what_is_read_of_a_line(line: str, expected: list[tuple[str, str]]) -> None:
    assert calculations(line) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [("1 + 2*3", 7), ("$10 - (4 + 1)", 5), ("1/2 x 3", Fraction(3, 2)), ("2**9", None),
     ("1/0", None), ("a + 1", None), ("'1'", None), ("1 +", None), ("(1).real", None)],
)  # fmt: skip
def test_values(text: str, value: Any) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    ("text", "wanted", "right"),
    [
        (" 12 apples", "12", True), ("12.", "12", True), (" $12.00", "12", True),
        (" 1,200", "1200", True), (" 120", "12", False), (" 1", "12", False),
        (" 12.5", "12", False), (" twelve", "12", False), ("", "12", False),
        (" about 12", "12", False), (" 400.", "400.00", True),
    ],
)  # fmt: skip
def test_the_number_that_is_written_first_counts(text: str, wanted: str, right: bool) -> None:
    assert begins_with(text, wanted) is right


def test_problems_are_clusters_and_other_domains_stay_out(tmp_path: Path) -> None:
    put(
        tmp_path / "train.jsonl",
        [{"domain": "math", "text": SOLUTION}, {"domain": "prose", "text": "It is 1 + 1 = 2."}],
    )
    found = read_arithmetic(tmp_path / "train.jsonl")
    assert [
        (item.cluster, item.queries[0].context, item.facts["result"]) for item in found.items
    ] == [
        ("0", "She has 3 * 4 =", "12"),
        ("0", "Then 12-2 =", "10"),
        ("1", "The coat costs 20 x $5 =", "100"),
        ("1", "The coat costs 20 x $5 = $100 and both 5 + 100 =", "105"),
    ]
    assert len({item.id for item in found.items}) == 4
    assert found.left_out == {"not of mathematics": 1, "not held back from training": 0}


def test_right_answers_are_counted(tmp_path: Path) -> None:
    task = TASKS["arithmetic"]
    items = read_arithmetic(written(tmp_path, "text_mix") / FILE).items
    found = task.outcomes(items, [f" {item.facts['result']} of them" for item in items])
    assert found["right"].tolist() == [1.0] * len(items)
    assert task.outcomes(items, ["?"] * len(items))["right"].tolist() == [0.0] * len(items)


def test_it_is_measured_of_one_model_and_left_out_without_data(tmp_path: Path) -> None:
    model, tokenizer = models()[0], byte_tokenizer()
    found = evaluate_model(model, tokenizer, data=written(tmp_path, "text_mix"))
    (row,) = [row for row in found["measures"] if row["task"] == "arithmetic"]
    assert (row["id"], row["headline"], 0.0 <= row["value"] <= 1.0) == (
        "arithmetic.exact", True, True,
    )  # fmt: skip
    assert row["items"] > row["clusters"] > 1
    (tmp_path / FILE).unlink()
    missing = evaluate_model(model, tokenizer, data=tmp_path)["left_out"]
    reasons = {each["section"]: each["reason"] for each in missing}
    assert reasons["arithmetic"] == f"{FILE} is not in the data folder"


def test_a_file_without_calculations_is_refused(tmp_path: Path) -> None:
    put(tmp_path / FILE, [{"domain": "prose", "text": "Nothing to count."}])
    with pytest.raises(DataError, match=r"no item is left of the task arithmetic .*of mathematics"):
        evaluate_model(models()[0], byte_tokenizer(), data=tmp_path)


def test_a_model_that_cannot_write_is_asked_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models()[0]
    monkeypatch.setattr(type(model), "generate", None)
    found = evaluate_model(model, byte_tokenizer(), data=written(tmp_path, "text_mix", "piqa"))
    assert [each["name"] for each in found["tasks"]] == ["piqa", "next_token"]
    reasons = {each["section"]: each["reason"] for each in found["left_out"]}
    assert reasons["arithmetic"] == "LlamaForCausalLM cannot generate"


@pytest.mark.skipif(not (DATA / FILE).is_file(), reason="no shared data")
def test_the_real_documents_give_items_whose_results_are_theirs() -> None:
    items = read_arithmetic(DATA / FILE).items
    assert len(items) >= 150
    assert len(Counter(item.cluster for item in items)) >= 50
    for item in items:
        left = item.queries[0].context
        assert left.endswith(" =") and len(left) < 400
