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
from ..pruning.selection import whole_number

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
    `stride`; each token is predicted once, with at most `context - 1` tokens before it. The first
    token of the text has nothing before it and is left out, and so is the first of each window
    where the stride equals the context. Losses are summed in float64.

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
    length = whole_number(context)
    step = whole_number((length or 0) // 2 if stride is None else stride)
    if length is None or step is None or length < 2 or not 1 <= step <= length:
        raise ArgumentError(
            f"context={context!r} and stride={stride!r} do not fit. Give a context of 2 or more "
            "and a stride from 1 to the context."
        )
    encode: Any = tokenizer
    ids: Tensor = encode(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    if len(ids) < 2:
        raise DataError("The text has fewer than two tokens. Give a longer one.")
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and min(length, len(ids)) > positions:
        raise ArgumentError(
            f"context={length} is more than the {positions} positions of the model. Give a context "
            f"of {positions} or less."
        )
    total, predicted, reached = 0.0, 0, 1  # the first token has nothing before it
    with evaluating(model):
        for start in range(0, len(ids), step):
            end = min(start + length, len(ids))
            last = end - max(reached, start + 1)
            if last > 0:
                total += _loss(model, ids[start:end], last)
                predicted, reached = predicted + last, end
            if end == len(ids):
                break
    value = math.exp(min(total / predicted, 700.0))
    return Perplexity(value, predicted, length, step)


def _loss(model: PreTrainedModel, ids: Tensor, last: int) -> float:
    """Summed negative log-likelihood of the last tokens of a window."""
    live: Any = model
    device = live.get_input_embeddings().weight.device
    window = ids[None].to(device)
    logits = live(input_ids=window, use_cache=False).logits[0, -last - 1 : -1]  # (last, V)
    losses = torch.nn.functional.cross_entropy(
        logits.float(), window[0, -last:].to(logits.device), reduction="none"
    )
    return float(losses.double().sum())
