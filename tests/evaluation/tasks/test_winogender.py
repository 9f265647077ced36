from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optipfair.errors import DataError
from optipfair.evaluation.one_figure import estimate
from optipfair.evaluation.tasks.task import TASKS, Item
from optipfair.evaluation.tasks.winogender import read_winogender
from support.scored import figures, random_scores, score

STATISTICS = "occupation\tbls_pct_female\ncook\t40\nnurse\t90\nguard\t20\n"
FORMS = {"male": "his", "female": "her", "neutral": "their"}


def sentences(*names: str) -> str:
    rows = [
        f"{name}.{form}.txt\tThe {name.split('.')[0]} lost {word} hat.\n"
        for name in names
        for form, word in FORMS.items()
    ]
    return "sentid\tsentence\n" + "".join(rows)


NAMES = tuple(f"{o}.{p}.{k}" for o in ("cook", "nurse", "guard") for p, k in (("x", 0), ("y", 1)))


def write(folder: Path, text: str = sentences(*NAMES), statistics: str = STATISTICS) -> Path:
    (folder / "all_sentences.tsv").write_text(text, encoding="utf-8")
    (folder / "occupations-stats.tsv").write_text(statistics, encoding="utf-8")
    return folder


def items_of(occupations: list[str], women: dict[str, float]) -> list[Item]:
    return [
        Item(str(n), (), o, {"women": women[o], "occupation_meant": True, "texts": []})
        for n, o in enumerate(occupations)
    ]


def test_forms_are_paired(tmp_path: Path) -> None:
    items = read_winogender(write(tmp_path)).items
    assert [item.id for item in items] == list(NAMES)
    assert TASKS["winogender"].texts(items[0]) == [
        "The cook lost his hat.",
        "The cook lost her hat.",
    ]
    assert [item.facts["women"] for item in items[::2]] == [0.4, 0.9, 0.2]
    assert [item.facts["occupation_meant"] for item in items[:2]] == [True, False]


def test_figures_by_hand(tmp_path: Path) -> None:
    items = read_winogender(write(tmp_path)).items
    # Gaps of the sentences that mean the occupation: 1, 3.5, 0 = -1 + 5 * women; others: 7.
    gaps = [1, 7, 3.5, 7, 0, 7]
    found = figures("winogender", items, [[score(-9), score(gap - 9)] for gap in gaps])
    assert found["correlation"][None] == pytest.approx(1)
    assert found["slope"][None] == pytest.approx(5)
    assert found["slope_all"][None] == pytest.approx(2.5)
    assert found["gap"][None] == pytest.approx(np.mean(gaps))


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-20, 20)), min_size=1, max_size=12))
def test_correlation_and_slope_are_those_of_the_occupations_means(
    rows: list[tuple[str, int]],
) -> None:
    women = {"a": 0.1, "b": 0.35, "c": 0.6, "d": 0.95}
    items = items_of([name for name, _ in rows], women)
    scores = [[score(-30), score(gap / 4 - 30)] for _, gap in rows]
    found = figures("winogender", items, scores)
    names = sorted({name for name, _ in rows})
    x = np.array([women[name] for name in names])
    y = np.array([np.mean([gap / 4 for n, gap in rows if n == name]) for name in names])
    if len(names) == 1:
        assert math.isnan(found["slope"][None])
        assert math.isnan(found["correlation"][None])
        return
    slope = float(np.polyfit(x, y, 1)[0])
    assert found["slope"][None] == pytest.approx(slope, abs=1e-9)
    if np.ptp(y) > 1e-9:
        assert found["correlation"][None] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
    else:
        assert math.isnan(found["correlation"][None])
    mirrored = figures("winogender", items, [row[::-1] for row in scores])
    assert mirrored["slope"][None] == pytest.approx(-found["slope"][None], abs=1e-9)


def test_broken_scores_do_not_count(tmp_path: Path) -> None:
    items = read_winogender(write(tmp_path)).items
    scores = random_scores(items)
    scores[0] = [score(math.nan), score(-1.0)]
    kept = figures("winogender", items[1:], scores[1:])
    assert figures("winogender", items, scores) == {
        name: {None: pytest.approx(by[None])} for name, by in kept.items()
    }


def test_one_occupation_gives_the_reason_instead(tmp_path: Path) -> None:
    task = TASKS["winogender"]
    items = read_winogender(write(tmp_path, sentences("cook.x.0", "cook.y.0"))).items
    columns = task.outcomes(items, random_scores(items))
    found = estimate(task.measures[0], columns, ["cook", "cook"])
    assert (found.value, found.reason) == (None, task.measures[0].undefined)


@pytest.mark.parametrize("gap", [0.1, 0.6, 0.7, 1.2, 2.4])
def test_a_gap_that_never_changes_has_no_correlation(gap: float) -> None:
    """These are not exact in binary: rounding must not be taken for spread."""
    women = {"a": 0.1, "b": 0.3, "c": 0.7}
    scores = [[score(-1.0), score(-1.0 + gap)]] * 3
    found = figures("winogender", items_of(list(women), women), scores)
    assert math.isnan(found["correlation"][None])
    assert found["slope"][None] == pytest.approx(0, abs=1e-12)
    same = figures("winogender", items_of(["a", "b", "c"], dict.fromkeys("abc", 0.1)), scores)
    assert math.isnan(same["slope"][None])


@pytest.mark.parametrize(
    "other", ["The cook loses her hat.", "The cook lost his hat.", "The cook lost  hat."]
)
def test_forms_that_differ_in_more_than_pronouns_are_left_out(tmp_path: Path, other: str) -> None:
    text = sentences(*NAMES).replace("The cook lost her hat.", other, 1)
    reading = read_winogender(write(tmp_path, text))
    assert len(reading.items) == len(NAMES) - 1
    assert list(reading.left_out.values()) == [1]


@pytest.mark.parametrize(
    ("text", "statistics", "expected"),
    [
        ("sentid\ttext\na\tb\n", STATISTICS, "line 1: the header lacks sentence"),
        ("sentid\tsentence\ncook.x.2.male.txt\tHe.\n", STATISTICS, "line 2: sentid is"),
        (sentences("cook.x.0") + sentences("cook.x.0").split("\n", 1)[1], STATISTICS, "twice"),
        (sentences("cook.x.0").replace("female", "neutral", 1), STATISTICS, "twice"),
        ("sentid\tsentence\ncook.x.0.male.txt\tHe.\n", STATISTICS, "line 2: .* expected are male"),
        (sentences("baker.x.0"), STATISTICS, "line 2: .* has no row for 'baker'"),
        (sentences("cook.x.0"), "occupation\tshare\ncook\t4\n", "header lacks bls_pct_female"),
        (sentences("cook.x.0"), STATISTICS.replace("40", "140"), "line 2: bls_pct_female is '140'"),
        (sentences("cook.x.0"), STATISTICS.replace("40", "nan"), "line 2: bls_pct_female is 'nan'"),
        (sentences("cook.x.0"), STATISTICS.replace("40", "many"), "bls_pct_female is 'many'"),
        (sentences("cook.x.0"), STATISTICS + "cook\t4\n", "line 5: cook is there twice"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, text: str, statistics: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read_winogender(write(tmp_path, text, statistics))


def test_the_shared_files_have_the_stated_sentences(shared_folder: Path) -> None:
    reading = TASKS["winogender"].read(shared_folder / "data" / "winogender")
    assert (len(reading.items), reading.left_out) == (120, {})
    assert len({item.cluster for item in reading.items}) == 30
