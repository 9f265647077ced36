"""The boundary to tokenizers: programs made of other people's files, which may raise anything.

Nothing else in the library calls one (a test looks), so whatever it raises is one error of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .errors import ArgumentError, DataError, OptiPFairError
from .visible import is_utf8, reason

_WAY_OUT = "Give the tokenizer that belongs to the model, with all its files."


def tokenized(tokenizer: Any, text: str | Sequence[str], **options: Any) -> Any:
    """What the tokenizer makes of a text, or of several: `input_ids` and what the options ask for.

    Raises:
        ArgumentError: it is no tokenizer.
        DataError: it fails, or a text holds half a character.
    """
    if not callable(tokenizer):
        raise ArgumentError(
            f"tokenizer is a {type(tokenizer).__name__}. Give the tokenizer of the model, such as "
            "AutoTokenizer.from_pretrained loads."
        )
    broken = [each for each in ([text] if isinstance(text, str) else text) if not is_utf8(each)]
    if broken:
        raise DataError(
            f"The text {broken[0][:80]!r} holds half a character (a lone surrogate), which no "
            "tokenizer reads. Write the whole character, or leave it out."
        )
    with _asking():
        return tokenizer(text, **options)


def detokenized(tokenizer: Any, ids: Any, **options: Any) -> str:
    """The text of token ids."""
    with _asking():
        return str(tokenizer.decode(ids, **options))


def prefix_token(tokenizer: Any) -> int | None:
    """The token before a text that has nothing before it: that of the beginning, else the end."""
    tokens = (getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
    return next((int(token) for token in tokens if token is not None), None)


@contextmanager
def _asking() -> Iterator[None]:
    try:
        yield
    except (OptiPFairError, MemoryError):
        raise
    except BaseException as exc:
        if not isinstance(exc, Exception) and type(exc).__module__ != "pyo3_runtime":
            raise  # Ctrl-C; a panic of the tokenizers' Rust is no Exception either
        raise DataError(f"The tokenizer fails: {reason(exc)}. {_WAY_OUT}") from exc
