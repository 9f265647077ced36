"""A task: a data file, how it becomes items, and what is measured on them. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...registry import Registry
from ..measuring.measures import Columns, Measure
from .items import Item, Score

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
        texts: the texts of an item to show beside its flip.
        protocol: how the queries are made and scored, in a sentence or two.
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
    texts: Show
    protocol: str
    answer: str | None = None
    answers: tuple[str, str] = ("wrong", "right")
    default: bool = True
    together: Callable[[Item], str] | None = None


TASKS: Registry[Task] = Registry("task")
