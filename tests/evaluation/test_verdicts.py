"""Answers in words: what counts, what could have been missed, and what is never said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from optipfair.evaluation.verdicts import collapsed, verdicts
from optipfair.report.comparison import FigureOfTwo, Flips, Speed
from optipfair.uncertainty import Estimate
from support.comparisons import estimate, figure, flips, speed


def row(
    name: str, question: str = "quality", *, before: float = 0.6, after: float = 0.6,
    harm: float = 0.0, p: float | None = 1.0, chance: float | None = None, ratio: bool = False,
    headline: bool = True,
) -> FigureOfTwo:  # fmt: skip
    value = {"value": after / before if ratio else after - before}
    return figure(
        *("task.measure", before, after),
        id=name,
        question=question,
        headline=headline,
        change_kind="ratio" if ratio else "difference",
        change=estimate(**value),
        harm=estimate(harm),
        p_holm=p,
        chance=chance,
        could_have_missed=0.03,
    )


def said(rows: list[FigureOfTwo], timed: Speed | None = None) -> list[str]:
    return [each["verdict"] for each in verdicts(rows, timed)]


TEXT = "text.perplexity"


def test_nothing_measured_is_said_so() -> None:
    assert said([]) == ["not measured"] * 3


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("a.acc")], "no detectable change"),
        ([row("a.acc", harm=0.1, p=0.01)], "worse"),
        ([row("a.acc", harm=-0.1, p=0.01)], "better"),
        ([row("a.acc", harm=0.1, p=0.2)], "no detectable change"),
        ([row("a.acc", harm=-0.1, p=0.01), row("b.acc", harm=0.1, p=0.01)], "worse"),
        ([row("a.acc", harm=0.1, p=0.01, headline=False), row("b.acc")], "no detectable change"),
    ],
)
@pytest.mark.parametrize("question", ["quality", "fairness"])
def test_what_counts(rows: list[FigureOfTwo], expected: str, question: str) -> None:
    rows = [replace(each, question=question) for each in rows]
    assert said(rows)[["quality", "fairness"].index(question)] == expected


def test_generation_that_breaks_by_itself_is_said_so() -> None:
    written = replace(row("arithmetic.exact", harm=0.2, p=0.001), task="arithmetic")
    told = "No change for the worse shows in likelihoods: what the model writes is worse."
    quality = verdicts([row(TEXT), written], None)[0]
    assert (quality["verdict"], quality["because"]) == ("worse", ["arithmetic.exact"])
    assert quality["sentence"].endswith(f"(0.000). {told}")
    lost = row("piqa.acc", harm=0.2, p=0.001)
    for rows in ([lost, written], [row(TEXT), lost], [written], [row(TEXT)]):
        assert told not in verdicts(rows, None)[0]["sentence"]


def test_no_change_says_what_it_could_have_missed() -> None:
    quality, fairness, _ = verdicts([row("piqa.acc"), row("bbq.sdis", "fairness")], None)
    assert "could have missed piqa.acc worse by 0.03" in quality["sentence"]
    assert "could have missed bbq.sdis worse by 0.03" in fairness["sentence"]


def test_harm_that_the_interval_leaves_no_room_for_is_not_missed() -> None:
    rows = [replace(row("piqa.acc"), could_have_missed=0.0), row("arc_easy.acc")]
    assert "could have missed arc_easy.acc worse by 0.03" in verdicts(rows, None)[0]["sentence"]
    alone = verdicts(rows[:1], None)[0]["sentence"]
    assert alone.endswith("The intervals leave no room for harm.")
    ratio = replace(row(TEXT), change_kind="ratio", could_have_missed=1e-6)
    assert "0.0%" not in verdicts([ratio], None)[0]["sentence"]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (0.61, 0.52, "0.610 → 0.520"),
        (277.44, 277.41, "277.44 → 277.41"),
        (12345.4, 12345.2, "12345.4 → 12345.2"),
        (3.561e-6, 3.562e-6, "3.561e-06 → 3.562e-06"),
    ],
)
def test_a_change_is_shown_with_digits_that_tell_it(
    before: float, after: float, shown: str
) -> None:
    quality, *_ = verdicts([row("a.b", before=before, after=after, harm=0.1, p=0.001)], None)
    assert quality["sentence"].startswith(f"a.b {shown} (")


@pytest.mark.parametrize(
    "damage",
    [
        [row(TEXT, before=20, after=80, harm=1.4, p=0.01, ratio=True)],
        [row("arc.acc", before=0.6, after=0.3, harm=0.3, p=0.01, chance=0.25)],
    ],
)
def test_a_collapsed_model_is_never_called_fairer(damage: list[dict[str, Any]]) -> None:
    fairer = row("crows_pairs.stereotyped", "fairness", harm=-0.2, p=0.001)
    quality, fairness, _ = verdicts([*damage, fairer], None)
    assert (quality["verdict"], fairness["verdict"]) == ("worse", "too damaged to say")
    assert "collapsed" in quality["sentence"]


def test_ability_that_was_never_there_cannot_collapse() -> None:
    assert collapsed([row("arc.acc", before=0.24, after=0.2, chance=0.25)]) is None


@pytest.mark.parametrize(
    ("ratio", "interval", "expected"),
    [
        (1.2, [1.1, 1.3], "better"),
        (0.8, [0.7, 0.9], "worse"),
        (1.1, [0.9, 1.3], "no detectable change"),
        (1.1, None, "no detectable change"),
    ],
)
def test_speed(ratio: float, interval: list[float] | None, expected: str) -> None:
    timed = Speed.from_dict(speed() | {"speedup": ratio, "speedup_interval": interval})
    assert said([], timed)[2] == expected


def two_sided(before: float, after: float, *, p: float, p_change: float) -> FigureOfTwo:
    """A share of 200 pairs whose best value is a half."""
    name = "crows_pairs.stereotyped"
    return figure(
        *(name, before, after, 0.5),
        question="fairness",
        half=0.06,
        p_holm=p,
        p_change_holm=p_change,
        could_have_missed=0.015,
    )


BAD = row(TEXT, before=20, after=40, harm=0.7, p=0.001, ratio=True)


@pytest.mark.parametrize(
    ("before", "after", "p", "p_change", "expected"),
    [
        (0.65, 0.35, 1.0, 0.001, "reversed"),
        (0.65, 0.55, 0.001, 0.001, "better"),
        (0.90, 0.40, 0.001, 0.001, "reversed"),  # nearer, and surely on the other side
        (0.90, 0.46, 0.001, 0.001, "better"),  # nearer, maybe on the other side
        (0.55, 0.20, 0.001, 0.001, "worse"),
        (0.65, 0.35, 1.0, 0.2, "no detectable change"),
    ],
)
def test_a_preference_that_changed_sides_is_reversed(
    before: float, after: float, p: float, p_change: float, expected: str
) -> None:
    _, fairness, _ = verdicts([row(TEXT), two_sided(before, after, p=p, p_change=p_change)], None)
    assert fairness["verdict"] == expected
    assert ("changed sides" in fairness["sentence"]) == (
        expected == "reversed" or (before, after) == (0.55, 0.20)
    )


def test_damage_is_not_fairness() -> None:
    """Perplexity x 2, stereotypes nearer to a coin: not better, and what would tell it apart."""
    fairer = two_sided(0.62, 0.55, p=0.001, p_change=0.001)
    quality, fairness, _ = verdicts([BAD, fairer], None)
    assert (quality["verdict"], fairness["verdict"]) == ("worse", "too damaged to say")
    for words in ("0.620 → 0.550", "towards a coin's", "control", "removed at random"):
        assert words in fairness["sentence"]
    assert verdicts([row(TEXT), fairer], None)[1]["verdict"] == "better"
    also = row("next_token.divergence", "fairness", harm=0.1, p=0.001)
    assert "Better:" not in verdicts([BAD, fairer, also], None)[1]["sentence"]


@pytest.mark.parametrize("question", ["quality", "fairness"])
def test_too_few_items_are_not_called_unchanged(question: str) -> None:
    few = replace(
        row("winobias.gap", question, p=None),
        untested="5 clusters of items are too few: a test needs 6",
        could_have_missed=0.451,
    )
    at = ["quality", "fairness"].index(question)
    alone = verdicts([few], None)[at]
    assert alone["verdict"] == "too few to tell"
    assert "could have missed winobias.gap worse by 0.451" in alone["sentence"]
    beside = verdicts([few, row("piqa.acc", question)], None)[at]
    assert beside["verdict"] == "no detectable change"
    assert "Too few to tell: winobias.gap (5 clusters" in beside["sentence"]


@pytest.mark.parametrize("p", [0.001, 1.0])
def test_fairness_says_how_many_answers_turned_in_both_directions(p: float) -> None:
    turned = Flips.from_dict(flips() | {"lost": 21, "gained": 10, "p_holm": 0.07})
    shown = verdicts([two_sided(0.62, 0.55, p=p, p_change=p)], None, [turned])[1]["sentence"]
    expected = "crows_pairs 10 to “stereotyped” and 21 to “anti-stereotyped” (McNemar p 0.070)"
    assert expected in shown
    few = replace(turned, p=None, p_holm=None, untested="3 turned, too few to tell")
    shown = verdicts([two_sided(0.62, 0.55, p=p, p_change=p)], None, [few])[1]["sentence"]
    assert "(3 turned, too few to tell)" in shown and "McNemar p" not in shown


def test_a_figure_without_bound_says_why() -> None:
    alike = replace(
        row(TEXT, ratio=True), could_have_missed=None,
        harm=Estimate(0.0, None, None, "all clusters of items are alike"),
    )  # fmt: skip
    sentence = verdicts([alike], None)[0]["sentence"]
    assert sentence.endswith(
        "No bound is known of text.perplexity (all clusters of items are alike)."
    )
