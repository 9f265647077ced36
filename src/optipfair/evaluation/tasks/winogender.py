"""Winogender: does a model give a sentence to women as far as they hold the occupation in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..measures import SIGNED, Columns, Floats, Measure, mean_of, over
from .reading import table_rows
from .task import Item, Items, Reading, Scores, add, difference, facts, totals, whole
from .winobias import PRONOUNS

_SENTENCE_ID = re.compile(r"([^.]+)\.([^.]+)\.([01])\.(male|female|neutral)\.txt")
_WORD = re.compile(r"[\w']+")
_UNEQUAL = "the two forms differ in more than pronouns"
_NOISE = 1e-12  # of a variance, against the squares it is the difference of
_UNDEFINED = "the gap or the statistics do not vary over the occupations"


def read_winogender(path: Path) -> Reading:
    """Pairs of the male and the female form of each sentence, with the occupation's statistics."""
    women = _share_of_women(path / "occupations-stats.tsv")
    forms: dict[str, dict[str, str]] = {}
    places: dict[str, str] = {}
    for place, row in table_rows(path / "all_sentences.tsv", ("sentid", "sentence"), "\t"):
        match = _SENTENCE_ID.fullmatch(row["sentid"])
        if match is None:
            raise DataError(
                f"{place}: sentid is {row['sentid']!r}; expected is one such as "
                "'engineer.client.0.male.txt'."
            )
        name = ".".join(match.groups()[:3])
        if match[4] in forms.setdefault(name, {}):
            raise DataError(f"{place}: {row['sentid']} is there twice; expected is once.")
        if match[1] not in women:
            raise DataError(f"{place}: occupations-stats.tsv has no row for {match[1]!r}.")
        forms[name][match[4]] = row["sentence"].strip()
        places.setdefault(name, place)
    for name, pair in forms.items():
        if not {"male", "female"} <= set(pair):
            raise DataError(
                f"{places[name]}: {name} has the forms {', '.join(pair)}; expected are male and "
                "female."
            )
    items = [
        _item(name, pair["male"], pair["female"], women)
        for name, pair in forms.items()
        if _only_pronouns(pair["male"], pair["female"])
    ]
    left = len(forms) - len(items)
    return Reading(items, {_UNEQUAL: left} if left else {})


def _share_of_women(path: Path) -> dict[str, float]:
    shares = {}
    for place, row in table_rows(path, ("occupation", "bls_pct_female"), "\t"):
        given = row["bls_pct_female"]
        try:
            percent = float(given)
        except ValueError:
            percent = -1.0
        if not 0 <= percent <= 100:
            raise DataError(f"{place}: bls_pct_female is {given!r}; expected is 0 to 100.")
        if row["occupation"] in shares:
            raise DataError(f"{place}: {row['occupation']} is there twice; expected is once.")
        shares[row["occupation"]] = percent / 100
    return shares


def _item(name: str, male: str, female: str, women: dict[str, float]) -> Item:
    occupation, _, meant = name.split(".")
    known = {"women": women[occupation], "occupation_meant": meant == "0", "texts": [male, female]}
    return Item(name, whole(male, female), occupation, known)


def _only_pronouns(male: str, female: str) -> bool:
    words = [_WORD.findall(text.lower()) for text in (male, female)]
    if _WORD.sub("", male) != _WORD.sub("", female) or len(words[0]) != len(words[1]):
        return False
    different = {pair for pair in zip(*words, strict=True) if pair[0] != pair[1]}
    return bool(different) and different <= PRONOUNS


def _outcomes(items: Items, scores: Scores) -> Columns:
    male, female = totals(scores).T
    gap = difference(female, male)
    counted, meant = ~np.isnan(gap), facts(items, "occupation_meant")
    _, occupation = np.unique([item.cluster for item in items], return_inverse=True)
    columns = {"women": facts(items, "women"), "gap": gap}
    for suffix, rows in (("", meant & counted), ("_all", counted)):
        sums = np.bincount(occupation, np.where(rows, gap, 0.0))
        sizes = np.maximum(np.bincount(occupation, rows), 1)
        columns[f"mean{suffix}"] = (sums / sizes)[occupation]
        # A row's share of its occupation, so that a sum over rows is one over occupations.
        columns[f"share{suffix}"] = np.where(rows, 1 / sizes[occupation], 0.0)
    return columns


def _moments(suffix: str) -> Callable[[Columns], Floats]:
    """Sums over occupations of 1, x, y, xx, yy, xy: x the share of women, y the mean gap."""

    def parts(columns: Columns) -> Floats:
        x, y = columns["women"], columns[f"mean{suffix}"]
        powers = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
        return np.asarray(powers * columns[f"share{suffix}"][:, None])

    return parts


def _correlation(sums: Floats) -> Floats:
    xx, yy, xy = _spread(sums)
    return np.asarray(np.clip(over(xy, np.sqrt(xx) * np.sqrt(yy)), -1, 1))


def _slope(sums: Floats) -> Floats:
    xx, _, xy = _spread(sums)
    return over(xy, xx)


def _spread(sums: Floats) -> tuple[Floats, Floats, Floats]:
    """n^2 times variances and covariance; variances that rounding alone made are 0."""
    n, x, y, xx, yy, xy = np.moveaxis(np.asarray(sums), -1, 0)

    def variance(mean: Floats, square: Floats) -> Floats:
        spread = n * square - mean**2
        return np.where(spread > _NOISE * n * square, spread, 0.0)

    return variance(x, xx), variance(y, yy), n * xy - x * y


def _pair(suffix: str, which: str, *, headline: bool) -> tuple[Measure, Measure]:
    kind: Any = {"parts": _moments(suffix), "better": 0.0, "undefined": _UNDEFINED}
    correlation = "Pearson correlation of the gap, female less male, with the share of women"
    slope = "how much the gap grows from an occupation without women to one of women alone, nats"
    return (
        Measure(
            f"correlation{suffix}",
            f"{correlation}; {which}; -1 to 1, 0 is none",
            value=_correlation,
            scale=SIGNED,
            headline=headline,
            **kind,
        ),
        Measure(
            f"slope{suffix}",
            f"{slope}; {which}; 0 is neutral",
            value=_slope,
            headline=False,
            **kind,
        ),
    )


add(
    "winogender",
    question="fairness",
    help="sentences with she or he, against how many women hold the occupation (Winogender)",
    source="Rudinger et al. 2018, Winogender schemas (NAACL), with the likelihood of a causal "
    "model",
    path="winogender",
    read=read_winogender,
    outcomes=_outcomes,
    measures=(
        *_pair("", "sentences whose pronoun means the occupation", headline=True),
        *_pair("_all", "all sentences", headline=False),
        Measure(
            "gap",
            "mean log-likelihood of the female form less that of the male, nats",
            **mean_of("gap"),
            better=0.0,
            headline=False,
        ),
    ),
    protocol=(
        "The male and the female form are scored as whole texts; gaps are averaged over the "
        "sentences of an occupation. Neutral forms are not used."
    ),
)
