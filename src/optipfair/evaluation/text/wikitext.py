"""WikiText as people write: the marks of its tokenisation undone."""

from __future__ import annotations

import re


def detokenised(text: str) -> str:
    """Undo the marks: ` @-@ ` becomes `-`, and no space stands before punctuation.

    `<unk>` and the headings (` = Title = `) stay.

    Example:
        >>> detokenised("It 's a low @-@ cost , well built (sort of ) ship .")
        "It's a low-cost, well built (sort of) ship."
    """
    text = re.sub(r" @(.)@ ", r"\1", text)
    text = re.sub(r" ([,.;:!?%)\]])", r"\1", text)
    return re.sub(r"([(\[$]) ", r"\1", text).replace(" n't", "n't").replace(" 's", "'s")
