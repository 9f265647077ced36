"""A task: a data file, how it becomes items, and what is measured on them. No torch.

An item is what a model is asked: texts whose likelihood is wanted (`Query`, answered by a `Score`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...errors import DataError
from ...registry import Registry
from ..measuring.measures import Columns, Measure


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


Question = Literal["ability", "fairness"]
Show = Callable[[Item], list[str]]


@dataclass(frozen=True)
class Reading:
    """The items of a data file.

    Attributes:
        items: in the order of the file.
        left_out: reason -> number of rows that are not used.
    """

    items: list[Item]
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One data set and what is measured on it.

    Attributes:
        name: as on the command line.
        question: which question it helps to answer.
        help: what it is, in one line.
        source: where its definition comes from.
        path: its file or folder inside the data folder.
        read: file or folder -> items. Raises DataError with file, line and what was expected.
        outcomes: items and their scores (one a query) -> columns of N rows.
        measures: what is computed from the columns.
        answer: a column of 0 and 1 (NaN: no answer) whose flips are listed, or None.
        answers: what 0 and 1 mean there, in words.
        protocol: how the queries are made and scored, in a sentence or two.
        texts: the texts of an item to show beside its flip.
        default: whether a comparison measures it without being asked.
        together: items that must be drawn together, by a key (complete groups); None: each alone.
    """

    name: str
    question: Question
    help: str
    source: str
    path: str
    read: Callable[[Path], Reading]
    outcomes: Callable[[Sequence[Item], Sequence[Sequence[Score]]], Columns]
    measures: tuple[Measure, ...]
    protocol: str
    texts: Show = lambda item: list(item.facts["texts"])
    answer: str | None = None
    answers: tuple[str, str] = ("wrong", "right")
    default: bool = True
    together: Callable[[Item], str] | None = None


TASKS: Registry[Task] = Registry("task")


def add(name: str, **fields: Any) -> None:
    """Make a task known by its name."""
    TASKS.add(name, Task(name, **fields))


def reading_of(
    rows: Iterable[tuple[str, dict[str, Any]]], made: Callable[[str, dict[str, Any]], Item]
) -> Reading:
    """The items that are made of rows with their places, each with an id of its own."""
    items: dict[str, Item] = {}
    places: dict[str, str] = {}
    for place, row in rows:
        item = made(place, row)
        if item.id in items:
            raise DataError(
                f"{place}: the id {item.id} is there twice, first in {places[item.id]}. Give each "
                "row its own."
            )
        items[item.id], places[item.id] = item, place
    return Reading([*items.values()])
