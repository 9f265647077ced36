"""Text of other people's files as it can be shown: nothing in it hides, reorders or acts."""

from __future__ import annotations

import re

# Control characters, those that change the order of what is read, and halves of characters.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Show what would hide, reorder or break text (line ends and tabs aside) as `⟨U+202E⟩`."""
    return _HIDDEN.sub(lambda hidden: f"⟨U+{ord(hidden[0]):04X}⟩", text.replace("\r\n", "\n"))


def reason(exc: BaseException) -> str:
    """What an error of others says, as a part of a sentence."""
    said = exc.strerror if isinstance(exc, OSError) else str(exc)
    return " ".join((said or type(exc).__name__).split())[:200].rstrip(".")


def is_utf8(text: str) -> bool:
    """Whether a text, such as the name of a file, can be written in UTF-8."""
    return re.search("[\ud800-\udfff]", text) is None
