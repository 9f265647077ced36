"""A task: a data file, how it becomes items, and what is measured on them. No torch.

An item is what a model is asked: texts whose likelihood is wanted (`Query`, answered by a `Score`),
or, where a task is answered by writing, one whose context is written on (answered by a text).
Axes: `N` items, `Q` queries of an item, `T` tokens of a continuation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...certainty.sharing import Labels
from ...registry import Registry
from ..measures import Columns, Floats, Measure


@dataclass(frozen=True, slots=True)
class Query:
    """A text whose log-likelihood after a context is asked for.

    Without a context it begins a document: its first token is predicted from the tokenizer's token
    for the beginning (or, without one, the end) of a text. With one, this token stands before the
    context if `begins`; else what the tokenizer puts there by itself, which is what lm-eval does.
    Spaces at the end of a context are counted to the continuation, as tokenizers do.
    """

    context: str
    continuation: str  # not empty
    begins: bool = False  # a document


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a continuation is."""

    ids: tuple[int, ...]  # (T,) its tokens
    logprobs: tuple[float, ...]  # (T,) natural logarithms of their probabilities given all before
    greedy: bool  # whether each token is the most likely one

    @property
    def total(self) -> float:
        return math.fsum(self.logprobs)

    @property
    def per_token(self) -> float:
        return self.total / len(self.logprobs)


@dataclass(frozen=True, slots=True)
class Item:
    """One question to a model."""

    id: str  # unique within its task
    queries: tuple[Query, ...]
    cluster: str  # items that share it (a target term, a template) are not independent
    # What the task's measures need to know: the right answer, a category, texts to show.
    facts: Mapping[str, Any] = field(default_factory=dict)
    words: frozenset[str] = frozenset()  # what else makes items that have it dependent

    @property
    def shares(self) -> Labels:
        """All that it may share with other items."""
        return self.words | {self.cluster} if self.words else self.cluster


Items = Sequence[Item]
Scores = Sequence[Sequence[Score]]  # of each item, one a query


@dataclass(frozen=True)
class Reading:
    """The items of a data file, in its order, and how many rows are not used, by the reason."""

    items: list[Item]
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One data set and what is measured on it."""

    name: str  # as on the command line
    question: Literal["ability", "fairness"]
    help: str  # what it is, in one line
    source: str  # where its definition comes from
    path: str  # its file or folder inside the data folder; empty: it needs none
    read: Callable[[Path], Reading]  # raises DataError with file, line and what was expected
    # From the scores of each item, or where it is written from its text: N rows each.
    outcomes: Callable[[Items, Any], Columns]
    measures: tuple[Measure, ...]  # what is computed from the columns
    protocol: str  # how the queries are made and scored, in a sentence or two
    texts: Callable[[Item], list[str]] = lambda item: list(item.facts["texts"])  # beside a flip
    answer: str | None = None  # a column of 0 and 1 (NaN: no answer) whose flips are listed
    answers: tuple[str, str] = ("wrong", "right")  # what 0 and 1 mean there, in words
    writes: int = 0  # tokens that a model writes after the context of each item; 0: it scores
    default: bool = True  # whether a comparison measures it without being asked
    # The key of items that must be drawn together (complete groups); None: each alone.
    together: Callable[[Item], str] | None = None


TASKS: Registry[Task] = Registry("task")


def add(name: str, **fields: Any) -> None:
    """Make a task known by its name."""
    TASKS.add(name, Task(name, **fields))


def begun(context: str, continuation: str) -> Query:
    """A text that begins a document as those of `whole` do, scored after its context."""
    return Query(context, continuation, begins=True)


def whole(*texts: str) -> tuple[Query, ...]:
    """Texts scored from their first token on."""
    return tuple(Query("", text) for text in texts)


def facts(items: Items, name: str) -> NDArray[Any]:
    """(N,) one fact of each item."""
    return np.array([item.facts[name] for item in items])


def totals(scores: Scores) -> Floats:
    """(N, Q) summed log-probabilities, in nats."""
    return np.array([[score.total for score in row] for row in scores], dtype=np.float64)


def means(scores: Scores) -> Floats:
    """(N, Q) log-probabilities per token, in nats."""
    return np.array([[score.per_token for score in row] for row in scores], dtype=np.float64)


def difference(first: Floats, second: Floats) -> Floats:
    """first - second; NaN where one of them is not finite (a text that has no probability)."""
    counted = np.isfinite(first) & np.isfinite(second)
    return np.asarray(np.subtract(first, second, out=np.full(first.shape, np.nan), where=counted))
