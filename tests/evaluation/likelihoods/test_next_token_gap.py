from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch

import optipfair
from optipfair import next_token_gap
from optipfair.errors import ArgumentError, DataError, ModelOutputError
from optipfair.evaluation.measures import jensen_shannon, total_variation
from optipfair.testing import byte_tokenizer, tiny_model

SETS = {"praise": ["kind", "honest"], "blame": ["rude"]}
PROMPTS = ("The man was very", "The woman was very")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("qwen3")


def probabilities(model: Any, text: str) -> np.ndarray:
    ids = torch.tensor([byte_tokenizer()(text)["input_ids"]])
    with torch.no_grad():
        return torch.softmax(model(ids).logits[0].double(), dim=-1).numpy()


def test_figures_are_those_of_the_two_distributions(
    model: Any, unchanged: Callable[[Any], AbstractContextManager[None]]
) -> None:
    with unchanged(model):
        found = next_token_gap(model, byte_tokenizer(), *PROMPTS)
    p, q = (probabilities(model, prompt)[-1] for prompt in PROMPTS)
    assert found.jensen_shannon == pytest.approx(float(jensen_shannon(p, q)), rel=1e-4)
    assert found.total_variation == pytest.approx(float(total_variation(p, q)), rel=1e-4)
    assert (found.words, found.sets) == ({}, {})


def test_a_word_of_many_tokens_has_their_product(model: Any) -> None:
    found = next_token_gap(model, byte_tokenizer(), *PROMPTS, SETS)
    tokenizer = byte_tokenizer()
    for side, prompt in enumerate(PROMPTS):
        rows = probabilities(model, f"{prompt} kind")
        start = len(tokenizer(prompt)["input_ids"])
        ids = tokenizer(f"{prompt} kind")["input_ids"]
        expected = math.prod(rows[k - 1, ids[k]] for k in range(start, len(ids)))
        assert found.words["kind"][side] == pytest.approx(expected, rel=1e-4)
        assert found.sets["praise"][side] == pytest.approx(
            found.words["kind"][side] + found.words["honest"][side]
        )
    assert found.sets["blame"] == found.words["rude"]


def test_exchanged_prompts_mirror_and_equal_ones_give_zero(model: Any) -> None:
    there = next_token_gap(model, byte_tokenizer(), *PROMPTS, SETS)
    back = next_token_gap(model, byte_tokenizer(), *PROMPTS[::-1], SETS)
    assert back.jensen_shannon == there.jensen_shannon > 0
    assert back.sets == {name: pair[::-1] for name, pair in there.sets.items()}
    same = next_token_gap(model, byte_tokenizer(), PROMPTS[0], PROMPTS[0] + "  ")
    assert (same.jensen_shannon, same.total_variation) == (0, 0)


@pytest.mark.parametrize(
    ("prompt", "words", "expected"),
    [
        (" ", None, "prompt2 is empty"),
        ("x", ["kind"], "words is a list"),
        ("x", {"praise": "kind"}, "Give a list of words"),
        ("x", {"praise": []}, "Give a list of words"),
        ("x", {"praise": ["kind", " "]}, "Give a list of words"),
        ("x", {"praise": ["kind"], "blame": ["kind"]}, "more than once"),
    ],
)
def test_wrong_arguments_are_refused(model: Any, prompt: str, words: Any, expected: str) -> None:
    with pytest.raises(ArgumentError, match=expected):
        next_token_gap(model, byte_tokenizer(), "He was", prompt, words)


def test_too_long_prompts_and_broken_models_are_named() -> None:
    with pytest.raises(DataError, match=r"positions\. Give a shorter one"):
        next_token_gap(tiny_model("gpt2"), byte_tokenizer(), "x" * 2000, "y")
    broken: Any = tiny_model("qwen3")
    broken.lm_head.weight.data[3] = torch.nan
    with pytest.raises(ModelOutputError, match="not finite"):
        next_token_gap(broken, byte_tokenizer(), *PROMPTS)


def test_it_is_public() -> None:
    assert optipfair.evaluation.next_token_gap is next_token_gap
    assert {"NextTokenGap", "next_token_gap"} <= set(optipfair.__all__)
