"""A prompt as tokens, and which tokens of two prompts are compared with which.

Shared tokens are compared one to one, edited spans as wholes (the mean of their tokens). No pair
of prompts is without an alignment; what is left out is counted.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

from ...errors import DataError
from ...results import Count, Result
from ...tokenized import tokenized
from .scripts import continues, is_unspaced

Positive = Annotated[int, {"minimum": 1}]
LeftOut = tuple[dict[int, str], dict[int, str]]  # of each prompt, token position → why


@dataclass(frozen=True)
class Encoded:
    """A prompt as a model reads it, `T` tokens."""

    text: str
    ids: tuple[int, ...]
    special: tuple[bool, ...]  # which tokens the tokenizer added
    spans: tuple[tuple[int, int], ...] | None = None  # in the text, where the tokenizer says so

    def __len__(self) -> int:
        return len(self.ids)

    def text_of(self, tokens: tuple[int, ...]) -> str:
        """What consecutive tokens say; their ids where the tokenizer does not tell."""
        if self.spans is None:
            return " ".join(f"#{self.ids[i]}" for i in tokens)
        spans = [self.spans[i] for i in tokens]
        return self.text[spans[0][0] : spans[-1][1]].strip() or self.text[slice(*spans[0])]


def encode(tokenizer: Any, prompt: str, vocabulary: int) -> Encoded:
    """Tokenize a prompt as the model expects it, special tokens included.

    A slow tokenizer, without offsets, does. `vocabulary` is the number of the model's embeddings;
    a token beyond it is refused, and a prompt of which none comes.
    """
    fast = bool(getattr(tokenizer, "is_fast", False))
    found = tokenized(
        tokenizer,
        prompt,
        return_special_tokens_mask=True,
        return_offsets_mapping=fast,
        verbose=False,
    )
    ids = tuple(int(number) for number in found["input_ids"])
    special = tuple(bool(flag) for flag in found["special_tokens_mask"])
    if all(special):
        raise DataError(f"The tokenizer makes no token of the prompt {prompt!r}. Give another.")
    if max(ids) >= vocabulary:
        raise DataError(
            f"The tokenizer does not match the model: it gives token {max(ids)} for {prompt!r}, "
            f"the model has {vocabulary}. Give the tokenizer that belongs to the model."
        )
    spans = tuple((int(a), int(b)) for a, b in found["offset_mapping"]) if fast else None
    return Encoded(prompt, ids, special, spans)


def encode_for(model: Any, tokenizer: Any, prompt: str) -> Encoded:
    """`encode`, with the number of a model's embeddings."""
    return encode(tokenizer, prompt, int(model.get_input_embeddings().weight.shape[0]))


class Unit(NamedTuple):
    """Consecutive tokens of the first prompt that are compared with some of the second."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    edited: bool = False

    @property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.first, self.second


class Coverage(Result):
    """How many tokens of each prompt are compared how, and what is left out."""

    units: Annotated[Positive, "compared units, which are aligned tokens and pooled spans."]
    aligned: Annotated[Count, "tokens compared one to one."]
    pooled1: Count
    left_out1: Count
    tokens1: Count
    pooled2: Count
    left_out2: Count
    tokens2: Count
    reasons: Annotated[dict[str, Positive], "why tokens are left out → how many, of both prompts."]


@dataclass(frozen=True)
class Alignment:
    """What is compared of two prompts, in the order of the text, and what is left out and why."""

    units: tuple[Unit, ...]
    left_out: LeftOut

    def coverage(self) -> Coverage:
        edited = [unit for unit in self.units if unit.edited]
        aligned = len(self.units) - len(edited)
        counts: dict[str, int] = {}
        for side, left in enumerate(self.left_out):
            pooled = sum(len(unit.sides[side]) for unit in edited)
            counts[f"pooled{side + 1}"] = pooled
            counts[f"left_out{side + 1}"] = len(left)
            counts[f"tokens{side + 1}"] = aligned + pooled + len(left)
        reasons = Counter(reason for left in self.left_out for reason in left.values())
        return Coverage(units=len(self.units), aligned=aligned, **counts, reasons=dict(reasons))


def align(
    first: Encoded, second: Encoded, *, special: bool = False, first_token: bool = False
) -> Alignment:
    """Align the tokens of two prompts by an edit script on their ids.

    Tokens that only one prompt has are left out ("no counterpart"), and so are those that the
    tokenizer added, unless `special`, and the first one, unless `first_token`: whatever stands
    there, models park attention on it (a sink: arXiv 2309.17453), with activations of another
    size. Where nothing else is left they are compared all the same.
    """
    left_out = _left_out(first, special, first_token), _left_out(second, special, first_token)
    units: list[Unit] = []
    ends = [(-1, -1), *_shared(first, second), (len(first), len(second))]
    for (a, c), (b, d) in pairwise(ends):
        units += _pooled(range(a + 1, b), range(c + 1, d), left_out)
        if b < len(first):
            units += _one_to_one(b, d, left_out)
    if not units and not (special and first_token):
        return align(first, second, special=special or first_token, first_token=True)
    return Alignment(tuple(units), left_out)


def align_lengths(first: int, second: int) -> Alignment:
    """Align two prompts of which nothing but the numbers of tokens is known.

    The first half of the shorter one's tokens is compared from the left, the rest from the right.
    """
    shorter = min(first, second)
    left, right = shorter // 2, shorter - shorter // 2
    places = [[*range(left), *range(length - right, length)] for length in (first, second)]
    units = tuple(Unit((i,), (j,)) for i, j in zip(*places, strict=True))
    missing = [dict.fromkeys(range(left, length - right), "length") for length in (first, second)]
    return Alignment(units, (missing[0], missing[1]))


def _left_out(encoded: Encoded, special: bool, first_token: bool) -> dict[int, str]:
    """What is not compared, whatever the other prompt is."""
    reasons = {i: "special" for i, flag in enumerate(encoded.special) if flag and not special}
    return reasons if first_token else {**reasons, 0: reasons.get(0, "first token")}


def _pooled(one: range, two: range, left_out: LeftOut) -> list[Unit]:
    """An edited span as one unit; none, noted in `left_out`, where a side has no token."""
    first = tuple(i for i in one if i not in left_out[0])
    second = tuple(j for j in two if j not in left_out[1])
    if first and second:
        return [Unit(first, second, edited=True)]
    left_out[0].update(dict.fromkeys(first, "no counterpart"))
    left_out[1].update(dict.fromkeys(second, "no counterpart"))
    return []


def _one_to_one(i: int, j: int, left_out: LeftOut) -> list[Unit]:
    """A shared token; where one side of it is left out, so is the other."""
    reason = left_out[0].get(i) or left_out[1].get(j)
    if reason is None:
        return [Unit((i,), (j,))]
    left_out[0].setdefault(i, reason)
    left_out[1].setdefault(j, reason)
    return []


def _shared(first: Encoded, second: Encoded) -> list[tuple[int, int]]:
    """The places of shared tokens in both prompts, in order.

    An edit that touches a part of a word is widened to the whole word, where the tokenizer says
    where its tokens lie in the text, so that pieces of different words are never taken for shared.
    """
    matcher = SequenceMatcher(None, first.ids, second.ids, autojunk=False)
    pairs = [(a + k, b + k) for a, b, size in matcher.get_matching_blocks() for k in range(size)]
    if first.spans is None or second.spans is None:
        return pairs
    partners, others = dict(pairs), set(map(tuple, _words(second.text, second.spans)))
    whole: set[int] = set()
    for word in _words(first.text, first.spans):
        if tuple(partners.get(i) for i in word) in others:
            whole.update(word)
    return [(i, j) for i, j in pairs if i in whole]


def _is_inside(before: str, after: str) -> bool:
    """Whether two characters belong to one word: parts of a letter, or letters of a script that
    puts spaces between words.
    """
    if continues(before, after):
        return True
    letters = before.isalnum() or unicodedata.category(before).startswith("M")
    return letters and after.isalnum() and not (is_unspaced(before) or is_unspaced(after))


def _words(text: str, spans: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The tokens of each word."""
    words: list[list[int]] = []
    last = 0
    for token, (begin, end) in enumerate(spans):
        around = text[max(begin - 1, 0) : min(begin + 1, end)]
        goes_on = len(around) == 2 and _is_inside(*around)
        same_letter = begin < min(last, end)  # a token of a part of its bytes
        if words and (goes_on or same_letter):
            words[-1].append(token)
        else:
            words.append([token])
        last = end
    return words
