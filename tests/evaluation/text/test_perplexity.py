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


def test_a_token_before_the_text_lets_the_first_be_predicted() -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    ids = torch.cat([torch.tensor([tokenizer.bos_token_id]), byte_ids(TEXT)])
    for context, stride in [(512, None), (8, 3)]:
        found = perplexity(model, tokenizer, TEXT, context=context, stride=stride, bos=True)
        assert (found.tokens, found.bos) == (66, True)
        expected = naive(model, ids, context, stride or context // 2)
        assert found.value == pytest.approx(expected, rel=1e-5)
    assert perplexity(model, tokenizer, "h", bos=True).tokens == 1
    with pytest.raises(DataError, match="fewer than two tokens"):
        perplexity(model, tokenizer, "", bos=True)


def test_the_same_loss_by_words_and_by_bytes() -> None:
    text = "Où est-il ?\n Là."  # 4 words, 16 characters, 18 bytes, which are the tokens
    found = perplexity(tiny_model("llama"), byte_tokenizer(), text)
    loss = 17 * math.log(found.value)
    assert (found.words, found.bytes, found.tokens, found.bos) == (4, 18, 17, False)
    assert found.per_word == pytest.approx(math.exp(loss / 4), rel=1e-9)
    assert found.per_byte == pytest.approx(math.exp(loss / 18), rel=1e-9)
    assert found.bits_per_byte == pytest.approx(loss / 18 / math.log(2), rel=1e-9)
    assert perplexity(tiny_model("llama"), byte_tokenizer(), " \n ").per_word is None


@pytest.mark.parametrize("context", [2, 3, 8, 16, 33, 64, 65, 66, 67, 128])
def test_rolling_windows_are_those_of_lm_eval(context: int) -> None:
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = tiny_model("gpt2").double(), byte_tokenizer()
    live = HFLM(pretrained=model, tokenizer=tokenizer, max_length=context)
    (expected,) = live.loglikelihood_rolling([Instance("", {}, (TEXT,), 0)], disable_tqdm=True)
    found = perplexity(model, tokenizer, TEXT, context=context, rolling=True)
    assert (found.tokens, found.stride, found.bos) == (66, context, True)
    assert found.words == 13
    assert found.per_word == pytest.approx(math.exp(-expected / 13), rel=1e-6)


def test_rolling_windows_exclude_a_stride_and_need_a_token_to_begin_with() -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    with pytest.raises(ArgumentError, match="are mutually exclusive"):
        perplexity(model, tokenizer, TEXT, stride=8, rolling=True)
    tokenizer.bos_token = tokenizer.eos_token = None
    for options in ({"rolling": True}, {"bos": True}):
        with pytest.raises(ArgumentError, match="no token for the beginning"):
            perplexity(model, tokenizer, TEXT, **options)
