"""Writing systems: characters that belong together, scripts without spaces, and what is English.

It knows no pairs of prompts and no tokenizer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

# Letters of scripts that put no spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, and those
# of Chinese and Japanese.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31f0-\u31ff\u3400-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_JOINER = "\u200d"
_VOWELS_BEHIND = "\u0e33\u0eb3"  # letters in Unicode, parts of a letter in Thai and Lao


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words that other languages of the Latin script lack, or hardly use.
_ENGLISH = _set(
    "the and with his their she they this from were have not who which would could been when where "
    "what there then than into about because very your our its these those should while after "
    "before through being does did my you him them said how why will"
)
_WEAK_ENGLISH = _set(
    "a an in of to is was on at by for he her it i we as are be had has but or me so do no up out "
    "all one two if"
)
_OTHER = _set(
    # French, Spanish, Portuguese, Italian, Catalan, Romanian
    "le la les un une des du et est dans avec pour qui que il elle ils elles sur ses leur pas mais "
    "el los las una unos y con para por como pero su sus del al lo se es fue era muy o os um uma "
    "uns umas em no na nos nas ao com seu sua mais não il lo gli di che e è sono nel nella della "
    "dei con suo sua i si și cu pe din care este "
    # German, Dutch, the Nordic languages
    "der die das den dem ein eine einer einen und ist nicht mit von zu im auf sich sein seine ihr "
    "ihre war hatte als auch het een en van niet met zijn haar naar dat deze og det som på av til "
    "ikke med hans hennes och är inte för ett "
    # Polish, Czech, Turkish, Indonesian, Vietnamese, Swahili
    "i w z na do nie się jest był była ve bir bu için ile yang dan di itu ini dengan untuk pada "
    "một và của là người ya wa na ni kwa"
) - {"i", "no", "do", "die", "on", "a", "war", "is", "in"}


def continues(before: str, after: str) -> bool:
    """Whether a character is a part of the letter or sign that the one before it belongs to."""
    return (
        unicodedata.category(after).startswith("M")
        or after in (_JOINER, "\u200c", *_VOWELS_BEHIND)
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # colours of skin
        or before == _JOINER
    )


def is_unspaced(character: str) -> bool:
    """Whether it is a letter of a script that puts no spaces between words."""
    return _UNSPACED.match(character) is not None


def clusters(text: str) -> Iterator[tuple[int, int]]:
    """Where each letter or sign of a text begins and ends, whatever it is put together of."""
    start = 0
    flag = False  # two letters of the regional alphabet are one flag
    for place in range(1, len(text) + 1):
        if place < len(text):
            both = all("\U0001f1e6" <= each <= "\U0001f1ff" for each in text[place - 1 : place + 1])
            flag = both and not flag
            if flag or continues(text[place - 1], text[place]):
                continue
        yield start, place
        start = place


def script_of(character: str) -> str:
    """What the writing system of a letter is called."""
    if not character.isalpha() and not unicodedata.category(character).startswith("M"):
        return "symbols"
    name = unicodedata.name(character, "unknown").split()[0].split("-")[0]
    return "Chinese" if name == "CJK" else name.capitalize()


def other_language(text: str, listed: Callable[[str], object | None]) -> str | None:
    """Why a text is not taken for English; None if it is, or may be.

    By its script, then by its small words, of which other languages have others, and where it has
    none of either by those that are `listed` as English.
    """
    letters = [each for each in text if each.isalpha()]
    foreign = [each for each in letters if not unicodedata.name(each, "").startswith("LATIN")]
    if len(foreign) > len(letters) / 4:
        return f"they are written in another script ({script_of(foreign[0])})"
    words = re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", text.lower()))
    ours = sum(word in _ENGLISH for word in words)
    theirs = sum(word in _OTHER or not word.isascii() for word in words)
    weak = any(word in _WEAK_ENGLISH or listed(word) is not None for word in words)
    if theirs > ours or not (ours or weak):
        return "they do not read as English"
    return None
