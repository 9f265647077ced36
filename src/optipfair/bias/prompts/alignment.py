"""Which tokens of two prompts are compared with which.

Shared tokens are compared one to one, edited spans as wholes (the mean of their tokens). No pair
of prompts is without an alignment; what is left out is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from operator import itemgetter
from typing import Annotated, NamedTuple

from ...results import Count, Result
from .tokens import Encoded

Span = tuple[int, int]  # first and last + 1 token
LeftOut = tuple[dict[int, str], dict[int, str]]  # of each prompt, token position → why


class Unit(NamedTuple):
    """Consecutive tokens of the first prompt that are compared with some of the second."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    edited: bool = False

    @property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.first, self.second


class Coverage(Result):
    """How many tokens of each prompt are compared how, and what is left out.

    Attributes:
        units: compared units, which are aligned tokens and pooled spans.
        aligned: tokens compared one to one.
        reasons: why tokens are left out → how many, of both prompts.
    """

    units: Annotated[int, {"minimum": 1}]
    aligned: Count
    pooled1: Count
    left_out1: Count
    tokens1: Count
    pooled2: Count
    left_out2: Count
    tokens2: Count
    reasons: dict[str, Annotated[int, {"minimum": 1}]]


@dataclass(frozen=True)
class Alignment:
    """What is compared of two prompts, in the order of the text, and what is left out and why."""

    units: tuple[Unit, ...]
    left_out: LeftOut

    def coverage(self) -> Coverage:
        edited = [unit for unit in self.units if unit.edited]
        aligned = len(self.units) - len(edited)
        pooled = [sum(len(unit.sides[side]) for unit in edited) for side in (0, 1)]
        left_out = [len(left) for left in self.left_out]
        reasons = Counter(reason for left in self.left_out for reason in left.values())
        return Coverage(
            units=len(self.units),
            aligned=aligned,
            pooled1=pooled[0],
            left_out1=left_out[0],
            tokens1=aligned + pooled[0] + left_out[0],
            pooled2=pooled[1],
            left_out2=left_out[1],
            tokens2=aligned + pooled[1] + left_out[1],
            reasons=dict(reasons),
        )


def align(
    first: Encoded, second: Encoded, *, special: bool = False, first_token: bool = False
) -> Alignment:
    """Align the tokens of two prompts by an edit script on their ids.

    An edit that touches a part of a word is widened to the whole word, where the tokenizer says
    where its tokens lie in the text, so that pieces of different words are never taken for shared.
    Tokens that only one prompt has are left out ("no counterpart").

    Args:
        first, second: the prompts.
        special: whether tokens that the tokenizer added are compared.
        first_token: whether the first position is compared. Whatever token stands there, models
            park attention on it (a sink: arXiv 2309.17453), with activations of another size.
            Where nothing else is left it is compared all the same.
    """
    left_out = (
        _left_out(first, special, first_token),
        _left_out(second, special, first_token),
    )
    units: list[Unit] = []
    for edited, one, two in _blocks(first, second):
        units += _pooled(one, two, left_out) if edited else _one_to_one(one, two, left_out)
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


def _pooled(one: Span, two: Span, left_out: LeftOut) -> list[Unit]:
    """An edited span as one unit; none, noted in `left_out`, where a side has no token."""
    first, second = (
        tuple(i for i in range(*span) if i not in left)
        for span, left in zip((one, two), left_out, strict=True)
    )
    if first and second:
        return [Unit(first, second, edited=True)]
    left_out[0].update(dict.fromkeys(first, "no counterpart"))
    left_out[1].update(dict.fromkeys(second, "no counterpart"))
    return []


def _one_to_one(one: Span, two: Span, left_out: LeftOut) -> list[Unit]:
    """A shared span token by token; a token whose partner is left out is left out as well."""
    units: list[Unit] = []
    for i, j in zip(range(*one), range(*two), strict=True):
        reason = left_out[0].get(i) or left_out[1].get(j)
        if reason is None:
            units.append(Unit((i,), (j,)))
        else:
            left_out[0].setdefault(i, reason)
            left_out[1].setdefault(j, reason)
    return units


def _blocks(first: Encoded, second: Encoded) -> Iterator[tuple[bool, Span, Span]]:
    """Shared and edited spans in turn: whether it is edited, and its tokens in both prompts."""
    matcher = SequenceMatcher(None, first.ids, second.ids, autojunk=False)
    blocks = [(tag != "equal", (a, b), (c, d)) for tag, a, b, c, d in matcher.get_opcodes()]
    words = _words(first), _words(second)
    if words[0] is None or words[1] is None:
        yield from blocks
        return
    yield from _joined(_widened(blocks, words[0], words[1]))


def _words(encoded: Encoded) -> list[int] | None:
    """The number of the word that each token belongs to, None where tokens have no place."""
    if encoded.spans is None:
        return None
    numbers: list[int] = []
    last = 0
    for begin, end in encoded.spans:
        around = encoded.text[max(begin - 1, 0) : min(begin + 1, end)]
        goes_on = len(around) == 2 and around.isalnum()  # letters on both sides of its beginning
        same_letter = begin < min(last, end)  # a token of a part of its bytes
        numbers.append(numbers[-1] if numbers and (goes_on or same_letter) else len(numbers))
        last = end
    return numbers


def _widened(
    blocks: Sequence[tuple[bool, Span, Span]], one: Sequence[int], two: Sequence[int]
) -> Iterator[tuple[bool, Span, Span]]:
    """Shared spans without the tokens whose word is not, as a whole, a word of the other prompt."""
    partners = {
        i: j
        for edited, a, c in blocks
        if not edited
        for i, j in zip(range(*a), range(*c), strict=True)
    }
    counterparts = _tokens_by_word(two)
    whole: set[int] = set()
    for tokens in _tokens_by_word(one).values():
        others = [partners.get(i) for i in tokens]
        if others[0] is not None and others == counterparts[two[others[0]]]:
            whole.update(tokens)
    for edited, a, c in blocks:
        if edited:
            yield True, a, c
            continue
        for i, j in zip(range(*a), range(*c), strict=True):
            yield i not in whole, (i, i + 1), (j, j + 1)


def _tokens_by_word(words: Sequence[int]) -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {}
    for token, word in enumerate(words):
        tokens.setdefault(word, []).append(token)
    return tokens


def _joined(blocks: Iterator[tuple[bool, Span, Span]]) -> Iterator[tuple[bool, Span, Span]]:
    """Neighbouring spans of one kind as one."""
    for edited, group in groupby(blocks, key=itemgetter(0)):
        spans = list(group)
        (_, a, c), (_, b, d) = spans[0], spans[-1]
        yield edited, (a[0], b[1]), (c[0], d[1])
