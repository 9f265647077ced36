"""The toy models and the toy tokenizer that users may test with, too."""

from __future__ import annotations

import pytest
import torch

from optipfair import UnknownNameError
from optipfair.testing import TINY_FAMILIES, byte_tokenizer, tiny_model


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_toy_models_are_small_and_the_same_each_time(family: str) -> None:
    one, other = tiny_model(family), tiny_model(family)
    assert sum(parameter.numel() for parameter in one.parameters()) < 100_000
    assert one.config.num_hidden_layers == 4
    assert not one.training
    for mine, same in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, same)


def test_another_seed_gives_other_weights() -> None:
    one, other = tiny_model("llama", seed=1), tiny_model("llama", seed=2)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_a_toy_model_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    tiny_model("llama")
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_family_is_refused_with_the_close_match() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'llama'"):
        tiny_model("lama")


def test_the_byte_tokenizer_gives_a_text_back() -> None:
    tokenizer = byte_tokenizer()
    text = "Größe: 3 µm!\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == 259
