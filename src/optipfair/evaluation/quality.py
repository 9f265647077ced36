"""Perplexity with a stated protocol.

Axes: `S` tokens of the text, `V` vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ArgumentError, DataError
from ..hooks import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Perplexity:
    """Exponentiated mean negative log-likelihood, and what it was measured on.

    Attributes:
        value: per token.
        tokens: number of predicted tokens.
        context: longest context in tokens.
        stride: how far the window moves; each token is predicted once.
    """

    value: float
    tokens: int
    context: int
    stride: int


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    context: int = 512,
    stride: int | None = None,
) -> Perplexity:
    """Measure the perplexity of a causal language model on a text.

    The text is tokenised once, without special tokens. A window of `context` tokens moves by
    `stride`; each token after the first is predicted once, with at most `context - 1` tokens
    before it. Losses are summed in float64.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        text: at least two tokens.
        context: window length in tokens, 2 or more.
        stride: 1 to `context`; the default is half the context.

    Raises:
        ArgumentError: a context or stride out of range.
        DataError: the text is too short.
    """
    step = max(context // 2, 1) if stride is None else stride
    if context < 2 or not 1 <= step <= context:
        raise ArgumentError(
            f"context={context} and stride={step} do not fit. Give a context of 2 or more and a "
            "stride from 1 to the context."
        )
    encode: Any = tokenizer
    ids: Tensor = encode(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    if len(ids) < 2:
        raise DataError("The text has fewer than two tokens. Give a longer one.")
    total, predicted = 0.0, 1  # `predicted` tokens of the text are behind us
    with evaluating(model):
        for start in range(0, len(ids), step):
            end = min(start + context, len(ids))
            if end > predicted:
                total += _loss(model, ids[start:end], end - predicted)
                predicted = end
            if end == len(ids):
                break
    value = math.exp(min(total / (len(ids) - 1), 700.0))
    return Perplexity(value, len(ids) - 1, context, step)


def _loss(model: PreTrainedModel, ids: Tensor, last: int) -> float:
    """Summed negative log-likelihood of the last tokens of a window."""
    live: Any = model
    device = live.get_input_embeddings().weight.device
    window = ids[None].to(device)
    last = min(last, len(ids) - 1)
    logits = live(input_ids=window, use_cache=False).logits[0, -last - 1 : -1]  # (last, V)
    losses = torch.nn.functional.cross_entropy(
        logits.float(), window[0, -last:].to(logits.device), reduction="none"
    )
    return float(losses.double().sum())
