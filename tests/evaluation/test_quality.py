"""Perplexity against the definition, token by token."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from optipfair import ArgumentError, DataError, perplexity
from optipfair.testing import byte_tokenizer, tiny_model

TEXT = "The quick brown fox jumps over the lazy dog, and nobody knows why."  # 66 bytes


def losses(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each token after the first, in float64."""
    with torch.no_grad():
        logits = model(ids[None]).logits[0, :-1].double()
    return logits.logsumexp(-1) - logits.gather(-1, ids[1:, None])[:, 0]


def byte_ids(text: str) -> torch.Tensor:
    return torch.tensor(byte_tokenizer()(text)["input_ids"])


def naive(model: Any, ids: torch.Tensor, context: int, step: int) -> float:
    """Each token in a forward pass of its own, in the first window that reaches it."""
    total = 0.0
    for i in range(1, len(ids)):
        start = max(0, math.ceil((i + 1 - context) / step)) * step
        total += float(losses(model, ids[start : i + 1])[-1])
    return math.exp(total / (len(ids) - 1))


def test_a_text_in_one_window_is_one_forward_pass() -> None:
    model = tiny_model("llama")
    found = perplexity(model, byte_tokenizer(), TEXT)
    assert found.value == pytest.approx(math.exp(losses(model, byte_ids(TEXT)).mean()), rel=1e-6)
    assert (found.tokens, found.context, found.stride) == (65, 512, 256)


def test_equal_logits_give_the_size_of_the_vocabulary() -> None:
    model = tiny_model("llama")
    torch.nn.init.zeros_(model.lm_head.weight)
    assert perplexity(model, byte_tokenizer(), TEXT).value == pytest.approx(272, rel=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("context", "stride"),
    [(2, 1), (8, 1), (8, 3), (8, 4), (8, 7), (16, None), (65, 1), (66, 65)],
)
def test_windows_predict_each_token_once(family: str, context: int, stride: int | None) -> None:
    model = tiny_model(family)
    found = perplexity(model, byte_tokenizer(), TEXT, context=context, stride=stride)
    expected = naive(model, byte_ids(TEXT), context, stride or context // 2)
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert found.tokens == 65


def test_windows_side_by_side_leave_out_the_first_token_of_each() -> None:
    model = tiny_model("llama")
    ids = byte_ids(TEXT)
    expected = torch.cat([losses(model, window) for window in ids.split(8)])
    found = perplexity(model, byte_tokenizer(), TEXT, context=8, stride=8)
    assert found.tokens == len(expected) == 66 - 9
    assert found.value == pytest.approx(math.exp(expected.mean()), rel=1e-6)


def test_two_tokens_are_enough_and_one_is_not() -> None:
    model = tiny_model("llama")
    expected = math.exp(losses(model, byte_ids("hi")).mean())
    assert perplexity(model, byte_tokenizer(), "hi").value == pytest.approx(expected, rel=1e-6)
    for text in ("", "h"):
        with pytest.raises(DataError, match="fewer than two tokens"):
            perplexity(model, byte_tokenizer(), text)


@pytest.mark.parametrize(
    ("context", "stride"),
    [
        (1, None),
        (0, None),
        (-4, None),
        (8, 0),
        (8, -1),
        (8, 9),
        (8.5, None),
        (8, 2.5),
        ("8", None),
    ],
)
def test_windows_that_cannot_be_are_refused(context: Any, stride: Any) -> None:
    with pytest.raises(ArgumentError, match="context"):
        perplexity(tiny_model("llama"), byte_tokenizer(), TEXT, context=context, stride=stride)


def test_a_context_longer_than_the_model_has_positions_is_refused() -> None:
    model = tiny_model("gpt2")  # 128 learned positions
    with pytest.raises(ArgumentError, match="128"):
        perplexity(model, byte_tokenizer(), 3 * TEXT, context=129)


def test_measuring_leaves_the_model_as_it_was(
    unchanged: Callable[[Any], AbstractContextManager[None]],
) -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5)
    quiet = perplexity(model, byte_tokenizer(), TEXT)
    model.train()
    with unchanged(model):
        assert perplexity(model, byte_tokenizer(), TEXT) == quiet


def test_a_hopeless_model_gives_a_large_number_not_an_error() -> None:
    model = tiny_model("llama")
    model.lm_head.weight.data *= 1e6
    assert 1e100 < perplexity(model, byte_tokenizer(), TEXT).value < math.inf
