"""A measure of one model: its figure and its interval. No torch.

Axes: `N` items, `C` clusters, `K` parts of a measure, `R` draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..certainty.sharing import Sharing, sharing_of
from ..uncertainty import Estimate, cluster_draws, sums_by_cluster
from .intervals import (
    Bounds,
    Mean,
    estimated,
    resampled_bounds,
    scaled,
    share_bounds,
    signed_bounds,
    student_bounds,
    within,
)
from .measures import Clusters, Columns, Floats, Measure, over


@dataclass(frozen=True)
class Side:
    """A measure of one model."""

    measure: Measure
    parts: Floats  # (N, K)
    sharing: Sharing
    seed: int

    @cached_property
    def sums(self) -> Floats:
        """(C, K)"""
        return sums_by_cluster(self.parts, self.sharing.components.tolist())

    @cached_property
    def value(self) -> float:
        return float(self.measure.value(self.parts.sum(axis=0)))

    @cached_property
    def drawn(self) -> Floats:
        """(R,)"""
        return self.measure.value(cluster_draws(len(self.sums), self.seed) @ self.sums)

    @cached_property
    def unit(self) -> float:
        """What a linear measure's ratio is multiplied by."""
        return float(self.measure.value(np.ones(2)))

    @cached_property
    def counted(self) -> Any:
        """(N,) whether an item counts towards a linear measure."""
        return self.parts[:, 1] > 0

    @property
    def values(self) -> Floats:
        """(N,) of a linear measure, in its unit; 0 where an item does not count."""
        return self.unit * np.nan_to_num(over(self.parts[:, 0], self.parts[:, 1]))

    @property
    def errors(self) -> Floats:
        """(N,) what each item adds to the error of a linear measure."""
        above, below = self.parts.T
        return np.asarray((self.unit * above - self.value * below) / below.sum())

    @property
    def estimate(self) -> Estimate:
        if not math.isfinite(self.value):
            return Estimate(None, None, None, self.measure.undefined)
        return estimated(self.value, within(self._bounds(), self.measure.scale))

    def _bounds(self) -> Bounds:
        if not self.measure.linear or (self.measure.answers is None and self.sharing.one_way):
            return resampled_bounds(self.value, self.drawn, self.sharing)
        if self.measure.answers is None or self.measure.scale is None:
            return student_bounds(self.value, self.errors, self.sharing)
        low, high = self.measure.scale
        rows = self.counted
        place = (self.values[rows] - low) / (high - low)
        weights, sharing = self.parts[rows, 1], self.sharing.taken(rows)
        if self.measure.answers == "two":
            return scaled(share_bounds(Mean(place, weights, sharing)), high - low, low)
        bounds = signed_bounds(Mean(2 * place - 1, weights, sharing))
        return scaled(bounds, (high - low) / 2, (high + low) / 2)


def estimate(measure: Measure, columns: Columns, clusters: Clusters, *, seed: int = 0) -> Estimate:
    """A measure with its 95 % interval, which allows for what items share."""
    (side,) = sides_of(measure, [columns], clusters, seed)
    return side.estimate


def sides_of(
    measure: Measure, columns: Sequence[Columns], clusters: Clusters, seed: int
) -> list[Side]:
    """A measure of each model, without the items that add nothing to any of them."""
    parts = [measure.parts(each) for each in columns]
    rows = np.any([np.any(each != 0, axis=1) for each in parts], axis=0)
    sharing = sharing_of(clusters).taken(rows)
    return [Side(measure, each[rows], sharing, seed) for each in parts]
