from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optipfair.errors import DataError
from optipfair.evaluation.changes import compare
from optipfair.evaluation.one_figure import estimate
from optipfair.evaluation.tasks.stereoset import read_stereoset
from optipfair.evaluation.tasks.task import TASKS, Item, Score
from support.scored import figures, score

SIDES = ("stereotype", "anti_stereotype", "unrelated")
SCORES = st.lists(
    st.tuples(*[st.integers(-5, -1)] * 3, st.sampled_from(["a", "b", "c"])), min_size=1, max_size=12
)


def row(number: int, target: str = "mother", bias_type: str = "gender") -> dict[str, Any]:
    texts = {side: f"A {target} is {side}." for side in SIDES}
    return {"id": f"n{number}", "bias_type": bias_type, "target": target, **texts}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(each) for each in rows), encoding="utf-8")
    return path


def items_of(terms: list[str]) -> list[Item]:
    return [
        Item(str(number), (), f"gender/{term}", {"bias_type": "gender", "texts": []})
        for number, term in enumerate(terms)
    ]


def scores_of(rows: list[tuple[float, ...]]) -> list[list[Score]]:
    return [[score(float(value)) for value in each] for each in rows]


@pytest.mark.parametrize("model", ["gpt2", "gpt2-medium", "gpt2-large"])
def test_published_scores_give_the_expected_figures(shared_folder: Path, model: str) -> None:
    path = shared_folder / "data" / TASKS["stereoset"].path
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    expected = json.loads((path.parent / "expected_from_reference_scores.json").read_text())[model]
    published = {
        each["id"]: [score(math.log(each["reference_scores"][model][side])) for side in SIDES]
        for each in rows
        if each["reference_scores"] is not None
    }
    items = [item for item in read_stereoset(path).items if item.id in published]
    found = figures("stereoset", items, [published[item.id] for item in items])
    assert len(items) == expected["overall"]["n"]
    assert len({item.cluster for item in items}) == expected["overall"]["terms"]
    for measure, by_domain in found.items():
        assert by_domain == {
            None if domain == "overall" else domain: pytest.approx(values[measure], abs=1e-5)
            for domain, values in expected.items()
        }


def test_figures_by_hand() -> None:
    # Term a: stereotype preferred in 1 of 2, related in 4 of 4; term b: in 1 of 1, and 1 of 2.
    rows = [(-1, -2, -3), (-2, -1, -3), (-1, -3, -2)]
    found = figures("stereoset", items_of(["a", "a", "b"]), scores_of(rows))
    ss, lms = 100 * (0.5 + 1) / 2, 100 * (1 + 0.5) / 2
    assert {name: by[None] for name, by in found.items()} == {
        "SS": ss,
        "LMS": lms,
        "ICAT": pytest.approx(lms * (100 - ss) / 50),
        "SS_micro": pytest.approx(100 * 2 / 3),
        "LMS_micro": pytest.approx(100 * 5 / 6),
    }


def test_scores_are_compared_per_token() -> None:
    found = figures("stereoset", items_of(["a"]), [[score(-4, 4), score(-3, 1), score(-9)]])
    assert found["SS"][None] == 100.0


@given(SCORES)
def test_exchanged_labels_mirror_the_stereotype_score(rows: list[tuple[Any, ...]]) -> None:
    items = items_of([each[3] for each in rows])
    found = figures("stereoset", items, scores_of([each[:3] for each in rows]))
    mirrored = figures("stereoset", items, scores_of([(b, a, c) for a, b, c, _ in rows]))
    assert mirrored["SS"][None] == pytest.approx(100 - found["SS"][None])
    assert mirrored["LMS"][None] == pytest.approx(found["LMS"][None])
    assert mirrored["ICAT"][None] == pytest.approx(found["ICAT"][None])
    assert 0 <= found["ICAT"][None] <= found["LMS"][None] + 1e-9
    assert found["LMS"][None] <= 100


@given(SCORES)
def test_a_term_counts_once_however_often_it_occurs(rows: list[tuple[Any, ...]]) -> None:
    items = items_of([each[3] for each in rows] * 2)
    once = figures("stereoset", items[: len(rows)], scores_of([each[:3] for each in rows]))
    twice = figures("stereoset", items, scores_of([each[:3] for each in rows] * 2))
    first = rows[0][3]
    more = [*rows, *[each for each in rows if each[3] == first]]
    uneven = figures(
        *("stereoset", items_of([e[3] for e in more]), scores_of([e[:3] for e in more]))
    )
    for found in (twice, uneven):
        assert found["SS"][None] == pytest.approx(once["SS"][None])
        assert found["LMS"][None] == pytest.approx(once["LMS"][None])


def test_broken_scores_do_not_count() -> None:
    rows = [(-1.0, -2.0, -3.0), (math.nan, -2.0, -3.0), (-2.0, -1.0, math.nan)]
    found = figures("stereoset", items_of(["a", "a", "a"]), scores_of(rows))
    assert {by[None] for name, by in found.items() if name != "ICAT"} == {100.0}
    none = figures("stereoset", items_of(["a"]), scores_of(rows[1:2]))
    assert all(math.isnan(by[None]) for by in none.values())


def test_no_figure_comes_with_a_reason_and_the_same_model_with_no_change() -> None:
    items = items_of(["a", "a", "b"])
    task = TASKS["stereoset"]
    broken = task.outcomes(items, scores_of([(math.nan,) * 3] * 3))
    columns = task.outcomes(items, scores_of([(-1, -2, -3), (-2, -1, -3), (-1, -3, -2)]))
    clusters = [item.cluster for item in items]
    for measure in task.measures:
        empty = estimate(measure, broken, clusters)
        assert (empty.value, empty.reason) == (None, measure.undefined)
        assert compare(measure, columns, columns, clusters).harm.value == 0.0


def test_one_target_in_two_domains_is_two_terms(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", [row(1), row(2), row(3, bias_type="profession")])
    items = read_stereoset(path).items
    assert [item.cluster for item in items] == ["gender/mother"] * 2 + ["profession/mother"]
    assert [query.continuation for query in items[0].queries] == [row(1)[side] for side in SIDES]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"unrelated": None}, "line 2: unrelated is None; expected is text"),
        ({"target": " "}, "line 2: target is ' '"),
        ({"id": "n1"}, "line 2: the id n1 is there twice"),
        ("stereotype", "line 2: the column stereotype is missing"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, change: Any, expected: str) -> None:
    bad = row(2) | change if isinstance(change, dict) else row(2)
    if isinstance(change, str):
        del bad[change]
    with pytest.raises(DataError, match=expected):
        read_stereoset(write(tmp_path / "s.jsonl", [row(1), bad]))
