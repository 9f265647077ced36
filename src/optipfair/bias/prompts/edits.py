"""What differs between two prompts, word by word, and what kind of words they are.

It decides which words a neutral one could replace, and says why none could; it chooses no words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from .words import Token, WordClass, is_article, is_plural, join_words, look_up


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SHE = _set("she her hers herself mrs ms miss madam")
_HE = _set("he him his himself mr sir")
# Words without a neutral counterpart: they stay as they are in the first prompt. The verbs are
# those that change with a pronoun ("they are").
_KEPT = _SHE | _HE | _set("they them their theirs themselves themself is are was were has have")
_DETERMINERS = _set(
    "a an the this that these those every each some any no another his her their my our your its "
    "two three many most all few several"
)
# What can follow a noun, but hardly an adjective before its noun.
_AFTER_A_NOUN = _set(
    "is are was were be has have had do does did will would can could should must may might who "
    "whom whose which that of in on at to from with by for as about into over and or but than then "
    "said says thought thinks knew knows went goes came comes felt feels took takes not never also "
    "always often just sat ran stood he she they it 's \u2019s"
)
_NAMES = ("female_name", "male_name")
_FORMS_OF_BE = _set("is are was were be been being am")
_BEFORE_A_SENTENCE = frozenset('.!?"“')
_PLURAL_VERBS = _set("are were have do")
_LONGEST_SPAN = 2  # words; a longer span that is not listed is no word to exchange


@dataclass(frozen=True, slots=True)
class Place:
    """Where words stand: from `start` to `end` among the words of a prompt."""

    tokens: list[Token]
    start: int
    end: int

    @property
    def text(self) -> str:
        return join_words(self.tokens[self.start : self.end]).strip()

    @property
    def gap(self) -> str:
        """The white space before them."""
        return self.tokens[self.start].gap if self.start < self.end else " "

    @property
    def opens(self) -> bool:
        """Whether they begin a sentence."""
        return self.start == 0 or self.tokens[self.start - 1].text in _BEFORE_A_SENTENCE

    @property
    def before(self) -> str:
        return self.tokens[self.start - 1].text.lower() if self.start else ""

    @property
    def after(self) -> Token:
        return self.tokens[self.end] if self.end < len(self.tokens) else Token("", "")

    @property
    def is_of_noun(self) -> bool:
        """Whether a determiner stands before it and no noun can stand after it."""
        word = self.after.text.lower()
        ends = not self.after.is_word or word in _AFTER_A_NOUN or word.endswith("ed")
        return self.before in _DETERMINERS and ends


@dataclass(frozen=True, slots=True)
class Edit:
    """Words of prompt 1, at `place`, that are `second` in prompt 2."""

    place: Place
    first: str
    second: str
    kind: WordClass
    plural: bool

    @property
    def key(self) -> tuple[str, str]:
        return self.first.lower(), self.second.lower()

    def placed(self, word: str) -> Token:
        """A word as it stands in the place of the first words."""
        text = word[0].upper() + word[1:] if self.place.opens else word
        return Token(self.place.gap, text)


class NoNeutralWordError(Exception):
    """Why a pair has no controls."""


def find_edits(first: list[Token], second: list[Token]) -> Iterator[Edit]:
    """The exchanges of words that turn the first prompt into the second.

    Where neutral words cannot take the place of what differs, a NoNeutralWordError says why.
    """
    compared = _comparable(first), _comparable(second)
    opcodes = SequenceMatcher(None, *compared, autojunk=False).get_opcodes()
    spans = [(i1, i2, j1, j2) for tag, i1, i2, j1, j2 in opcodes if tag != "equal"]
    if not spans:
        raise NoNeutralWordError("the prompts are identical, word by word")
    worded = False
    for i1, i2, j1, j2 in spans:
        mine, theirs = _without_kept(first, i1, i2), _without_kept(second, j1, j2)
        one, other = mine.text, theirs.text
        if not one and not other:
            continue
        _check_is_a_word(one, other, join_words(first[i1:i2]), join_words(second[j1:j2]))
        worded = True
        place = mine if one else theirs
        kind = _class_of(one, other, place, first[mine.start :])
        many = place.after.text.lower() in _PLURAL_VERBS or any(map(is_plural, (one, other)))
        yield Edit(mine, one, other, kind, many and kind in ("person", "thing"))
    if not worded:
        raise NoNeutralWordError(
            "the prompts differ only in pronouns, titles or articles, which have no neutral "
            "counterpart"
        )


def _comparable(tokens: list[Token]) -> list[str]:
    """Words as they are compared: `a` and `an` are the same."""
    return [token.text[0] if is_article(token.text) else token.text for token in tokens]


def _without_kept(tokens: list[Token], start: int, end: int) -> Place:
    """Take words that stay, and punctuation, off both ends of a span, determiners off its start."""

    def stays(token: Token) -> bool:
        return token.text.lower() in _KEPT or not token.is_word

    while start < end and (stays(tokens[start]) or tokens[start].text.lower() in _DETERMINERS):
        start += 1
    while start < end and stays(tokens[end - 1]):
        end -= 1
    return Place(tokens, start, end)


def _check_is_a_word(one: str, other: str, whole_one: str, whole_other: str) -> None:
    """Refuse what no single word can stand for, and a word against a pronoun."""
    listed = all(look_up(text) for text in (one, other) if text)
    too_long = not listed and max(len(one.split()), len(other.split())) > _LONGEST_SPAN
    sides = (one, whole_one), (other, whole_other)
    against_kept = any(not text and any(map(str.isalnum, whole)) for text, whole in sides)
    if too_long or against_kept:
        raise NoNeutralWordError(
            f"the prompts differ by more than one word for another ({whole_one.strip()!r} and "
            f"{whole_other.strip()!r}), so neutral words cannot take their place"
        )


# What kind of word.


def _class_of(one: str, other: str, place: Place, following: list[Token]) -> WordClass:
    """The class of the differing words: by the list, else by where they stand."""
    entries = [entry for entry in map(look_up, (one, other)) if entry is not None]
    if not entries:
        kind = _class_by_place(one or other, place)
        return _gender(one, other, following) if kind in _NAMES else kind
    listed = entries[0].classes
    if listed[0] in _NAMES:
        return _gender(one, other, following)
    if "adjective" in listed and not place.is_of_noun:
        return "adjective"
    nouns = [kind for entry in entries for kind in entry.classes if kind in ("person", "thing")]
    if nouns:
        return nouns[0]
    return "person" if is_article(place.before) else "adjective"  # "an Irish", "the poor"


def _class_by_place(text: str, place: Place) -> WordClass:
    capitalised = text[:1].isupper() and not (place.opens and is_plural(text))
    if place.before in _FORMS_OF_BE:
        return "adjective"
    if capitalised and place.before in ("from", "in"):
        return "place"
    if capitalised and place.before not in _DETERMINERS:
        return "male_name"
    if place.before in _DETERMINERS and not place.is_of_noun:
        return "adjective"
    return "person" if capitalised and not place.opens else "thing"


def _gender(one: str, other: str, following: list[Token]) -> WordClass:
    """A name's gender: listed, else by the pronouns after it, else the other name's, else male."""
    words = [token.text.lower() for token in following]
    by_pronoun: list[WordClass] = [
        "female_name" if word in _SHE else "male_name" for word in words if word in _SHE | _HE
    ]
    mine, theirs = (
        [kind for kind in (entry.classes if entry else ()) if kind in _NAMES]
        for entry in map(look_up, (one, other))
    )
    return [*mine, *by_pronoun, *theirs, "male_name"][0]
