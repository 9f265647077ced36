"""Control pairs: the same sentence, in which neutral words take the place of the words that differ.

Which words differ is found word by word, what kind of word they are by the shipped list or by where
they stand, and which neutral words come first by likeness in length and frequency. No model, no
tokenizer: the length of a word is the caller's function.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

from ...checking import check_count
from ...errors import ArgumentError, UnknownNameError
from ...registry import unknown_name
from .edits import Edit, NoNeutralWordError, find_edits
from .pairs import PromptPair, check_prompt_pair
from .scripts import other_language
from .words import (
    Token,
    WordClass,
    article_before,
    is_article,
    is_plural,
    join_words,
    look_up,
    neutral_words,
    plural,
    split_words,
)

Words = Mapping[str, Sequence[str]] | Sequence[str]
Length = Callable[[str], int]
_Swap = tuple[str, str]  # the neutral words for the first and the second prompt

WORD_CLASSES: tuple[WordClass, ...] = get_args(WordClass)

_GIVE_WORDS = "give your own with `control_words`"
_SPLIT = re.compile("[ -]")


@dataclass(frozen=True, slots=True)
class Controls:
    """The control pairs of one pair.

    The k-th of two pairs that differ in the same words has the same neutral words, unless a
    sentence already holds one. The reason says why there are none, or fewer than asked for.
    """

    pairs: tuple[tuple[str, str], ...]
    reason: str | None = None


def control_pairs(
    pair: PromptPair | tuple[str, str],
    count: int = 8,
    *,
    seed: int = 0,
    length: Length | None = None,
    words: Words | None = None,
) -> Controls:
    """Build pairs that differ as the given one does, but in words that name no social group.

    Both prompts of a control are the first prompt of the pair with each differing word replaced by
    a neutral one: white and Black by `small` and `happy`. Each side takes the words closest to its
    own, in length first, then in frequency (Zipf, in half units; unknown words count as close to
    all); the seed decides among equals. No word is used twice for a pair as long as others are
    left, and none that the prompts hold. A name is replaced by names of the same gender, after the
    first prompt. Pronouns and titles stay as they are there, so what a pair changes by them is
    not in its controls. Articles follow.

    `length` gives the tokens of a word as it stands in the sentence, with the space before it
    (`" white"`, and `"John"` where the prompt begins); without it the word's parts are counted. It
    is asked for every neutral word of a class: give one that remembers. `words` are used in the
    place of the shipped ones: a list for whatever differs, or lists by class.
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
    swaps: dict[tuple[str, str], list[_Swap]] = {}
    for edit in edits:  # those of the same words have the same swaps
        if edit.key not in swaps:
            pool = _ranked_words(edit, taken, seed, own)
            swaps[edit.key] = _swaps(edit, pool, count, length, uses)
    tail = pair.prompt1[len(join_words(first)) :]
    exchanged = partial(_exchanged, first, edits, english=language is None)
    made = tuple(
        (exchanged(one) + tail, exchanged(two) + tail)
        for drawn in zip(*(swaps[edit.key] for edit in edits), strict=False)
        for one, two in [zip(*drawn, strict=True)]
    )
    if len(made) == count:
        return Controls(made)
    kinds = " and ".join(sorted({edit.kind.replace("_", " ") for edit in edits}))
    return Controls(
        made,
        f"the list of neutral words ({kinds}) is enough for {len(made)} of {count} controls; "
        f"{_GIVE_WORDS}",
    )


def _ranked_words(
    edit: Edit, taken: set[str], seed: int, own: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Neutral words that can be used, and each one's rank by chance, whatever the sentence."""
    listed = own.get(edit.kind) or neutral_words(edit.kind)
    rng = random.Random(f"{seed} {edit.key}")
    ranks = {word: rng.random() for word in listed}
    return {
        plural(word) if edit.plural and not is_plural(word) else word: rank
        for word, rank in ranks.items()
        if not taken & {*_SPLIT.split(word.lower()), word.lower(), plural(word.lower())}
    }


def _swaps(
    edit: Edit, pool: Mapping[str, float], count: int, length: Length, uses: Counter[str]
) -> list[_Swap]:
    """Pairs of words, no pair twice; each side takes the least used, then the closest words."""
    distances = [_distances(edit, text, pool, length) for text in (edit.first, edit.second)]
    made: dict[frozenset[str], _Swap] = {}
    for index in range(count):
        first, second = (_in_order(distance, uses) for distance in distances)
        if index % 2:  # the sides take turns to choose first
            swaps = ((one, two) for two in second for one in first)
        else:
            swaps = ((one, two) for one in first for two in second)
        fresh = (swap for swap in swaps if swap[0] != swap[1] and frozenset(swap) not in made)
        swap = next(fresh, None)
        if swap is None:
            break
        uses.update(word for word in swap if word)
        made[frozenset(swap)] = swap
    return list(made.values())


def _in_order(distances: Mapping[str, tuple[float, float, float]], uses: Counter[str]) -> list[str]:
    return sorted(distances, key=lambda word: (uses[word], distances[word]))


def _distances(
    edit: Edit, text: str, pool: Mapping[str, float], length: Length
) -> dict[str, tuple[float, float, float]]:
    """How far each neutral word is from a word of the prompts: in length, frequency, and rank."""
    if not text:
        return {"": (0, 0, 0)}
    target, known = length(edit.place.gap + text), look_up(text)
    distances: dict[str, tuple[float, float, float]] = {}
    for word, rank in pool.items():
        entry = look_up(word)
        gap = abs(entry.zipf - known.zipf) if entry and known else 0.0
        placed = join_words([edit.placed(word)])
        distances[word] = (abs(length(placed) - target), gap, rank)
    return distances


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
