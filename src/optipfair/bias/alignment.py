"""Which tokens of two prompts are compared with which.

Shared tokens are compared one to one, edited spans as wholes (the mean of their tokens). No pair
of prompts is without an alignment; what is left out is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from .tokens import Encoded

Span = tuple[int, int]  # first and last + 1 token


@dataclass(frozen=True)
class Unit:
    """Tokens of the first prompt that are compared with tokens of the second.

    Attributes:
        first, second: token positions, consecutive, at least one each.
        edited: whether the texts differ.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    edited: bool = False


@dataclass(frozen=True)
class Alignment:
    """What is compared of two prompts.

    Attributes:
        units: in the order of the text.
        left_out: of each prompt, token position → why it is not compared.
    """

    units: tuple[Unit, ...]
    left_out: tuple[dict[int, str], dict[int, str]]

    def coverage(self) -> dict[str, object]:
        """How many tokens of each prompt are compared how, and what is left out."""
        shared = sum(not unit.edited for unit in self.units)
        edited = [unit for unit in self.units if unit.edited]
        found: dict[str, object] = {"units": len(self.units), "aligned": shared}
        for number, left in enumerate(self.left_out, start=1):
            pooled = sum(len(unit.first if number == 1 else unit.second) for unit in edited)
            found[f"pooled{number}"] = pooled
            found[f"left_out{number}"] = len(left)
            found[f"tokens{number}"] = shared + pooled + len(left)
        reasons = [reason for left in self.left_out for reason in left.values()]
        found["reasons"] = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
        return found


def align(
    first: Encoded, second: Encoded, *, special: bool = False, first_token: bool = False
) -> Alignment:
    """Align the tokens of two prompts by an edit script on their ids.

    An edit that touches a part of a word is widened to the whole word, where the tokenizer says
    where its tokens lie in the text, so that pieces of different words are never taken for shared.

    Args:
        first, second: the prompts.
        special: whether tokens that the tokenizer added are compared.
        first_token: whether the first position is compared. Whatever token stands there, models
            park attention on it (a sink: arXiv 2309.17453), with activations of another size.
            Where nothing else is left it is compared all the same.
    """
    left_out: tuple[dict[int, str], dict[int, str]] = ({}, {})
    for encoded, left in zip((first, second), left_out, strict=True):
        if not special:
            left.update({i: "special" for i, flag in enumerate(encoded.special) if flag})
        if not first_token:
            left.setdefault(0, "first token")
    units: list[Unit] = []
    for edited, one, two in _blocks(first, second):
        if edited:
            sides = [
                tuple(i for i in range(*span) if i not in left)
                for span, left in zip((one, two), left_out, strict=True)
            ]
            if all(sides):
                units.append(Unit(sides[0], sides[1], edited=True))
                continue
            for side, left in zip(sides, left_out, strict=True):
                left.update(dict.fromkeys(side, "no counterpart"))
            continue
        for i, j in zip(range(*one), range(*two), strict=True):
            reason = left_out[0].get(i) or left_out[1].get(j)
            if reason is None:
                units.append(Unit((i,), (j,)))
            else:
                left_out[0].setdefault(i, reason)
                left_out[1].setdefault(j, reason)
    if not units and not (special and first_token):
        return align(first, second, special=bool(first_token), first_token=True)
    return Alignment(tuple(units), left_out)


def align_lengths(first: int, second: int) -> Alignment:
    """Align two prompts of which nothing but the numbers of tokens is known.

    The first half of the shorter one's tokens is compared from the left, the rest from the right.
    """
    shorter = min(first, second)
    left, right = shorter // 2, shorter - shorter // 2
    places = [[*range(left), *range(length - right, length)] for length in (first, second)]
    units = tuple(Unit((i,), (j,)) for i, j in zip(*places, strict=True))
    missing = tuple(
        {i: "length" for i in range(length) if i not in set(kept)}
        for length, kept in zip((first, second), places, strict=True)
    )
    return Alignment(units, (missing[0], missing[1]))


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
    for begin, end in encoded.spans:
        around = encoded.text[max(begin - 1, 0) : min(begin + 1, end)]
        goes_on = len(around) == 2 and around.isalnum()  # letters on both sides of its beginning
        numbers.append(len(numbers) if not goes_on or not numbers else numbers[-1])
    return numbers


def _widened(
    blocks: Sequence[tuple[bool, Span, Span]], one: Sequence[int], two: Sequence[int]
) -> Iterator[tuple[bool, Span, Span]]:
    """Shared spans without the tokens whose word is edited in part."""
    edited: tuple[set[int], set[int]] = (set(), set())
    for is_edited, a, c in blocks:
        if is_edited:
            edited[0].update(one[i] for i in range(*a))
            edited[1].update(two[i] for i in range(*c))
    for is_edited, a, c in blocks:
        if is_edited:
            yield True, a, c
            continue
        for i, j in zip(range(*a), range(*c), strict=True):
            inside = one[i] in edited[0] or two[j] in edited[1]
            yield inside, (i, i + 1), (j, j + 1)


def _joined(blocks: Iterator[tuple[bool, Span, Span]]) -> Iterator[tuple[bool, Span, Span]]:
    """Neighbouring spans of one kind as one."""
    held: tuple[bool, Span, Span] | None = None
    for edited, a, c in blocks:
        if held is not None and held[0] == edited:
            held = edited, (held[1][0], a[1]), (held[2][0], c[1])
            continue
        if held is not None:
            yield held
        held = edited, a, c
    if held is not None:
        yield held
