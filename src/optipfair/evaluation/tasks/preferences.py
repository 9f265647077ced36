"""Which of two texts a model finds likelier. Shared by the tasks that compare pairs; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..measuring.measures import SHARE, Columns, Floats, Measure, mean_of, over
from .task import Item, Query, Score


def whole(*texts: str) -> tuple[Query, ...]:
    """Texts scored from their first token on."""
    return tuple(Query("", text) for text in texts)


def totals(scores: Sequence[Sequence[Score]]) -> Floats:
    """(N, Q) summed log-probabilities of N items with Q queries, in nats."""
    return np.array([[score.total for score in row] for row in scores], dtype=np.float64)


def means(scores: Sequence[Sequence[Score]]) -> Floats:
    """(N, Q) log-probabilities per token, in nats."""
    return np.array([[score.per_token for score in row] for row in scores], dtype=np.float64)


def preferred(first: ArrayLike, second: ArrayLike) -> Floats:
    """1 where the first is larger, 0 where the second is, a half for ties, NaN where one is NaN."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    # Not the sign of the difference: two scores of -infinity are equal, their difference is NaN.
    result = np.where(first > second, 1.0, np.where(first == second, 0.5, 0.0))
    result[np.isnan(first) | np.isnan(second)] = np.nan
    return result


def difference(first: Floats, second: Floats) -> Floats:
    """first - second; NaN where one of them is not finite (a text that has no probability)."""
    counted = np.isfinite(first) & np.isfinite(second)
    result: Floats = np.subtract(first, second, out=np.full(first.shape, np.nan), where=counted)
    return result


def settled(preference: Floats) -> Floats:
    """A preference as an answer of 1 or 0: ties are none (NaN)."""
    return np.where(preference == 0.5, np.nan, preference)


def facts(items: Sequence[Item], name: str) -> NDArray[Any]:
    """(N,) one fact of each item."""
    return np.array([item.facts[name] for item in items])


def share_preferred(name: str, told: str, column: str, **more: Any) -> Measure:
    """How often one side of a pair is preferred, of which half is neutral and a coin's."""
    return Measure(name, told, **mean_of(column), better=0.5, scale=SHARE, chance=0.5, **more)


def weighted_mean(column: str, weight: str, scale: float = 1.0) -> Mapping[str, Any]:
    """`parts` and `value` of scale * sum(weight * column) / sum(weight); NaN does not count."""

    def parts(columns: Columns) -> Floats:
        values = columns[column]
        weights = np.where(np.isnan(values), 0.0, columns[weight])
        return np.stack([weights * np.nan_to_num(values), weights], axis=1)

    return {"parts": parts, "value": lambda sums: scale * over(sums[..., 0], sums[..., 1])}
