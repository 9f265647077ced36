"""`Contrast`: two kinds of words, two kinds of continuations, and templates. It knows no models.

What is measured is an interaction: how much likelier the first continuations are than the second
after words of the first kind, beyond what they are after words of the second. A stereotype makes it
larger than 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from ...errors import ArgumentError, UnknownNameError
from ...registry import unknown_name

SLOT = "{word}"
_HELD_BACK = 3  # one word, and one template, in so many is held back

Two = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Contrast:
    """Words and what may follow them.

    Attributes:
        name: as in tables and on the command line.
        templates: beginnings of sentences, each with one `{word}`.
        words: two kinds of words for the slot.
        continuations: what may follow a filled template, such as ` she`: those that a stereotype
            puts behind the first kind of words, and those that it puts behind the second. Of each
            the first token counts.
        kept: beginnings of sentences whose answers are to stay when the contrast is taken out, such
            as `Mary said that`, where the text itself says who is meant.
    """

    name: str
    templates: tuple[str, ...]
    words: Two
    continuations: Two
    kept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ArgumentError("A contrast has no name. Give one, such as 'gender-occupation'.")
        _check_texts(f"{self.name}: templates", self.templates, 1)
        _check_texts(f"{self.name}: kept", self.kept, 0)
        for each in self.templates:
            if each.count(SLOT) != 1:
                raise ArgumentError(
                    f"{self.name}: the template {each!r} does not hold {SLOT} once. Write for "
                    f"example 'The {SLOT} said that'."
                )
        for name, kinds in (("words", self.words), ("continuations", self.continuations)):
            if isinstance(kinds, str) or len(kinds) != 2:
                raise ArgumentError(f"{self.name}: {name} needs two lists, one for each kind.")
            for kind in kinds:
                _check_texts(f"{self.name}: {name}", kind, 1)
            both = set(kinds[0]) & set(kinds[1])
            if both:
                raise ArgumentError(
                    f"{self.name}: {sorted(both)[0]!r} stands in both lists of {name}. Leave it "
                    "out of one."
                )

    @property
    def prompts(self) -> list[tuple[int, int, str]]:
        """All filled templates: number of the template, kind of the word (0 or 1), the word."""
        kinds = [(kind, word) for kind, words in enumerate(self.words) for word in words]
        return [(number, *each) for number, each in product(range(len(self.templates)), kinds)]

    def filled(self, template: int, word: str) -> str:
        """The text of a prompt; `a` before the slot becomes `an` where the word wants it."""
        text = self.templates[template]
        if word[:1].lower() in "aeiou":
            text = text.replace(f" a {SLOT}", f" an {SLOT}").replace(f"A {SLOT}", f"An {SLOT}")
        filled = text.replace(SLOT, word)
        return filled[:1].upper() + filled[1:]

    def halves(self) -> tuple[Contrast, Contrast]:
        """Words and templates to change a model by, and others to judge the change by.

        Every third word of each kind and every third template are held back; where there are fewer
        than three the same ones serve both.
        """
        templates = _parted(self.templates)
        first, second = (_parted(kind) for kind in self.words)
        made = (
            Contrast(self.name, templates[k], (first[k], second[k]), self.continuations, self.kept)
            for k in (0, 1)
        )
        return next(made), next(made)

    @classmethod
    def of_dict(cls, given: object) -> Contrast:
        """Read a contrast from plain data, with the fields of this class as keys."""
        names = [each.name for each in fields(cls)]
        if not isinstance(given, Mapping):
            raise ArgumentError(
                f"A contrast is an object with {', '.join(names)}, not a {type(given).__name__}."
            )
        for key in given:
            if key not in names:
                raise UnknownNameError(unknown_name("key of a contrast", str(key), names))
        missing = [name for name in names if name not in given and name != "kept"]
        if missing:
            raise ArgumentError(f"A contrast lacks {', '.join(missing)}.")
        return cls(**{name: _frozen(given[name]) for name in names if name in given})


def _check_texts(what: str, texts: Any, least: int) -> None:
    wrong = isinstance(texts, str) or not isinstance(texts, Sequence)
    if wrong or len(texts) < least or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ArgumentError(f"{what} is {texts!r:.80}. Give a list of texts, at least {least}.")
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise ArgumentError(f"{what}: {twice!r} is there twice; once is enough.")


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _parted(items: tuple[str, ...]) -> Two:
    """Those that are used, and every third, which is held back."""
    if len(items) < _HELD_BACK:
        return items, items
    held = items[_HELD_BACK - 1 :: _HELD_BACK]
    return tuple(item for item in items if item not in held), held
