"""Control pairs: the same sentence, in which neutral words take the place of the words that differ.

Which words differ is found word by word, what kind of word they are by the shipped list or by where
they stand. Which neutral words take their place is chosen in `neutral_swaps`. No model, no
tokenizer: the length of a word and the distance of two are the caller's functions.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import get_args

from ...checking import check_count
from ...errors import ArgumentError, UnknownNameError
from ...registry import unknown_name
from .edits import Edit, NoNeutralWordError, find_edits
from .neutral_swaps import Distance, Drawn, Length, Ranked, choose_swaps, target_of
from .pairs import PromptPair, check_prompt_pair
from .scripts import other_language
from .words import (
    Token,
    WordClass,
    article_before,
    field_of,
    is_article,
    is_plural,
    join_words,
    look_up,
    neutral_words,
    plural,
    split_words,
)

Words = Mapping[str, Sequence[str]] | Sequence[str]

WORD_CLASSES: tuple[WordClass, ...] = get_args(WordClass)

_GIVE_WORDS = "give your own with `control_words`"
_SPLIT = re.compile("[ -]")


@dataclass(frozen=True, slots=True)
class Controls:
    """The control pairs of one pair.

    The k-th of two pairs that differ in the same words has the same neutral words, unless a
    sentence already holds one. The reason says why there are none, or fewer than asked for.
    `apart` is how far the pair's own words are from each other, and the neutral ones on average;
    None where no distance was asked for, or a word came or went.
    """

    pairs: tuple[tuple[str, str], ...]
    reason: str | None = None
    words: tuple[tuple[str, ...], ...] = ()  # the neutral words of each
    apart: tuple[float, float] | None = None


def control_pairs(
    pair: PromptPair | tuple[str, str],
    count: int = 8,
    *,
    seed: int = 0,
    length: Length | None = None,
    distance: Distance | None = None,
    words: Words | None = None,
) -> Controls:
    """Build pairs that differ as the given one does, but in words that name no social group.

    Both prompts of a control are the first prompt of the pair with each differing word replaced by
    a neutral one: white and Black by `green` and `blue`, two words of one field. They are as like
    the pair's words as can be had: in length, in how far they are from each other, and in
    frequency, in this order (`choose_swaps`); the seed decides among equals. No word is used twice
    for a pair as long as others are left, and none that the prompts hold. A name is replaced by
    names of the same gender, after the first prompt. Pronouns and titles stay as they are there, so
    what a pair changes by them is not in its controls. Articles follow.

    `length` gives the tokens of a word as it stands in the sentence, with the space before it
    (`" white"`, and `"John"` where the prompt begins); without it the word's parts are counted.
    `distance` gives how far two such words are from each other, for example by a model's input
    embeddings; without it that is not looked at. Both are asked for many words: give ones that
    remember. `words` are used in the place of the shipped ones, as one field: a list for whatever
    differs, or lists by class.
    """
    check_count("count", count)
    own = _checked_words(words)
    pair = check_prompt_pair(pair)
    first, second = split_words(pair.prompt1), split_words(pair.prompt2)
    try:
        edits = list(find_edits(first, second))
    except NoNeutralWordError as exc:
        return Controls((), str(exc))
    language = other_language(f"{pair.prompt1} {pair.prompt2}", look_up)
    if language is not None and any(edit.kind not in own for edit in edits):
        return Controls((), f"the list of neutral words is English, and {language}; {_GIVE_WORDS}")
    if language is not None:  # plurals are not made as in English
        edits = [replace(edit, plural=False) for edit in edits]
    taken = {part for token in (*first, *second) for part in _SPLIT.split(token.text.lower())}
    length = length or (lambda text: len(_SPLIT.split(text.strip())))
    uses: Counter[str] = Counter()
    swaps: dict[tuple[str, str], list[Drawn]] = {}
    targets = {edit.key: target_of(edit, length, distance) for edit in edits}
    for edit in edits:  # those of the same words have the same swaps
        if edit.key not in swaps:
            ranked = _ranked_words(edit, taken, seed, own)
            swaps[edit.key] = choose_swaps(targets[edit.key], ranked, count, uses)
    tail = pair.prompt1[len(join_words(first)) :]
    exchanged = partial(_exchanged, first, edits, english=language is None)
    drawn = [*zip(*(swaps[edit.key] for edit in edits), strict=False)]
    made = tuple(
        (exchanged([each.first for each in row]) + tail, exchanged([e.second for e in row]) + tail)
        for row in drawn
    )
    neutral = tuple(
        tuple(dict.fromkeys(word for each in row for word in each.words if word)) for row in drawn
    )
    apart = _apart([targets[edit.key].apart for edit in edits], drawn)
    if len(made) == count:
        return Controls(made, None, neutral, apart)
    kinds = " and ".join(sorted({edit.kind.replace("_", " ") for edit in edits}))
    return Controls(
        made,
        f"the list of neutral words ({kinds}) is enough for {len(made)} of {count} controls; "
        f"{_GIVE_WORDS}",
        neutral,
        apart,
    )


def _apart(
    own: Sequence[float | None], drawn: Sequence[Sequence[Drawn]]
) -> tuple[float, float] | None:
    """How far a pair's words are from each other, and those of its controls, on average."""
    theirs = [each.apart for row in drawn for each in row]
    mine, neutral = ([apart for apart in some if apart is not None] for some in (own, theirs))
    return (fmean(mine), fmean(neutral)) if mine and neutral else None


def _ranked_words(
    edit: Edit, taken: set[str], seed: int, own: Mapping[str, Sequence[str]]
) -> dict[str, Ranked]:
    """Neutral words that can be used: each one's field, and its rank by chance in any sentence."""
    given = own.get(edit.kind)
    listed = given or neutral_words(edit.kind)
    rng = random.Random(f"{seed} {edit.key}")
    ranks = {word: Ranked("" if given else field_of(word), rng.random()) for word in listed}
    return {
        plural(word) if edit.plural and not is_plural(word) else word: rank
        for word, rank in ranks.items()
        if not taken & {*_SPLIT.split(word.lower()), word.lower(), plural(word.lower())}
    }


def _exchanged(tokens: list[Token], edits: list[Edit], words: Sequence[str], english: bool) -> str:
    """The prompt of `tokens` with a word in the place of each edit, nothing where it is empty."""
    result: list[Token] = []
    seams, position = [], 0  # where something changes: in the result, in `tokens`
    for edit, word in zip(edits, words, strict=True):
        result += tokens[position : edit.place.start]
        seams.append(len(result))
        position = edit.place.end
        if word:
            result.append(edit.placed(word))
    result += tokens[position:]
    for seam in seams if english else ():
        if 0 < seam < len(result) and is_article(result[seam - 1].text):
            article = article_before(result[seam].text, like=result[seam - 1].text)
            result[seam - 1] = replace(result[seam - 1], text=article)
    rest = [replace(t, gap=" ") if t is tokens[0] else t for t in result[1:]]
    return join_words([replace(t, gap=tokens[0].gap) for t in result[:1]] + rest)


def _checked_words(words: Words | None) -> Mapping[str, Sequence[str]]:
    """The caller's words by class, checked; nothing for a class means the shipped ones."""
    if words is None:
        return {}
    by_class: Mapping[str, Sequence[str]] = (
        words if isinstance(words, Mapping) else dict.fromkeys(map(str, WORD_CLASSES), words)
    )
    for kind, listed in by_class.items():
        if kind not in WORD_CLASSES:
            raise UnknownNameError(unknown_name("word class", kind, list(WORD_CLASSES)))
        texts = [] if isinstance(listed, str) or not isinstance(listed, Sequence) else list(listed)
        if len(set(texts)) < 2 or not all(isinstance(t, str) and t.strip() for t in texts):
            raise ArgumentError(
                f"words for {kind} are {listed!r}. Give a list of at least two neutral words."
            )
    return by_class
