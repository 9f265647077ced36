"""Prompts of contrasts as tokens, and what is computed of a model's answers to them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from optipfair import Contrast, DataError
from optipfair.arch.view import describe
from optipfair.bias.contrasts.contrast_prompts import (
    Prompt,
    behaviour,
    deviations,
    interaction,
    prompts_of,
)
from optipfair.bias.contrasts.tracing import behaviours
from optipfair.testing import byte_tokenizer, tiny_model

CONTRAST = Contrast(
    "mine",
    ("The {word} said", "I met the {word} when"),
    (("nurse", "maid", "dancer"), ("pilot", "miner")),
    ((" she",), (" he",)),
)


def made(contrast: Contrast = CONTRAST) -> tuple[Any, list[Prompt]]:
    model = tiny_model("llama")
    return model, prompts_of([contrast], model, byte_tokenizer())


def test_the_weights_of_a_template_sum_to_nothing_and_those_of_a_kind_to_its_share() -> None:
    _, prompts = made()
    for group in (0, 1):
        own = [prompt for prompt in prompts if prompt.group == group]
        assert math.isclose(sum(prompt.weight for prompt in own), 0.0, abs_tol=1e-12)
        assert math.isclose(sum(p.weight for p in own if p.kind == 0), 1 / 2)


def test_tokens_that_all_continuations_begin_with_belong_to_the_prompt() -> None:
    _, prompts = made()
    # Bytes: " she" and " he" share the space, and differ in the next byte.
    tokens = byte_tokenizer()("The nurse said sh", add_special_tokens=True)["input_ids"]
    first = byte_tokenizer().bos_token_id  # a text begins with it, whatever the tokenizer adds
    assert prompts[0].ids == (first, *tokens[:-2])
    assert prompts[0].continuations[0] == (tokens[-2],)


def test_what_is_compared_are_the_shared_end_and_the_last_token_of_the_word() -> None:
    _, prompts = made()
    for prompt in prompts:
        text = (" said ", " when ")[prompt.group]  # and the last letter of the word
        assert prompt.compared == len(text) + 1


def test_continuations_that_cannot_be_told_apart_are_refused() -> None:
    same = replace(CONTRAST, continuations=((" she", " some"), (" so",)))
    with pytest.raises(DataError, match="begin with the same token"):
        made(same)


def test_the_behaviour_is_the_log_of_the_ratio_of_summed_probabilities() -> None:
    prompt = Prompt((0,), 0, 0, "x", ((1, 2), (3,)), 1.0)
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    expected = math.log((0.2 + 0.3) / 0.4)
    assert float(behaviour(probabilities.log(), [prompt])[0]) == pytest.approx(expected, abs=1e-6)
    # What all logits have in common does not matter.
    assert float(behaviour(probabilities.log() + 7, [prompt])[0]) == pytest.approx(
        expected, abs=1e-5
    )


def test_deviations_are_from_the_mean_of_the_template_and_the_interaction_is_by_hand() -> None:
    def prompt(group: int, kind: int, weight: float) -> Prompt:
        return Prompt((0,), group, kind, "x", ((1,), (2,)), weight)

    prompts = [prompt(0, 0, 0.5), prompt(0, 1, -0.5), prompt(1, 0, 0.5), prompt(1, 1, -0.5)]
    values = torch.tensor([3.0, 1.0, 10.0, 20.0])
    assert deviations(values, prompts).tolist() == [1.0, -1.0, -5.0, 5.0]
    assert interaction(values, prompts) == ((3 - 1) + (10 - 20)) / 2


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3_moe", "opt", "falcon"])
def test_the_behaviours_are_those_of_each_prompt_by_itself(family: str) -> None:
    model = tiny_model(family)
    prompts = prompts_of([CONTRAST], model, byte_tokenizer())
    found = behaviours(describe(model), prompts)
    for place in (0, 3, 7):
        prompt = prompts[place]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt.ids])).logits[0, -1].log_softmax(-1)
        first, second = prompt.continuations
        expected = logits[list(first)].logsumexp(0) - logits[list(second)].logsumexp(0)
        assert float(found[place]) == pytest.approx(float(expected), abs=1e-5)


def test_kept_texts_have_no_weight_and_deviate_from_nothing() -> None:
    contrast = replace(CONTRAST, kept=("Mary said", "John said"))
    model, prompts = made(contrast)
    assert len(prompts) == 10  # those of the templates alone
    every = prompts_of(
        [contrast, replace(contrast, name="other")], model, byte_tokenizer(), kept=True
    )
    kept = [prompt for prompt in every if prompt.word in contrast.kept]
    assert len(kept) == 4 and len({prompt.group for prompt in every}) == 2 * (2 + 2)
    assert all(prompt.weight == 0 for prompt in kept)
    values = torch.arange(len(every), dtype=torch.float32)
    assert all(
        value == 0
        for value, prompt in zip(deviations(values, every).tolist(), every, strict=True)
        if prompt in kept
    )
