"""Documents that nothing is trained on, so that a model can be judged by them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_SHARE = 20  # one character in so many
LEAST = 32_000  # characters of a domain that is ten times as long


def held_back(texts: Sequence[str], least: int | None = None) -> list[int]:
    """The places of those with the lowest SHA-256, lowest first.

    They have a twentieth of the characters, and at least `least`: if it is not given, 32,000 of
    texts that have ten times as many. So they are the same in whatever order the texts come, and
    who trains and who judges hold back the same documents of a domain.
    """
    length = sum(map(len, texts))
    if least is None:
        least = LEAST if length >= 10 * LEAST else 0
    wanted = max(length // _SHARE, least)
    hashed = [hashlib.sha256(each.encode(errors="replace")).digest() for each in texts]
    found = []
    for place in sorted(range(len(texts)), key=hashed.__getitem__):
        if wanted <= 0:
            break
        wanted -= len(texts[place])
        found.append(place)
    return found
