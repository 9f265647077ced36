"""Words of English prompts: where they stand, their articles, their class and frequency.

The shipped list (`neutral_words.json`) says which words are known, and `neutral_fields.json` which
neutral ones speak of the same (colours, moods); this module knows no pairs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from .scripts import clusters, is_unspaced

WordClass = Literal["adjective", "person", "thing", "place", "female_name", "male_name"]

# A possessive 's is a word of its own, so that a name keeps it when it is exchanged.
_ALONE = "\ue000\ue001"  # side by side they are two words
_WORD = re.compile(r"\ue000+|\ue001+|['\u2019]s\b|\w+(?:-\w+)*(?:['\u2019](?!s\b)\w+)*|[^\w\s]")
_AN_BEFORE_A_NUMBER = re.compile(r"8|1[18](?!\d)")  # eighty, eleven; `inflect` reads words only


@dataclass(frozen=True, slots=True)
class Token:
    """A word or a punctuation mark, with the white space before it."""

    gap: str
    text: str

    @property
    def is_word(self) -> bool:
        return any(character.isalnum() for character in self.text)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the shipped list knows of a word: its classes, and its Zipf frequency."""

    classes: tuple[WordClass, ...]
    zipf: float


@cache
def _content() -> Any:
    """Part → class → word → Zipf frequency."""
    return json.loads(files(__package__).joinpath("neutral_words.json").read_text("utf-8"))


@cache
def neutral_words(kind: WordClass) -> tuple[str, ...]:
    """Shipped words of a class that name no social group, most frequent first; of places none."""
    return tuple(_content()["neutral"].get(kind, ()))


def field_of(word: str) -> str:
    """What a neutral word speaks of, with its class; names speak of nothing but the class."""
    return _fields()[word]


@cache
def _fields() -> Mapping[str, str]:
    listed = json.loads(files(__package__).joinpath("neutral_fields.json").read_text("utf-8"))
    return {
        word: f"{kind} {field}"
        for kind, fields in listed.items()
        for field, words in fields.items()
        for word in words
    } | {word: kind for kind in ("female_name", "male_name") for word in neutral_words(kind)}


@cache
def _entries() -> Mapping[str, Entry]:
    entries: dict[str, Entry] = {}
    for part in ("neutral", "group"):
        for kind, words in _content()[part].items():
            for word, zipf in words.items():
                before = entries.get(_key(word), Entry((), zipf)).classes
                entries[_key(word)] = Entry((*before, kind), zipf)
    return entries


def look_up(text: str) -> Entry | None:
    """What is known of a word or phrase; a plural is known by its singular, and is a noun."""
    entry = _entries().get(_key(text))
    if entry is not None or not is_plural(text):
        return entry
    entry = _entries().get(_key(singular(text)))
    if entry is None or "name" in entry.classes[0]:
        return None
    return Entry(("thing",) if "thing" in entry.classes else ("person",), entry.zipf)


def _key(text: str) -> str:
    return text.lower().replace("-", " ")


def split_words(text: str) -> list[Token]:
    """Words and punctuation marks; joined they are the prompt, but for white space at its end.

    Where a script puts no spaces between words, each of its letters is one.
    """
    tokens, end = [], 0
    for match in _WORD.finditer(_outline(text)):
        tokens.append(Token(text[end : match.start()], text[slice(*match.span())]))
        end = match.end()
    return tokens


def _outline(text: str) -> str:
    """The text with stand-ins, as long, for what is put together and for unspaced letters."""
    outline = []
    for number, (start, end) in enumerate(clusters(text)):
        first, length = text[start], end - start
        if is_unspaced(first) or (length > 1 and not first.isalnum() and not first.isspace()):
            outline.append(_ALONE[number % 2] * length)
        else:
            outline.append(first + "x" * (length - 1))
    return "".join(outline)


def join_words(tokens: list[Token]) -> str:
    return "".join(token.gap + token.text for token in tokens)


def is_article(text: str) -> bool:
    return text.lower() in ("a", "an")


def article_before(word: str, like: str = "a") -> str:
    """`a` or `an`, as it is spoken before `word`, capitalised as `like` is."""
    article = "an" if _AN_BEFORE_A_NUMBER.match(word) else _engine().a(word).split()[0]
    return article.capitalize() if like[:1].isupper() else article


@cache
def plural(noun: str) -> str:
    """The plural of a noun."""
    return str(_engine().plural_noun(noun))


@cache
def singular(noun: str) -> str:
    """The singular of a plural; what is no plural comes back as it is.

    `inflect` takes each word that ends in s for a plural. Words in -us and -is (`Julius`,
    `nervous`) are one only if the list knows their singular (`Hindus`).
    """
    if not noun:  # beside a word that only the other prompt has
        return noun
    one = str(_engine().singular_noun(noun) or noun)
    doubtful = noun.lower().endswith(("us", "is"))
    return noun if doubtful and _key(one) not in _entries() else one


def is_plural(noun: str) -> bool:
    """Whether a noun looks like a plural."""
    return singular(noun) != noun


@cache
def _engine() -> Any:
    """English grammar. It takes seconds to import, and most commands need none."""
    import inflect

    return inflect.engine()
