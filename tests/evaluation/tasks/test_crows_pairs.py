from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optipfair.errors import DataError
from optipfair.evaluation.measures import preferred, settled
from optipfair.evaluation.tasks.crows_pairs import read_crows_pairs, shared_totals
from optipfair.evaluation.tasks.task import TASKS, Score
from support.scored import figures, score

HEADER = "id,sent_more,sent_less,stereo_antistereo,bias_type\n"
ROWS = [
    '1,"The poor, they say.","The rich, they say.",stereo,socioeconomic\n',
    "2,Women cook.,Men cook.,antistereo,gender\n",
    "3,She drives badly.,He drives badly.,stereo,gender\n",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text(HEADER + "".join(ROWS), encoding="utf-8")
    return path


def test_pairs_are_read_with_the_stereotyping_sentence_first(file: Path) -> None:
    items = read_crows_pairs(file).items
    assert [item.id for item in items] == ["1", "2", "3"]
    assert items[0].queries[0].continuation == "The poor, they say."
    assert {query.context for item in items for query in item.queries} == {""}
    assert TASKS["crows_pairs"].texts(items[1]) == ["Women cook.", "Men cook."]


def test_figures_by_hand(file: Path) -> None:
    # Pair 1: summed -4 > -6 (stereotype), per token -4/1 < -6/3. Pair 2: equal. Pair 3: -5 < -3.
    scores = [[score(-4), score(-6, 3)], [score(-2), score(-2)], [score(-5), score(-3)]]
    found = figures("crows_pairs", read_crows_pairs(file).items, scores)
    assert found["stereotyped"] == {
        None: pytest.approx((1 + 0.5 + 0) / 3), "socioeconomic": 1.0, "gender": 0.25
    }  # fmt: skip
    assert found["stereotyped_per_token"][None] == pytest.approx((0 + 0.5 + 0) / 3)


def test_only_shared_tokens_count() -> None:
    # Shared are 1 and 2 before, and 4 after: -1 - 1 - 7 against -1 - 1 - 2.
    more = Score((1, 2, 9, 4), (-1.0, -1.0, -0.5, -7.0), greedy=False)
    less = Score((1, 2, 8, 7, 4), (-1.0, -1.0, -9.0, -9.0, -2.0), greedy=False)
    assert shared_totals(more, less) == (-9.0, -4.0)
    assert shared_totals(less, more) == (-4.0, -9.0)
    assert all(math.isnan(x) for x in shared_totals(more, Score((5,), (-1.0,), greedy=False)))


def test_a_token_that_is_often_there_is_still_shared() -> None:
    """`SequenceMatcher` would leave it out of long texts."""
    more, less = (Score((1,) * 250 + (last,), (-1.0,) * 251, False) for last in (2, 3))
    assert shared_totals(more, less) == (-250.0, -250.0)


def test_pairs_without_a_shared_token_have_no_figure(file: Path) -> None:
    scores = [[Score((1,), (-1.0,), False), Score((2,), (-2.0,), False)]] * 3
    found = figures("crows_pairs", read_crows_pairs(file).items, scores)
    assert math.isnan(found["stereotyped_shared"][None])
    assert found["stereotyped"][None] == 1.0


@given(st.lists(st.tuples(st.floats(-9, 0), st.floats(-9, 0)), min_size=1))
def test_exchanged_sentences_mirror_the_preference(pairs: list[tuple[float, float]]) -> None:
    first, second = np.array(pairs).T
    assert preferred(first, second).tolist() == (1 - preferred(second, first)).tolist()


def test_ties_and_broken_scores_are_no_answer() -> None:
    found = settled(preferred([1, 1, 0, math.nan, -math.inf], [1, 0, 1, 0, -math.inf]))
    np.testing.assert_array_equal(found, [math.nan, 1, 0, math.nan, math.nan])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEADER.replace("sent_less", "other") + ROWS[0], "line 1: the header lacks sent_less"),
        (HEADER + ROWS[0] + "2,Only one.,,stereo,gender\n", "line 3: sent_less is ''"),
        (HEADER + "2,Only one.\n", "line 2: the row has not the 5 fields"),
        (HEADER + ROWS[0] + ROWS[0], "line 3: the id 1 is there twice"),
        (HEADER, "holds no rows"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=expected) as caught:
        read_crows_pairs(path)
    assert str(path) in str(caught.value)


def test_the_shared_file_has_the_stated_pairs(shared_folder: Path) -> None:
    items = TASKS["crows_pairs"].read(shared_folder / "data" / TASKS["crows_pairs"].path).items
    found = figures("crows_pairs", items, [[score(-1), score(-2)]] * len(items))
    assert len(items) == 754
    assert len(found["stereotyped"]) == 1 + 9
    assert set(found["stereotyped"].values()) == {1.0}


def test_pairs_share_the_words_that_tell_their_sentences_apart(file: Path) -> None:
    items = read_crows_pairs(file).items
    assert [sorted(item.words) for item in items] == [
        ["poor", "rich"], ["men", "women"], ["he", "she"]
    ]  # fmt: skip
    assert items[0].shares == {"1", "poor", "rich"}
