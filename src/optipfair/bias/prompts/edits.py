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
_FORMS_OF_BE = _set("is are was were be been being am")
_BEFORE_A_SENTENCE = frozenset('.!?"“')
_PLURAL_VERBS = _set("are were have do")
_LONGEST_SPAN = 2  # words; a longer span that is not listed is no word to exchange


@dataclass(frozen=True, slots=True)
class Edit:
    """Words of prompt 1 from `start` to `end` that are `second` in prompt 2.

    `gap` is the white space before them; `opens` says that they begin a sentence.
    """

    start: int
    end: int
    gap: str
    opens: bool
    first: str
    second: str
    kind: WordClass
    plural: bool

    @property
    def key(self) -> tuple[str, str]:
        return self.first.lower(), self.second.lower()

    def placed(self, word: str) -> Token:
        """A word as it stands in the place of the first words."""
        return Token(self.gap, word[0].upper() + word[1:] if self.opens else word)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where words stand: from `start` to `end` among the words of a prompt."""

    tokens: list[Token]
    start: int
    end: int

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


class NoNeutralWordError(Exception):
    """Why a pair has no controls."""


def find_edits(first: list[Token], second: list[Token]) -> Iterator[Edit]:
    """The exchanges of words that turn the first prompt into the second.

    Raises:
        NoNeutralWordError: neutral words cannot take the place of what differs, or nothing does.
    """
    opcodes = SequenceMatcher(
        None, _comparable(first), _comparable(second), autojunk=False
    ).get_opcodes()
    spans = [(i1, i2, j1, j2) for tag, i1, i2, j1, j2 in opcodes if tag != "equal"]
    if not spans:
        raise NoNeutralWordError("the prompts are identical, word by word")
    worded = False
    for i1, i2, j1, j2 in spans:
        start, end = _without_kept(first, i1, i2)
        one = join_words(first[start:end]).strip()
        place = _Place(second, *_without_kept(second, j1, j2))
        other = join_words(second[place.start : place.end]).strip()
        if not one and not other:
            continue
        _check_is_a_word(one, other, join_words(first[i1:i2]), join_words(second[j1:j2]))
        worded = True
        place = _Place(first, start, end) if one else place
        kind = _class_of(one, other, place, first[start:])
        many = place.after.text.lower() in _PLURAL_VERBS or any(map(is_plural, (one, other)))
        yield Edit(
            start,
            end,
            gap=first[start].gap if start < end else " ",
            opens=opens_sentence(first, start),
            first=one,
            second=other,
            kind=kind,
            plural=many and kind in ("person", "thing"),
        )
    if not worded:
        raise NoNeutralWordError(
            "the prompts differ only in pronouns, titles or articles, which have no neutral "
            "counterpart"
        )


def _comparable(tokens: list[Token]) -> list[str]:
    """Words as they are compared: `a` and `an` are the same."""
    return [token.text[0] if is_article(token.text) else token.text for token in tokens]


def _without_kept(tokens: list[Token], start: int, end: int) -> tuple[int, int]:
    """Take words that stay, and punctuation, off both ends of a span, determiners off its start."""

    def stays(token: Token) -> bool:
        return token.text.lower() in _KEPT or not token.is_word

    while start < end and (stays(tokens[start]) or tokens[start].text.lower() in _DETERMINERS):
        start += 1
    while start < end and stays(tokens[end - 1]):
        end -= 1
    return start, end


def _check_is_a_word(one: str, other: str, whole_one: str, whole_other: str) -> None:
    """Refuse what no single word can stand for, and a word against a pronoun."""
    listed = all(look_up(text) for text in (one, other) if text)
    too_long = not listed and max(len(one.split()), len(other.split())) > _LONGEST_SPAN
    against_kept = (not one and _has_word(whole_one)) or (not other and _has_word(whole_other))
    if too_long or against_kept:
        raise NoNeutralWordError(
            f"the prompts differ by more than one word for another ({whole_one.strip()!r} and "
            f"{whole_other.strip()!r}), so neutral words cannot take their place"
        )


def _has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)


# What kind of word.


def _class_of(one: str, other: str, place: _Place, following: list[Token]) -> WordClass:
    """The class of the differing words: by the list, else by where they stand."""
    entries = [entry for entry in map(look_up, (one, other)) if entry is not None]
    if not entries:
        kind = _class_by_place(one or other, place)
        return _gender(one, other, following) if _is_name(kind) else kind
    listed = entries[0].classes
    if _is_name(listed[0]):
        return _gender(one, other, following)
    if "adjective" in listed and not place.is_of_noun:
        return "adjective"
    nouns = [kind for entry in entries for kind in entry.classes if kind in ("person", "thing")]
    if nouns:
        return nouns[0]
    return "person" if is_article(place.before) else "adjective"  # "an Irish", "the poor"


def _class_by_place(text: str, place: _Place) -> WordClass:
    opens = opens_sentence(place.tokens, place.start)
    capitalised = text[:1].isupper() and not (opens and is_plural(text))
    if place.before in _FORMS_OF_BE:
        return "adjective"
    if capitalised and place.before in ("from", "in"):
        return "place"
    if capitalised and place.before not in _DETERMINERS:
        return "male_name"
    if place.before in _DETERMINERS and not place.is_of_noun:
        return "adjective"
    return "person" if capitalised and not opens else "thing"


def opens_sentence(tokens: list[Token], index: int) -> bool:
    return index == 0 or tokens[index - 1].text in _BEFORE_A_SENTENCE


def _is_name(kind: WordClass) -> bool:
    return kind in ("female_name", "male_name")


def _gender(one: str, other: str, following: list[Token]) -> WordClass:
    """A name's gender: listed, else by the pronouns after it, else the other name's, else male."""
    by_pronoun: list[WordClass] = [
        "female_name" if token.text.lower() in _SHE else "male_name"
        for token in following
        if token.text.lower() in _SHE | _HE
    ]
    return next(iter([*_name_classes(one), *by_pronoun, *_name_classes(other), "male_name"]))


def _name_classes(text: str) -> list[WordClass]:
    entry = look_up(text)
    return [kind for kind in (entry.classes if entry else ()) if _is_name(kind)]
