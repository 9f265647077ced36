"""Which neutral words take the place of two words: of one field, and as far apart as they are.

White and Black are of one kind and close to each other. What they change in a model says something
only beside swaps that are as large: so a neutral swap has two words of one field, as long as the
pair's, and as far from each other. No model, no tokenizer: lengths and distances are functions that
the caller gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from .edits import Edit
from .words import join_words, look_up

Length = Callable[[str], int]  # of a word as it stands, in tokens
Distance = Callable[[str, str], float]  # of two words as they stand, at least 0

_STEP = 0.05  # share of the target: distances within half a step of it count as equal


@dataclass(frozen=True, slots=True)
class Ranked:
    """A neutral word's field, and its rank by chance."""

    field: str
    rank: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """The neutral words for the first and the second prompt; empty where a word came or went."""

    first: str
    second: str
    apart: float | None = None  # how far they are from each other

    @property
    def words(self) -> tuple[str, str]:
        return self.first, self.second


@dataclass(frozen=True)
class Target:
    """What neutral words should be like."""

    edit: Edit
    lengths: tuple[int, int]
    apart: float | None  # None where it is not looked at
    length: Length
    distance: Distance | None

    def standing(self, word: str) -> str:
        """A neutral word as it stands in the sentence."""
        return join_words([self.edit.placed(word)]) if word else ""


def target_of(edit: Edit, length: Length, distance: Distance | None) -> Target:
    """Measure the words that differ, as they stand in their sentence."""
    gap = edit.place.gap
    first, second = (gap + text if text else "" for text in (edit.first, edit.second))
    asked = distance is not None and first and second
    apart = distance(first, second) if distance is not None and asked else None
    lengths = tuple(length(text) if text else 0 for text in (first, second))
    return Target(edit, (lengths[0], lengths[1]), apart, length, distance if asked else None)


def choose_swaps(
    target: Target, words: Mapping[str, Ranked], count: int, uses: Counter[str]
) -> list[Drawn]:
    """Choose pairs of words of one field, no pair twice, those most like the target first.

    Of all swaps whose words were used least come those that differ least in length (tokens, summed
    over both sides), then in distance (in steps of 5 % of the target's), then in frequency (Zipf,
    in half units, summed; unknown words count as close to all), then by chance.

    Args:
        words: neutral words → field and rank.
        uses: how often each word was used, which is counted on.
    """
    sides = [_likeness(target, side, words) for side in (0, 1)]
    swaps = sorted(_candidates(target, words), key=lambda swap: _cost(target, swap, sides, words))
    made: dict[frozenset[str], Drawn] = {}
    while len(made) < count:
        fresh = [swap for swap in swaps if frozenset(swap.words) not in made]
        if not fresh:
            break
        best = min(
            fresh, key=lambda swap: uses[swap.first] + uses[swap.second]
        )  # the first of them
        uses.update(filter(None, best.words))
        made[frozenset(best.words)] = best
    return list(made.values())


def _candidates(target: Target, words: Mapping[str, Ranked]) -> Iterator[Drawn]:
    """All swaps of two words of one field; of one word where the pair has one."""
    if not target.edit.first or not target.edit.second:
        for word in words:
            yield Drawn(word, "") if target.edit.first else Drawn("", word)
        return
    fields: dict[str, list[str]] = {}
    for word, ranked in words.items():
        fields.setdefault(ranked.field, []).append(word)
    for together in fields.values():
        for one, two in permutations(together, 2):
            apart = None
            if target.distance is not None:
                apart = target.distance(target.standing(one), target.standing(two))
            yield Drawn(one, two, apart)


def _likeness(
    target: Target, side: int, words: Mapping[str, Ranked]
) -> dict[str, tuple[int, float]]:
    """How far each neutral word is from the target's word of one side: in length, in frequency."""
    text, aim = (target.edit.first, target.edit.second)[side], target.lengths[side]
    if not text:
        return {"": (0, 0.0)}
    known = look_up(text)
    found: dict[str, tuple[int, float]] = {}
    for word in words:
        entry = look_up(word)
        gap = abs(entry.zipf - known.zipf) if entry and known else 0.0
        found[word] = abs(target.length(target.standing(word)) - aim), gap
    return found


def _cost(
    target: Target,
    swap: Drawn,
    sides: Sequence[Mapping[str, tuple[int, float]]],
    words: Mapping[str, Ranked],
) -> tuple[int, int, float, float]:
    """How unlike the target a swap is: in length, in distance, in frequency; and its rank."""
    (length, zipf), (other_length, other_zipf) = (
        side.get(word, (0, 0.0)) for side, word in zip(sides, swap.words, strict=True)
    )
    steps = 0
    if target.apart is not None and swap.apart is not None:
        steps = round(abs(swap.apart - target.apart) / (_STEP * target.apart or 1))
    rank = sum(words[word].rank for word in swap.words if word)
    return length + other_length, steps, zipf + other_zipf, rank
