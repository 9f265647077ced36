"""Models on the same text: perplexity of each, and how far another's answers are from the first's.

Axes: `S` tokens of the text, `T` predicted tokens of a window, `V` vocabulary, `N` rows.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ...checking import whole_number
from ...distributed import divided
from ...errors import ArgumentError, DataError, ModelOutputError
from ...hooks import evaluating
from ...progress import track
from ...report.comparison import TextFacts
from ...tokenized import detokenized, tokenized
from ..evaluate_options import AS_LOADED
from ..likelihoods.score_dtype import multiplying, scored_in
from ..measures import SHARE, Columns, Measure, exponential_of, ratio_of

Block = Callable[[], AbstractContextManager[object]]

_TOGETHER = 64  # predictions that are drawn together: neighbours are not independent
POSITIONS = (0, 16, 64, 256)  # of a window, where each group of them begins


@dataclass(frozen=True)
class Text:
    """A text to predict: all of it, with its hash; of its tokens the first `tokens` are used."""

    name: str
    content: str
    sha256: str
    tokens: int | None


_LOSS: Any = {"better": "lower", "change": "ratio"}
_SHOWN: Any = {"headline": False, "tested": False}
TEXT_MEASURES = (
    Measure(
        "perplexity",
        "exp of the mean negative log-likelihood of a token, 1 or more",
        **exponential_of(lambda c: c["nll"], lambda c: c["tokens"]),
        **_LOSS,
    ),
    Measure(
        "word_perplexity",
        "the same for each word, so that models with other tokenizers can be compared",
        **exponential_of(lambda c: c["nll"], lambda c: c["words"]),
        **_LOSS | _SHOWN,
    ),
    Measure(
        "bits_per_byte",
        "negative log2-likelihood for each byte of text in UTF-8",
        **ratio_of(lambda c: c["nll"] / math.log(2), lambda c: c["bytes"]),
        **_LOSS | _SHOWN,
    ),
    Measure(
        "kl",
        "mean over tokens of KL(original || pruned) of the predicted distributions, in nats",
        **ratio_of(lambda c: c["kl"], lambda c: c["tokens"]),
        better="lower",
        by="positions",
        **_SHOWN,
    ),
    Measure(
        "agreement",
        "share of tokens for which the most likely prediction is the original's",
        **ratio_of(lambda c: c["same"], lambda c: c["tokens"]),
        better="higher",
        scale=SHARE,
        **_SHOWN,
    ),
)
OF_ONE = TEXT_MEASURES[:3]  # the others say something of a second model only


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


def check_windows(context: object, stride: object) -> tuple[int, int]:
    """Both as numbers, where windows of this length can move so far."""
    length, step = whole_number(context), whole_number(stride)
    if length is None or step is None or length < 2 or not 1 <= step <= length:
        raise ArgumentError(
            f"context={context!r} and stride={stride!r} do not fit. Give a context of 2 or more "
            "and a stride from 1 to the context."
        )
    return length, step


def enough(tokens: int) -> int:
    """The number of a text's tokens, two at least."""
    if tokens < 2:
        raise DataError("The text has fewer than two tokens. Give a longer one.")
    return tokens


def on_text(
    models: Mapping[str, Any],
    tokenizer: Any,
    text: Text,
    *,
    context: int = 512,
    stride: int = 512,
    products: str = AS_LOADED,
    show_progress: bool = False,
) -> tuple[list[Columns], TextFacts]:
    """Run models over the same windows of a text, which is tokenised without special tokens.

    A row is for predictions that follow each other: those of 64 that are drawn together (`drawn`),
    parted where a group of positions begins (`positions`). Of each model it has `nll` (nats),
    `tokens`, `words`, `bytes`, `kl` (nats, summed over the predicted tokens, from the first model)
    and `same` (predictions whose likeliest token is the first's). `products` is as of
    `scored_in`.
    """
    ids = text_ids(tokenizer, text)
    places = list(windows(len(ids), context, stride))
    bar = iter(track(places, "text", enabled=show_progress, unit="window"))

    def one(number: int) -> list[list[list[float]]]:
        start, end, last = places[number]
        next(bar, None)
        return _window(models, blocks, ids[start:end], last)

    blocks: dict[str, Block] = {
        name: partial(multiplying, model, scored_in(model, products), beside=[*models.values()])
        for name, model in models.items()
    }
    with ExitStack() as stack:
        for name, model in models.items():
            stack.enter_context(evaluating(model))
            stack.enter_context(blocks[name]())  # the outermost keeps what is rounded
        by_window = divided(one, len(places))
    rows = np.array([row for window in by_window for row in window])  # (N, models, 3)
    found = [
        (number, piece)
        for number, (start, end, last) in enumerate(places)
        for piece in pieces(end - start - last, last)
    ]
    predicted = np.array([piece.end - piece.start for _, piece in found], dtype=np.float64)
    share = predicted / predicted.sum()
    shown = detokenized(tokenizer, ids)
    counts = len(shown.split()), len(shown.encode())
    common = {
        "tokens": predicted,
        "words": share * counts[0],
        "bytes": share * counts[1],
        "positions": np.array([piece.positions for _, piece in found]),
        "drawn": np.array([f"{window}/{piece.start // _TOGETHER}" for window, piece in found]),
    }
    columns: list[Columns] = [
        {**common, "nll": own[:, 0], "kl": own[:, 1], "same": own[:, 2]}
        for own in rows.transpose(1, 0, 2)
    ]
    return columns, TextFacts(text.name, text.sha256, int(predicted.sum()), *counts)


def text_ids(tokenizer: Any, text: Text) -> Tensor:
    """The tokens of a text that are used, (S,), of which there are two at least."""
    encoded = tokenized(
        tokenizer, text.content, add_special_tokens=False, return_tensors="pt", verbose=False
    )
    ids: Tensor = encoded["input_ids"][0][: text.tokens]
    enough(len(ids))
    return ids


class Piece(NamedTuple):
    """Predictions of a window that make one row, counted from its first, and their positions."""

    start: int
    end: int
    positions: str


def pieces(first: int, last: int) -> list[Piece]:
    """Part the last tokens of a window, of which the first one stands at `first`.

    A token's position is the number of tokens before it in its window.

    Example:
        >>> [tuple(piece) for piece in pieces(1, 70)]
        [(0, 15, '0-15'), (15, 63, '16-63'), (63, 64, '64-255'), (64, 70, '64-255')]
    """
    begins = {0, *range(0, last, _TOGETHER), *(n - first for n in POSITIONS if first < n)}
    cuts = [*sorted(n for n in begins if n < last), last]
    return [Piece(a, b, _named(first + a)) for a, b in pairwise(cuts)]


def _named(position: int) -> str:
    group = bisect_right(POSITIONS, position)
    end = "" if group == len(POSITIONS) else POSITIONS[group] - 1
    return f"{POSITIONS[group - 1]}-{end}"


def _window(
    models: Mapping[str, Any], blocks: Mapping[str, Block], ids: Tensor, last: int
) -> list[list[list[float]]]:
    """For each row, of each model, summed: loss, KL from the first, predictions equal to its."""
    logits = {}
    for name, model in models.items():
        with blocks[name]():
            logits[name] = logits_of(model, ids, last)
    device = next(iter(logits.values())).device
    rows: list[list[list[float]]] = []
    for piece in pieces(len(ids) - last, last):
        part = slice(piece.start, piece.end)
        wanted = ids[-last:, None][part].to(device)
        own = {n: a[part].to(device).float().log_softmax(dim=-1) for n, a in logits.items()}
        first = next(iter(own.values()))  # (64 or fewer, V), as all of them
        rows.append([_sums(name, each, first, wanted) for name, each in own.items()])
    return rows


def _sums(name: str, own: Tensor, first: Tensor, wanted: Tensor) -> list[float]:
    loss = float(-own.gather(1, wanted).double().sum())
    if not math.isfinite(loss):
        raise ModelOutputError(
            f"The model {name} gives predictions that are not finite, so it cannot be measured. "
            "Look for NaN or infinite weights, or load it in a wider dtype (bfloat16, float32)."
        )
    divergence = float((first.exp() * (first - own)).double().sum())
    return [loss, divergence, int((first.argmax(dim=-1) == own.argmax(dim=-1)).sum())]


def logits_of(model: Any, ids: Tensor, last: int, *, drop_last: bool = False) -> Tensor:
    """What predicts the last tokens of a window, (last, V); its very last need not be read."""
    device = model.get_input_embeddings().weight.device
    read = ids[:-1] if drop_last else ids
    answer: Tensor = model(input_ids=read[None].to(device), use_cache=False).logits[0]
    return answer[-last:] if drop_last else answer[-last - 1 : -1]
