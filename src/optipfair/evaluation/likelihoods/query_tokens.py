"""Queries as tokens, split where lm-eval's `HFLM` splits them, so that figures can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ArgumentError, DataError
from ...tokenized import detokenized, prefix_token, tokenized
from ..tasks.task import Query

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids (S,), of which those from `start`, 1 or more, are scored."""

    ids: tuple[int, ...]
    start: int

    @property
    def inputs(self) -> tuple[int, ...]:
        """What the model reads: the last token is only predicted."""
        return self.ids[:-1]

    @property
    def wanted(self) -> tuple[int, ...]:
        return self.ids[self.start :]


def encode(tokenizer: PreTrainedTokenizerBase, queries: Sequence[Query]) -> list[Encoded]:
    """Turn queries into tokens.

    White space at the end of a context is moved to the continuation. Both are then encoded
    together, with the special tokens that the tokenizer adds by itself (none where the text begins
    with the token for the beginning), and what comes after as many tokens as the context alone has
    is the continuation. Without a context, the continuation is encoded without special tokens and
    follows the token for the beginning of a text, else that for its end; and so does a context that
    begins a document, where the tokenizer has such a token.
    """
    parts = [_split(query) for query in queries]
    prefix = prefix_token(tokenizer)
    begun: Any = None if prefix is None else detokenized(tokenizer, prefix)
    texts = {text for a, b in parts if a for text in (a, a + b)}
    plain = {text for text in texts if begun is not None and text.startswith(begun)}
    with_special = _ids(tokenizer, texts - plain, special=True)
    first = {
        text
        for query, (a, b) in zip(queries, parts, strict=True)
        if not a or query.begins
        for text in ([a, b] if not a else [a, a + b])
    }
    without = _ids(tokenizer, plain | first, special=False)
    after = with_special | {text: without[text] for text in plain}
    encoded = []
    for query, (a, b) in zip(queries, parts, strict=True):
        if not a:
            encoded.append(_at_beginning(tokenizer, query, without[b], prefix))
        elif query.begins and prefix is not None:
            ids, context = (_begun(without[text], prefix) for text in (a + b, a))
            encoded.append(_after_context(query, ids, len(context)))
        else:
            encoded.append(_after_context(query, after[a + b], len(after[a])))
    return encoded


def fitted(encoded: Encoded, positions: int | None) -> Encoded:
    """Leave out tokens from the left, so that the model reads at most `positions`."""
    excess = len(encoded.ids) - 1 - positions if positions is not None else 0
    if excess <= 0:
        return encoded
    if encoded.start <= excess:
        raise DataError(
            f"A continuation has {len(encoded.wanted)} tokens; the model has {positions} "
            "positions. Leave the item out, or split it."
        )
    return Encoded(encoded.ids[excess:], encoded.start - excess)


def first_token(tokenizer: PreTrainedTokenizerBase, query: Query) -> str | None:
    """The special token that a query's text begins with, None where it has none."""
    (encoded,) = encode(tokenizer, [query])
    first = encoded.ids[0]
    special = first == prefix_token(tokenizer) or first in tokenizer.all_special_ids
    return detokenized(tokenizer, [first]) if special else None


def _split(query: Query) -> tuple[str, str]:
    kept = query.context.rstrip()
    return kept, query.context[len(kept) :] + query.continuation


def _ids(tokenizer: Any, texts: set[str], *, special: bool) -> dict[str, list[int]]:
    if not texts:
        return {}
    found = tokenized(tokenizer, sorted(texts), add_special_tokens=special, verbose=False)
    return dict(zip(sorted(texts), found["input_ids"], strict=True))


def _after_context(query: Query, ids: list[int], start: int) -> Encoded:
    if not 0 < start < len(ids):
        raise DataError(
            f"The tokenizer leaves no token for {query.continuation!r} after "
            f"{query.context[-40:]!r}. Give a continuation that is not empty and begins a word."
        )
    return Encoded(tuple(ids), start)


def _at_beginning(tokenizer: Any, query: Query, ids: list[int], prefix: int | None) -> Encoded:
    if ids and prefix is None:
        raise ArgumentError(
            f"The tokenizer {type(tokenizer).__name__} has no token to begin a text "
            "with, so the first token of one cannot be scored. Set its bos_token, or give every "
            "query a context."
        )
    whole = ids if prefix is None else _begun(ids, prefix)
    if len(whole) < 2:
        raise DataError(f"The continuation {query.continuation!r} has no token to score.")
    return Encoded(tuple(whole), 1)


def _begun(ids: list[int], prefix: int) -> list[int]:
    """With the token for the beginning, once."""
    return ids if ids[:1] == [prefix] else [prefix, *ids]
