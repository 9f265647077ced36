"""Conditions of `--fail-if`."""

from __future__ import annotations

from typing import Any

import pytest

from optipfair import ArgumentError, UnknownNameError
from optipfair.evaluation.thresholds import check_thresholds, failures, read_thresholds

IDS = ["text.perplexity", "piqa.acc"]


def comparison(ratio: float | None = 1.3, speed: dict[str, Any] | None = None) -> dict[str, Any]:
    nothing = {"value": 0.0}
    return {
        "measures": [
            {
                "id": "text.perplexity",
                "original": {"value": 20.0},
                "pruned": {"value": 26.0},
                "change": {"value": ratio},
                "harm": nothing,
            },
            {
                "id": "crows_pairs.stereotyped[age]",
                "original": {"value": 0.5},
                "pruned": {"value": 0.7},
                "change": {"value": 0.2},
                "harm": {"value": 0.2},
            },
        ],
        "speed": speed,
        "models": {
            "original": {"parameters": 100, "weight_bytes": 200},
            "pruned": {"parameters": 80, "weight_bytes": 160},
        },
    }


@pytest.mark.parametrize(
    ("condition", "fails"),
    [
        ("perplexity_ratio>1.2", True),
        ("perplexity_ratio > 1.3", False),
        ("perplexity_ratio>=1.3", True),
        ("text.perplexity<26", False),
        ("text.perplexity<=2.6e1", True),
        ("crows_pairs.stereotyped[age].harm>0.1", True),
        ("parameters_ratio>0.8", False),
        ("weight_bytes_ratio<0.9", True),
        ("speedup<1", True),  # was not measured
    ],
)
def test_conditions(condition: str, fails: bool) -> None:
    assert bool(failures(read_thresholds([condition]), comparison())) is fails


def test_what_is_not_known_fails_and_says_so() -> None:
    (found,) = failures(read_thresholds(["perplexity_ratio>1.2"]), comparison(ratio=None))
    assert found.in_words() == "perplexity_ratio>1.2: perplexity_ratio is not known"


@pytest.mark.parametrize(
    "text", ["", "perplexity_ratio", ">1", "a=1", "a>b", "a>nan", "a>1 or b>2"]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="NAME>NUMBER"):
        read_thresholds([text])


def test_names_are_checked_before_anything_runs() -> None:
    check_thresholds(read_thresholds(["perplexity_ratio>1", "piqa.acc.change<-0.1"]), IDS)
    check_thresholds(read_thresholds(["piqa.acc[some group]<0.5"]), IDS)
    with pytest.raises(UnknownNameError, match="Did you mean 'perplexity_ratio'"):
        check_thresholds(read_thresholds(["perplexity_ration>1"]), IDS)
