"""A model damaged as much by chance tells fairness from damage."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import ArgumentError, compare_models
from optipfair.evaluation.verdicts import verdicts
from optipfair.report.comparison import FigureOfTwo
from optipfair.testing import byte_tokenizer, tiny_model
from optipfair.uncertainty import Estimate
from support.comparisons import estimate, figure

OFF: Any = {"speed": False, "layers": False, "generation": False, "limit": 8}


def noised(model: Any, by: float) -> Any:
    other = deepcopy(model)
    generator = torch.Generator().manual_seed(3)
    for parameter in other.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += by * noise * parameter.data.std()
    return other


def fairer(**more: Any) -> FigureOfTwo:
    row = figure("crows_pairs.stereotyped", 0.62, 0.55, 0.5, question="fairness")
    return replace(row, p_holm=0.001, p_change_holm=0.001, **more)


def worse() -> FigureOfTwo:
    row = figure("text.perplexity", 20.0, 40.0, "lower", change_kind="ratio", p_holm=0.001)
    return replace(row, change=Estimate.from_dict(estimate(2.0)), could_have_missed=0.8)


@pytest.mark.parametrize(
    ("harm", "p", "expected"),
    [
        (-0.05, 0.01, "better"),
        (-0.05, 0.3, "too damaged to say"),
        (0.05, 0.01, "too damaged to say"),
        (None, None, "too damaged to say"),
    ],
)
def test_only_what_chance_does_not_do_is_called_fairer(
    harm: float | None, p: float | None, expected: str
) -> None:
    against = None if harm is None else Estimate(harm, harm - 0.02, harm + 0.02)
    row = fairer(against_control=against, p_control_holm=p)
    fairness = verdicts([worse(), row], None)[1]
    assert fairness["verdict"] == expected
    assert ("beside the control" in fairness["sentence"]) == (expected == "better")


def test_the_control_answers_the_same_items(data: Path) -> None:
    """The pruned model as its own control: no difference, and none of the other figures moves."""
    model, tokenizer = tiny_model("llama", num_hidden_layers=2), byte_tokenizer()
    pruned = noised(model, 0.3)
    alone = compare_models(model, pruned, tokenizer, data=data, **OFF)
    found = compare_models(model, pruned, tokenizer, data=data, control=deepcopy(pruned), **OFF)
    for before, row in zip(alone.measures, found.measures, strict=True):
        assert (before.original, before.pruned, before.p) == (row.original, row.pruned, row.p)
        decides = row.headline and row.question == "fairness" and row.harm.value is not None
        assert (row.against_control is not None and row.against_control.value == 0) == decides
        assert row.p_control_holm in (None, 1.0)
    against = compare_models(model, pruned, tokenizer, data=data, control=noised(model, 2.0), **OFF)
    moved = [r.against_control.value for r in against.measures if r.against_control is not None]
    assert any(moved)


def test_a_control_that_is_less_damaged_is_not_used(data: Path) -> None:
    model, tokenizer = tiny_model("llama", num_hidden_layers=2), byte_tokenizer()
    pruned = noised(model, 0.0)
    with torch.no_grad():
        pruned.lm_head.weight *= 30  # sure of what it does not know
    found = compare_models(model, pruned, tokenizer, data=data, control=noised(model, 0.0), **OFF)
    told = {row.no_control for row in found.measures if row.question == "fairness" and row.headline}
    assert len(told) == 1 and "must be as high at least" in str(told)
    assert all(row.against_control is None for row in found.measures)
    assert "The control tells nothing" in found.verdicts[1].sentence or (
        found.verdicts[1].verdict == "too damaged to say"
    )


def test_a_control_of_another_vocabulary_is_refused(data: Path) -> None:
    model, other = tiny_model("llama"), tiny_model("llama", vocab_size=300)
    with pytest.raises(ArgumentError, match="vocabulary"):
        compare_models(model, tiny_model("llama", seed=1), byte_tokenizer(), control=other, **OFF)
    with pytest.raises(ArgumentError, match="same object"):
        pruned = tiny_model("llama", seed=1)
        compare_models(model, pruned, byte_tokenizer(), control=pruned, **OFF)
