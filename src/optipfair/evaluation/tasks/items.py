"""What a model is asked: texts whose likelihood is wanted, and what came back. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Query:
    """A text whose log-likelihood after a context is asked for.

    Attributes:
        context: what stands before it. Empty: the text begins a document, and its first token is
            predicted from the tokenizer's token for the beginning (or, without one, the end) of a
            text. Spaces at its end are counted to the continuation, as tokenizers do.
        continuation: what is scored; not empty.
    """

    context: str
    continuation: str


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a continuation is.

    Attributes:
        ids: (T,) its tokens.
        logprobs: (T,) natural logarithm of each token's probability given all before it.
        greedy: whether each token is the most likely one.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    greedy: bool

    @property
    def total(self) -> float:
        return math.fsum(self.logprobs)

    @property
    def per_token(self) -> float:
        return self.total / len(self.logprobs)


@dataclass(frozen=True, slots=True)
class Item:
    """One question to a model.

    Attributes:
        id: unique within its task.
        queries: what is scored for it.
        cluster: items that share it (a target term, a template) are not independent.
        facts: what the task's measures need to know: the right answer, a category, texts to show.
    """

    id: str
    queries: tuple[Query, ...]
    cluster: str
    facts: Mapping[str, Any] = field(default_factory=dict)
