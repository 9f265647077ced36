"""What models write: as `generate` alone gives it, whatever the batch and whatever ends a text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from optipfair import DataError, ModelOutputError
from optipfair.evaluation.generation import continuations as module
from optipfair.evaluation.generation.continuations import (
    OVER,
    continuations,
    ends_of,
    unable,
)
from optipfair.testing import byte_tokenizer, tiny_model

PROMPTS = [[20, 30, 40], [50, 60], [70, 80, 90], [21], [22, 23], [20, 30, 40], [99, 98, 97]]


def alone(model: Any, prompt: list[int], count: int) -> list[int]:
    """The most likely token after what is there, again and again, without a cache."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_it_is_the_most_likely_token_each_time(family: str) -> None:
    model = tiny_model(family).train()
    found = continuations(model, PROMPTS, 5, [])
    assert found.tolist() == [alone(model.eval(), prompt, 5) for prompt in PROMPTS]


def test_rows_of_a_batch_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    expected = continuations(model, PROMPTS, 6, [])
    for rows in (1, 2, 3):
        monkeypatch.setattr(module, "_ROWS", rows)
        assert np.array_equal(continuations(model, PROMPTS, 6, []), expected)


def test_batches_hold_prompts_of_one_length() -> None:
    given: list[torch.Tensor] = []
    model = tiny_model("llama")
    model.register_forward_pre_hook(
        lambda _, args, more: given.append(more["input_ids"]), with_kwargs=True
    )
    continuations(model, PROMPTS, 1, [])
    assert [tuple(ids.shape) for ids in given] == [(1, 1), (2, 2), (4, 3)]


def test_a_text_is_over_from_its_end_on() -> None:
    model = tiny_model("llama")
    whole = continuations(model, PROMPTS, 6, [])
    ends = sorted({int(whole[0, 2]), int(whole[1, 0])})
    found = continuations(model, PROMPTS, 6, ends)
    for row, expected in zip(found.tolist(), whole.tolist(), strict=True):
        length = next((n for n, token in enumerate(expected) if token in ends), 6)
        assert row == [*expected[:length], *[OVER] * (6 - length)]
    assert OVER in found[0] and found[1].tolist() == [OVER] * 6


def test_settings_of_the_models_own_change_nothing() -> None:
    model = tiny_model("llama")
    expected = continuations(model, PROMPTS, 4, [])
    model.generation_config.repetition_penalty = 9.0
    model.generation_config.num_beams = 3
    assert np.array_equal(continuations(model, PROMPTS, 4, []), expected)
    assert model.generation_config.num_beams == 3


def test_ends_are_those_of_the_tokenizer_and_of_the_models() -> None:
    model, other, tokenizer = tiny_model("llama"), tiny_model("llama"), byte_tokenizer()
    model.generation_config.eos_token_id = [5, 10_000, -1]
    other.generation_config.eos_token_id = 6
    assert ends_of(tokenizer, model, other) == sorted({tokenizer.eos_token_id, 5, 6})
    tokenizer.eos_token = None
    del model.generation_config, other.generation_config
    assert ends_of(tokenizer, model, other) == []


def test_prompts_that_are_too_long_lose_tokens_from_the_left() -> None:
    model = tiny_model("gpt2", n_positions=8)
    prompt = list(range(20, 40))
    with pytest.warns(UserWarning, match="1 of 2 prompts .* 8 positions"):
        found = continuations(model, [prompt, [7]], 3, [])
    assert found.tolist() == [alone(model, prompt[-5:], 3), alone(model, [7], 3)]


def test_numbers_that_are_not_finite_name_the_model() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3] = math.nan
    with pytest.raises(ModelOutputError, match="model cut gives predictions that are not finite"):
        continuations(model, PROMPTS, 2, [], name="cut")


def test_tokens_that_a_model_lacks_are_refused() -> None:
    with pytest.raises(DataError, match="token id 999; the model knows 0 to 271"):
        continuations(tiny_model("llama"), [[1], [999]], 2, [])


def test_models_that_cannot_write_say_why() -> None:
    model = tiny_model("llama")
    assert unable(model, 128) is None
    assert unable(model, 129) == (
        "129 tokens are to be read and written, and LlamaForCausalLM has 128 positions"
    )
    assert unable(model.model, 8) == "LlamaModel cannot generate"
    model.config.is_encoder_decoder = True
    assert "has an encoder" in str(unable(model, 8))
