"""Two models on the same text: perplexity of each, and how far the second's answers moved.

Axes: `S` tokens of the text, `T` predicted tokens of a window, `V` vocabulary, `N` windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distributed import divided
from ..errors import DataError, ModelOutputError
from ..hooks import evaluating
from ..progress import track
from .measures import Columns, Floats, Measure, over, ratio_of

_ROWS = 256  # predictions compared at once: V numbers each, in float32, of both models


@dataclass(frozen=True)
class TextColumns:
    """What two models make of a text, one row a window.

    Attributes:
        original, pruned: `nll` (nats), `tokens`, `words`, `bytes`, `kl` (nats, summed over the
            predicted tokens) and `same` (predictions whose most likely token is the original's).
        tokens: predicted tokens in all.
        words, bytes: of the text those tokens make up, split at white space, in UTF-8.
    """

    original: Columns
    pruned: Columns
    tokens: int
    words: int
    bytes: int


def _exponential(above: str, below: str) -> dict[str, Any]:
    mean = ratio_of(lambda c: c[above], lambda c: c[below])

    def value(sums: Floats) -> Floats:
        result: Floats = np.exp(np.minimum(over(sums[..., 0], sums[..., 1]), 700.0))
        return result

    return mean | {"value": value}


def _bits(above: str, below: str) -> dict[str, Any]:
    return ratio_of(lambda c: c[above] / math.log(2), lambda c: c[below])


TEXT_MEASURES = (
    Measure(
        "perplexity",
        "exp of the mean negative log-likelihood of a token, 1 or more",
        **_exponential("nll", "tokens"),
        better="lower",
        change="ratio",
    ),
    Measure(
        "word_perplexity",
        "the same for each word, so that models with other tokenizers can be compared",
        **_exponential("nll", "words"),
        better="lower",
        change="ratio",
        headline=False,
        tested=False,
    ),
    Measure(
        "bits_per_byte",
        "negative log2-likelihood for each byte of text in UTF-8",
        **_bits("nll", "bytes"),
        better="lower",
        change="ratio",
        headline=False,
        tested=False,
    ),
    Measure(
        "kl",
        "mean over tokens of KL(original || pruned) of the predicted distributions, in nats",
        **ratio_of(lambda c: c["kl"], lambda c: c["tokens"]),
        better="lower",
        headline=False,
        tested=False,
    ),
    Measure(
        "agreement",
        "share of tokens for which the most likely prediction is the original's",
        **ratio_of(lambda c: c["same"], lambda c: c["tokens"]),
        better="higher",
        headline=False,
        tested=False,
    ),
)


def windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Where each window starts and ends, and how many of its last tokens it predicts.

    Each token is predicted once, with at most `context - 1` before it; the first of the text, and
    where the stride equals the context the first of each window, has nothing before it.
    """
    reached = 1
    for start in range(0, length, stride):
        end = min(start + context, length)
        last = end - max(reached, start + 1)
        if last > 0:
            yield start, end, last
            reached = end
        if end == length:
            return


def compare_on_text(
    original: Any,
    pruned: Any,
    tokenizer: Any,
    text: str,
    *,
    context: int = 512,
    stride: int = 512,
    tokens: int | None = None,
    show_progress: bool = False,
) -> TextColumns:
    """Run two models over the same windows of a text, which is tokenised without special tokens.

    Args:
        original, pruned: causal language models of one vocabulary.
        tokenizer: of both.
        text: two tokens or more.
        context, stride: of `windows`.
        tokens: use so many tokens from the beginning; None for all.
        show_progress: whether to show a bar.

    Raises:
        DataError: the text is too short.
        ModelOutputError: a model gives numbers that are not finite.
    """
    ids: Tensor = tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False)[
        "input_ids"
    ][0][:tokens]
    if len(ids) < 2:
        raise DataError("The text has fewer than two tokens. Give a longer one.")
    places = list(windows(len(ids), context, stride))
    bar = iter(track(range(len(places)), "text", enabled=show_progress))

    def one(number: int) -> tuple[float, float, float, float]:
        start, end, last = places[number]
        next(bar, None)
        return _window(original, pruned, ids[start:end], last)

    with evaluating(original), evaluating(pruned):
        rows = np.array(divided(one, len(places)))  # (N, 4)
    predicted = np.array([last for *_, last in places], dtype=np.float64)
    shown = tokenizer.decode(ids)
    share = predicted / predicted.sum()
    common = {
        "tokens": predicted,
        "words": share * len(shown.split()),
        "bytes": share * len(shown.encode()),
    }
    nothing = np.zeros(len(places))
    return TextColumns(
        {**common, "nll": rows[:, 0], "kl": nothing, "same": predicted},
        {**common, "nll": rows[:, 1], "kl": rows[:, 2], "same": rows[:, 3]},
        int(predicted.sum()),
        len(shown.split()),
        len(shown.encode()),
    )


def _window(
    original: Any, pruned: Any, ids: Tensor, last: int
) -> tuple[float, float, float, float]:
    """Summed: loss of both, KL of the second from the first, equal predictions."""
    logits = [_logits(model, ids, last) for model in (original, pruned)]
    wanted = ids[-last:, None]
    sums = torch.zeros(4, dtype=torch.float64)
    for rows in range(0, last, _ROWS):
        part = slice(rows, rows + _ROWS)
        old, new = (
            answer[part].to(logits[0].device).float().log_softmax(dim=-1) for answer in logits
        )
        target = wanted[part].to(old.device)
        sums += torch.stack(
            [
                -old.gather(1, target).double().sum(),
                -new.gather(1, target).double().sum(),
                (old.exp() * (old - new)).double().sum(),
                (old.argmax(dim=-1) == new.argmax(dim=-1)).double().sum(),
            ]
        ).cpu()
    for name, loss in zip(("original", "pruned"), sums.tolist()[:2], strict=True):
        if not math.isfinite(loss):
            raise ModelOutputError(f"The {name} model gives predictions that are not finite.")
    first, second, divergence, same = sums.tolist()
    return first, second, divergence, same


def _logits(model: Any, ids: Tensor, last: int) -> Tensor:
    device = model.get_input_embeddings().weight.device
    answer: Tensor = model(input_ids=ids[None].to(device), use_cache=False).logits
    return answer[0, -last - 1 : -1]
