"""Greedy continuations of prompts, in batches that depend on nothing but the prompts.

All rows of a batch have the same length, so nothing is padded and no mask is needed: a model sees
of each prompt what it would see of it alone. Which prompts share a batch follows from their list.

Axes: `N` prompts, `B` rows of a batch, `S` their length, `T` new tokens, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...arch.limits import positions, vocabulary
from ...distributed import divided, is_first
from ...errors import DataError, ModelOutputError
from ...hooks import ready_to_generate
from ...noted import warn
from ...progress import track

Ids = NDArray[np.int64]

OVER = -1  # in the place of the token that ends a text, and of all after it
_ROWS = 16  # of a batch; more take memory for logits and little less time


def continuations(
    model: Any,
    prompts: Sequence[Sequence[int]],
    count: int,
    ends: Sequence[int],
    *,
    name: str = "",
    label: str = "generation",
    show_progress: bool = False,
) -> Ids:
    """Let a model write on, each time with the most likely token, by transformers' defaults.

    Prompts too long for the model's positions lose tokens from the left, with a warning. Several
    processes share the batches.

    Args:
        model: one that `unable` has nothing against.
        prompts: token ids, one or more each.
        count: new tokens of each, T.
        ends: tokens that end a text.
        name: how the model is called.

    Returns:
        (N, T) new tokens, `OVER` from the one that ends the text on.

    Raises:
        DataError: a prompt holds a token that the model does not know.
        ModelOutputError: the model gives numbers that are not finite.
    """
    fitting = _fitting(model, prompts, count)
    batches = in_batches(fitting)
    bar = iter(track(batches, label, show_progress))

    def write(number: int) -> list[list[int]]:
        next(bar, None)
        rows = torch.tensor([fitting[place] for place in batches[number]])  # (B, S)
        return written(model, rows, count, ends, name)

    with ready_to_generate(model):
        found = divided(write, len(batches))
    result = np.full((len(prompts), count), OVER, dtype=np.int64)
    for places, rows in zip(batches, found, strict=True):
        result[places] = rows
    return result


def ends_of(tokenizer: Any, *models: Any) -> list[int]:
    """The tokens that end a text, by the tokenizer and by the settings of any of the models.

    What is no token of a model is left out.
    """
    ends = {tokenizer.eos_token_id} - {None}
    for model in models:
        own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        given = own if isinstance(own, list) else [own]
        ends |= {each for each in given if type(each) is int and 0 <= each < vocabulary(model)}
    return sorted(ends)


def unable(model: Any, tokens: int) -> str | None:
    """Why a model cannot write to the end of so many tokens, prompt and all; None if it can."""
    kind = type(model).__name__
    if not callable(getattr(model, "generate", None)):
        return f"{kind} cannot generate"
    if getattr(model.config, "is_encoder_decoder", False):
        return f"{kind} has an encoder, so that it does not write on from a prompt"
    room = _room(model)
    if room is not None and tokens > room:
        return f"{tokens} tokens are to be read and written, and {kind} has {room} positions"
    return None


def _room(model: Any) -> int | None:
    """The most tokens that a model is made for, None where nothing says so."""
    stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(
        (n for n in (stated, positions(model)) if isinstance(n, int) and n > 0), default=None
    )


def _fitting(model: Any, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    limit, known = positions(model), vocabulary(model)
    kept = [
        [*prompt] if limit is None else [*prompt][-max(1, limit - count) :] for prompt in prompts
    ]
    cut = sum(len(a) < len(b) for a, b in zip(kept, prompts, strict=True))
    if cut and is_first():
        warn(
            f"{cut} of {len(kept)} prompts and what is written after them are longer than the "
            f"model's {limit} positions; they lose tokens from the left."
        )
    largest = max((max(prompt) for prompt in kept), default=0)
    if largest >= known:
        raise DataError(
            f"A prompt holds token id {largest}; the model knows 0 to {known - 1}. Use the "
            "tokenizer that belongs to the model."
        )
    return kept


def in_batches(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places of prompts: those of one length together, in the order of their tokens."""
    batches: list[list[int]] = []
    for place in sorted(range(len(prompts)), key=lambda n: (len(prompts[n]), prompts[n])):
        last = batches[-1] if batches else []
        if not last or len(last) == _ROWS or len(prompts[last[0]]) != len(prompts[place]):
            batches.append([])
        batches[-1].append(place)
    return batches


def written(
    model: Any, rows: Tensor, count: int, ends: Sequence[int], name: str
) -> list[list[int]]:
    """New tokens of each row, (B, T); a row that has ended is filled up."""

    def checked(_: Tensor, scores: Tensor) -> Tensor:
        # A vocabulary may have tokens of probability 0, so the largest must be a number, not all.
        if not bool(torch.isfinite(scores.amax(dim=-1)).all()):
            raise ModelOutputError(
                f"The model {name or type(model).__name__} gives predictions that are not finite "
                "while it generates, so it cannot be measured. Look for NaN or infinite weights, "
                "or load it in a wider dtype (bfloat16, float32)."
            )
        return scores

    rows = rows.to(model.get_input_embeddings().weight.device)
    output: Tensor = model.generate(
        rows,
        attention_mask=torch.ones_like(rows),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=list(ends) or None,
        pad_token_id=ends[0] if ends else 0,  # rows that have ended go on ending
        logits_processor=[checked],
    )
    return [_until_over(row, count, ends) for row in output[:, rows.shape[1] :].tolist()]


def _until_over(row: Sequence[int], count: int, ends: Sequence[int]) -> list[int]:
    length = next((place for place, token in enumerate(row) if token in ends), len(row))
    return [*row[:length], *[OVER] * (count - length)]
