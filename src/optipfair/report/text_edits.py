"""Which words of two texts differ, as runs of text that are marked or not."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import NamedTuple

_WORD = re.compile(r"\s+|\w+|[^\w\s]")
_MOST = 2000  # words; comparing takes the square of it


class Run(NamedTuple):
    """A piece of text, and whether the other text has something else there."""

    text: str
    marked: bool


def marked_pair(first: str, second: str) -> tuple[list[Run], list[Run]]:
    """Split two texts into runs, marked where they differ word by word.

    Texts of more than 2000 words are returned whole and unmarked.

    Example:
        >>> marked_pair("She is a nurse.", "He is a nurse.")[1]
        [Run(text='He', marked=True), Run(text=' is a nurse.', marked=False)]
    """
    words = [_WORD.findall(text) for text in (first, second)]
    if max(map(len, words)) > _MOST:
        return [Run(first, False)], [Run(second, False)]
    codes = SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes()
    left = [("".join(words[0][a:b]), kind != "equal") for kind, a, b, _, _ in codes]
    right = [("".join(words[1][c:d]), kind != "equal") for kind, _, _, c, d in codes]
    return _joined(left), _joined(right)


def _joined(pieces: list[tuple[str, bool]]) -> list[Run]:
    """Without empty runs, and marked ones together with the spaces between them."""
    runs: list[Run] = []
    for text, marked in pieces:
        if not text:
            continue
        if marked and len(runs) > 1 and runs[-2].marked and runs[-1].text.isspace():
            between = runs.pop().text
            runs[-1] = Run(runs[-1].text + between + text, True)
        else:
            runs.append(Run(text, marked))
    return runs
