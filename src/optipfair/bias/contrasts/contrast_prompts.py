"""The prompts of contrasts as tokens, and what a model thinks will follow them.

Axes: `N` prompts, `B` prompts of a batch, `S` sequence, `V` vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...batches import Batch
from ...errors import DataError
from ...tokenized import prefix_token
from ..prompts.tokens import encode_for
from .contrast import Contrast

BATCH_TOKENS = 2048  # of one batch, padding included


@dataclass(frozen=True)
class Prompt:
    """A filled template as a model reads it.

    Attributes:
        ids: tokens of the prompt, (S,).
        group: prompts of one number are compared: those of one template of one contrast.
        kind: of its word, 0 or 1.
        word: the word.
        continuations: first tokens of both kinds of continuations.
        weight: with which its behaviour counts: the weighted sum is the interaction.
        compared: how many tokens at the end are compared within the group: those that follow the
            word, and the word's last.
    """

    ids: tuple[int, ...]
    group: int
    kind: int
    word: str
    continuations: tuple[tuple[int, ...], tuple[int, ...]]
    weight: float
    compared: int = 1


def prompts_of(
    contrasts: Sequence[Contrast], model: Any, tokenizer: Any, *, kept: bool = False
) -> list[Prompt]:
    """All prompts of some contrasts, template after template.

    The weights of each template's prompts sum to 0: 1 over the words of the first kind and -1 over
    those of the second, over all templates of all contrasts. With `kept`, texts whose answers are
    to stay follow: each is a group by itself, so that it deviates from nothing, and has no weight.
    """
    templates = sum(len(each.templates) for each in contrasts)
    found: list[Prompt] = []
    first_group = 0
    for contrast in contrasts:
        sizes = [len(kind) for kind in contrast.words]
        for number, kind, word in contrast.prompts:
            text = contrast.filled(number, word)
            ids, after = _with_continuations(contrast, text, model, tokenizer)
            weight = (1 if kind == 0 else -1) / (sizes[kind] * templates)
            found.append(Prompt(ids, first_group + number, kind, word, after, weight))
        first_group += len(contrast.templates)
        for text in contrast.kept if kept else ():
            ids, after = _with_continuations(contrast, text, model, tokenizer)
            found.append(Prompt(ids, first_group, 0, text, after, 0.0))
            first_group += 1
    return list(_with_shared_ends(found))


def behaviour(logits: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """How much likelier the first continuations are than the second, in nats, (N,).

    `logits` (N, V) stand at the last tokens of the prompts. Of each kind the probabilities of its
    continuations' first tokens are added.
    """
    rows = []
    for row, prompt in zip(logits.float(), prompts, strict=True):
        first, second = (row[list(kind)].logsumexp(dim=0) for kind in prompt.continuations)
        rows.append(first - second)
    return torch.stack(rows)


def deviations(values: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """How far each behaviour is from the mean of those of its template, (N,)."""
    groups = torch.tensor([prompt.group for prompt in prompts], device=values.device)
    sums = values.new_zeros(int(groups.max()) + 1)
    counts = sums.index_add(0, groups, torch.ones_like(values))
    return values - (sums.index_add(0, groups, values) / counts.clamp_min(1))[groups]


def interaction(values: Tensor, prompts: Sequence[Prompt]) -> float:
    """The mean behaviour after words of the first kind less that after words of the second."""
    weights = values.new_tensor([prompt.weight for prompt in prompts])
    return float((weights * values).sum())


def batches_of(prompts: Sequence[Prompt]) -> Iterator[tuple[list[Prompt], Batch]]:
    """Prompts of about one length together, padded at the right."""
    ordered = sorted(prompts, key=lambda prompt: len(prompt.ids))
    taken: list[Prompt] = []
    for prompt in ordered:
        if taken and (len(taken) + 1) * len(prompt.ids) > BATCH_TOKENS:
            yield taken, _batch(taken)
            taken = []
        taken.append(prompt)
    yield taken, _batch(taken)


def _batch(prompts: Sequence[Prompt]) -> Batch:
    rows = [torch.tensor(prompt.ids) for prompt in prompts]
    real = [torch.ones(len(row), dtype=torch.bool) for row in rows]
    ids, mask = (pad_sequence(each, batch_first=True) for each in (rows, real))
    return Batch(ids, mask)


def _ids(model: Any, tokenizer: Any, text: str) -> tuple[int, ...]:
    """Tokens behind the one for the beginning of a text, as the fairness tasks have them."""
    encoded = encode_for(model, tokenizer, text)
    own = tuple(i for i, added in zip(encoded.ids, encoded.special, strict=True) if not added)
    prefix = prefix_token(tokenizer)
    return own if prefix is None else (prefix, *own)


def _with_continuations(
    contrast: Contrast, text: str, model: Any, tokenizer: Any
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], tuple[int, ...]]]:
    """The tokens of a prompt, and those with which its continuations of both kinds begin.

    Tokens that all continuations begin with, such as one for the space, belong to the prompt.
    """
    ids = _ids(model, tokenizer, text)
    after = [
        [_behind(contrast, text, ids, each, model, tokenizer) for each in kind]
        for kind in contrast.continuations
    ]
    every = [*after[0], *after[1]]
    shared = every[0][: _shared(every)]
    first, second = (tuple(sorted({each[len(shared)] for each in kind})) for kind in after)
    if set(first) & set(second):
        raise DataError(
            f"{contrast.name}: continuations of both kinds begin with the same token behind "
            f"{text!r}, so they cannot be told apart. Give others."
        )
    return ids + shared, (first, second)


def _shared(rows: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all begin with, so that each has one more."""
    most = min(map(len, rows)) - 1
    return next((k for k in range(most) if len({row[k] for row in rows}) > 1), most)


def _behind(
    contrast: Contrast,
    text: str,
    ids: tuple[int, ...],
    continuation: str,
    model: Any,
    tokenizer: Any,
) -> tuple[int, ...]:
    """The tokens of a continuation behind a prompt."""
    whole = _ids(model, tokenizer, text + continuation)
    if whole[: len(ids)] != ids or len(whole) == len(ids):
        raise DataError(
            f"{contrast.name}: the tokenizer does not read {continuation!r} behind {text!r} as "
            "tokens of its own. Begin continuations with a space, or give another word."
        )
    return whole[len(ids) :]


def _with_shared_ends(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    """The prompts, with the number of tokens at the end that can be compared in their group."""
    groups: defaultdict[int, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        groups[prompt.group].append(prompt)
    for members in groups.values():
        shortest = min(len(prompt.ids) for prompt in members)
        columns = ({prompt.ids[-place - 1] for prompt in members} for place in range(shortest))
        shared = 0
        for column in columns:
            if len(column) > 1:
                break
            shared += 1
        for prompt in members:
            yield replace(prompt, compared=min(shared + 1, shortest))
