"""Perplexity with a stated protocol.

Axes: `S` tokens of the text, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...checking import whole_number
from ...errors import ArgumentError
from ...hooks import evaluating
from ...tokenized import prefix_token, tokenized
from .two_models import check_windows, enough, logits_of, windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Perplexity:
    """Exponentiated mean negative log-likelihood, and what it was measured on.

    Attributes:
        value: per token.
        tokens: number of predicted tokens.
        context: longest context in tokens.
        stride: how far the window moves.
        bos: whether the token for the beginning of a text (else for the end) stands before it.
        words: of the text, separated by white space.
        bytes: of the text in UTF-8.
        per_word: the same loss divided by the words, exponentiated; comparable between tokenizers.
        per_byte: the same by the bytes.
        bits_per_byte: the loss in bits divided by the bytes.
    """

    value: float
    tokens: int
    context: int
    stride: int
    bos: bool = False
    words: int = 0
    bytes: int = 0
    per_word: float | None = None
    per_byte: float | None = None
    bits_per_byte: float | None = None


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    context: int = 512,
    stride: int | None = None,
    bos: bool = False,
    rolling: bool = False,
) -> Perplexity:
    """Measure the perplexity of a causal language model on a text.

    The text is tokenised once, without special tokens. A window of `context` tokens moves by
    `stride`; each token is predicted once, with at most `context - 1` tokens before it. The first
    token of the text has nothing before it and is left out (unless `bos`), and so is the first of
    each window where the stride equals the context. Losses are summed in float64. Figures per word
    and per byte divide the loss by all words and bytes of the text.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        text: at least two tokens, with `bos` one.
        context: window length in tokens, 2 or more.
        stride: 1 to `context`; the default is half the context.
        bos: put the tokenizer's token for the beginning of a text, else that for its end, before
            the text, so that its first token is predicted too.
        rolling: as lm-eval's `loglikelihood_rolling`: every token is predicted, the first with
            `bos`, in windows of `context` read tokens that predict `context` tokens each; the last
            one begins earlier instead of being shorter. `stride` and `bos` follow from it.

    Raises:
        ArgumentError: a context or stride out of range, or excluded by `rolling`; no token to begin
            a text with.
        DataError: the text is too short.
    """
    half = (whole_number(context) or 0) // 2
    length, step = check_windows(context, half if stride is None else stride)
    if rolling and stride is not None:
        raise ArgumentError(f"stride={stride!r} and rolling=True are mutually exclusive. Give one.")
    ids = _tokens(tokenizer, text, bos=bos or rolling)
    places = _rolling(len(ids), length) if rolling else windows(len(ids), length, step)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and min(length, len(ids)) > positions:
        raise ArgumentError(
            f"context={length} is more than the {positions} positions of the model. Give a context "
            f"of {positions} or less."
        )
    total, predicted = 0.0, 0
    with evaluating(model):
        for start, end, last in places:
            logits = logits_of(model, ids[start:end], last, drop_last=rolling)
            wanted = ids[end - last : end].to(logits.device)
            losses = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none")
            total += float(losses.double().sum())
            predicted += last
    words, size = len(text.split()), len(text.encode())
    return Perplexity(
        _exponential(total, predicted),
        predicted,
        length,
        length if rolling else step,
        bos or rolling,
        words,
        size,
        per_word=_exponential(total, words) if words else None,
        per_byte=_exponential(total, size),
        bits_per_byte=total / size / math.log(2),
    )


def _tokens(tokenizer: Any, text: str, *, bos: bool) -> Tensor:
    found = tokenized(tokenizer, text, add_special_tokens=False, return_tensors="pt")
    ids: Tensor = found["input_ids"][0]
    if bos:
        prefix = prefix_token(tokenizer)
        if prefix is None:
            raise ArgumentError(
                f"The tokenizer {type(tokenizer).__name__} has no token for the beginning or the "
                "end of a text, so none can stand before it. Set its bos_token, or give bos=False."
            )
        ids = torch.cat([torch.tensor([prefix]), ids.long()])
    enough(len(ids))
    return ids


def _rolling(length: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Windows of `context + 1` tokens, of which the last is only predicted, as lm-eval's."""
    reached = 1
    while reached < length:
        end = min(reached + context, length)
        yield max(0, end - context - 1), end, end - reached
        reached = end


def _exponential(total: float, count: int) -> float:
    return math.exp(min(total / count, 700.0))
