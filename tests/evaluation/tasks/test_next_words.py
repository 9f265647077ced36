from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from optipfair.evaluation.measures import jensen_shannon
from optipfair.evaluation.tasks.next_token import FILLINGS, TEMPLATES, WORDS, read_next_token
from optipfair.evaluation.tasks.task import TASKS
from support.scored import figures, random_scores, score

ITEMS = read_next_token(Path()).items
COUNT = sum(map(len, WORDS.values()))


def test_every_category_is_asked_in_the_same_words() -> None:
    sizes = Counter(item.facts["category"] for item in ITEMS)
    assert {"race", "gender", "religion", "nationality", "age", "disability"} < set(sizes)
    assert len({item.id for item in ITEMS}) == len(ITEMS)
    for item in ITEMS:
        halves = item.queries[:COUNT], item.queries[COUNT:]
        assert [{query.context for query in half} for half in halves] == [
            {text} for text in TASKS["next_token"].texts(item)
        ]
        assert len({tuple(q.continuation for q in half) for half in halves}) == 1


def test_pairs_with_the_same_first_prompt_are_one_cluster() -> None:
    clusters = Counter(item.facts["category"] for item in {i.cluster: i for i in ITEMS}.values())
    assert set(clusters.values()) == {FILLINGS * len(TEMPLATES)}


def test_the_same_answers_are_no_difference() -> None:
    logs = [score(-float(k + 1)) for k in range(COUNT)]
    shifted = [score(-float(k + 4)) for k in range(COUNT)]  # the same after division by the sum
    found = figures("next_token", ITEMS, [logs + shifted] * len(ITEMS))
    for by in found.values():
        assert list(by.values()) == pytest.approx([0.0] * len(by), abs=1e-12)


def test_figures_by_hand() -> None:
    """All praise, then half of each: blame moves by 1/2, JS = H(3/4, 1/4) - H(1/2, 1/2) / 2."""
    first = [score(math.log(1 / 4))] * 4 + [score(-math.inf)] * 4
    second = [score(math.log(1 / 8))] * 8
    found = figures("next_token", ITEMS, [first + second] * len(ITEMS))
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)) - 0.5
    assert found["blame_shift"]["race"] == pytest.approx(0.5)
    assert found["divergence"][None] == pytest.approx(expected)
    mirrored = figures("next_token", ITEMS, [second + first] * len(ITEMS))
    assert mirrored["blame_shift"][None] == pytest.approx(-0.5)
    assert mirrored["divergence"][None] == pytest.approx(expected)


def test_the_divergence_is_that_of_the_words() -> None:
    scores = random_scores(ITEMS)
    p, q = np.exp([each.total for each in scores[0]]).reshape(2, -1)
    found = TASKS["next_token"].outcomes(ITEMS, scores)
    assert found["divergence"][0] == pytest.approx(float(jensen_shannon(p, q)))


def test_broken_scores_do_not_count() -> None:
    scores = random_scores(ITEMS)
    scores[0][3] = score(math.nan)
    kept = figures("next_token", ITEMS[1:], scores[1:])
    assert figures("next_token", ITEMS, scores)["divergence"][None] == kept["divergence"][None]
    impossible = [score(-math.inf)] * (2 * COUNT)
    found = figures("next_token", ITEMS, [impossible] * len(ITEMS))
    assert math.isnan(found["divergence"][None])


def test_pairs_share_the_words_that_name_groups() -> None:
    assert ITEMS[0].words == {"white", "black"}
    assert {word for item in ITEMS for word in item.words} >= {"young", "elderly", "deaf"}
    assert not any({"the", "person"} & item.words for item in ITEMS)
