"""Conditions of `--fail-if`."""

from __future__ import annotations

import pytest

from optipfair import ArgumentError, UnknownNameError
from optipfair.evaluation.thresholds import check_thresholds, failures, read_thresholds
from optipfair.report.comparison import Comparison
from support.comparisons import bare, estimate, measure

IDS = ["text.perplexity", "piqa.acc"]


def comparison(ratio: float | None = 1.3) -> Comparison:
    sides = {"original": (100, 200), "pruned": (80, 160)}
    given = bare()
    for side, (parameters, weight_bytes) in sides.items():
        given["models"][side] |= {"parameters": parameters, "weight_bytes": weight_bytes}
    perplexity = measure("text.perplexity", 20.0, 26.0, "lower", change=estimate(ratio))
    fair = measure("crows_pairs.stereotyped", 0.5, 0.7, "lower", group="age")
    shares = {8: 0.5, 32: 0.125}
    generation = {
        "prompts": 32, "prompt_tokens": 32, "new_tokens": 32, "until_parting": estimate(8.5),
        "same": [{"tokens": n, "share": estimate(share)} for n, share in shares.items()],
    }  # fmt: skip
    measures = {"measures": [perplexity, fair], "generation": generation}
    return Comparison.from_dict(given | measures)


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
        ("generation.same_8<0.5", False),
        ("generation.same_32<=0.125", True),
        ("generation.until_parting<12", True),
    ],
)
def test_conditions(condition: str, fails: bool) -> None:
    assert bool(failures(read_thresholds([condition]), comparison())) is fails


def test_what_is_not_known_fails_and_says_so() -> None:
    (found,) = failures(read_thresholds(["perplexity_ratio>1.2"]), comparison(ratio=None))
    assert found == "perplexity_ratio>1.2: perplexity_ratio is not known"


@pytest.mark.parametrize(
    "text", ["", "perplexity_ratio", ">1", "a=1", "a>b", "a>nan", "a>1 or b>2"]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="NAME>NUMBER"):
        read_thresholds([text])


def test_names_are_checked_before_anything_runs() -> None:
    check_thresholds(read_thresholds(["perplexity_ratio>1", "piqa.acc.change<-0.1"]), IDS, {})
    check_thresholds(read_thresholds(["piqa.acc[some group]<0.5"]), IDS, {})
    with pytest.raises(UnknownNameError, match="Did you mean 'perplexity_ratio'"):
        check_thresholds(read_thresholds(["perplexity_ration>1"]), IDS, {})
