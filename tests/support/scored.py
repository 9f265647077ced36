"""Scores as a model would give them, and a task's figures for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import optipfair.evaluation.tasks  # noqa: F401 - registers the tasks
from optipfair.evaluation.measures import groups, taken
from optipfair.evaluation.tasks.task import TASKS, Item, Score


def score(total: float, tokens: int = 1) -> Score:
    """A continuation of so many tokens with this log-likelihood."""
    return Score(tuple(range(tokens)), (total / tokens,) * tokens, greedy=False)


def random_scores(items: Sequence[Item], seed: int = 0) -> list[list[Score]]:
    rng = np.random.default_rng(seed)
    return [[score(-float(rng.random()) - 0.1, 3) for _ in item.queries] for item in items]


def figures(
    name: str, items: Sequence[Item], scores: Sequence[Sequence[Score]]
) -> dict[str, dict[str | None, float]]:
    """Measure -> group -> figure."""
    task = TASKS[name]
    columns = task.outcomes(items, scores)

    def value(measure: Any, rows: Any) -> float:
        return float(measure.value(measure.parts(taken(columns, rows)).sum(axis=0)))

    return {
        measure.name: {g: value(measure, rows) for g, rows in groups(measure, columns).items()}
        for measure in task.measures
    }
