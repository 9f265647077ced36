"""Items that share something are not independent: how much less they say than as many others.

An item has one label (a template, a target term) or a set of them (the words "white" and "Black" of
a pair): items that have a label in common depend on each other. Pure. Axes: `N` items.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .proportions import student_quantile

Floats = NDArray[np.float64]
Labels = Hashable | frozenset[str]
_NORMAL = student_quantile(1e6)


@dataclass(frozen=True)
class Sharing:
    """What each item shares with others."""

    labels: tuple[frozenset[Hashable], ...]  # (N,)

    @cached_property
    def one_way(self) -> bool:
        """Whether each item has one label, so that items fall into clusters."""
        return all(len(own) == 1 for own in self.labels)

    @cached_property
    def components(self) -> NDArray[np.intp]:
        """(N,) the number of the cluster of each item, those that are connected being one."""
        parent: dict[Hashable, Hashable] = {}

        def top(label: Hashable) -> Hashable:
            while parent.setdefault(label, label) != label:
                parent[label] = parent[parent[label]]
                label = parent[label]
            return label

        for own in self.labels:
            first, *others = own
            top(first)
            for other in others:
                parent[top(other)] = top(first)
        known: dict[Hashable, int] = {}
        tops = [top(next(iter(own))) for own in self.labels]
        return np.array([known.setdefault(each, len(known)) for each in tops], dtype=np.intp)

    @cached_property
    def independent(self) -> bool:
        """Whether no item shares anything."""
        return len(set(self.components.tolist())) == len(self.labels)

    def taken(self, rows: NDArray[np.bool_]) -> Sharing:
        """The same of some items."""
        return Sharing(tuple(own for own, use in zip(self.labels, rows, strict=True) if use))

    def clusters(self) -> int:
        """How many clusters there are; where items share in several ways, their effective number.

        This is N squared over the number of ordered pairs of items that share something, an item
        with itself counted: the number of clusters of equal size that would share as much.
        """
        if self.one_way or not self.labels:
            return len(set(self.components.tolist()))
        return int(self.effective(np.ones(len(self.labels))) + 1e-9)

    def effective(self, weights: Floats) -> float:
        """The effective number of clusters (Kish 1965): squared sum over the sum of squares."""
        return float(weights.sum() ** 2 / self._products(weights))

    def freedom(self, weights: Floats) -> float:
        """Degrees of freedom of a variance between clusters, 1 at least."""
        count = float(self.clusters()) if self.one_way else self.effective(weights)
        return max(1.0, count - 1)

    def variance(self, errors: Floats) -> float:
        """The variance of a sum of errors whose mean is 0, those of sharing items together.

        Over clusters it is C / (C - 1) times the sum of the squares of their sums. Where items
        share in several ways, it is the sum of the products of all pairs that share a label
        (Cameron, Gelbach & Miller 2011; for pairs of words Aronow, Samii & Assenova 2015), and
        never less than if all were independent.
        """
        count = self.freedom(np.ones(len(errors))) + 1
        return count / (count - 1) * max(self._products(errors), float(errors @ errors))

    def effective_count(self, values: Floats, weights: Floats, spread: float) -> float:
        """How many independent items say as much about a weighted mean as these.

        Args:
            values, weights: (N,), weights above 0.
            spread: the variance that one value would have.

        The number of items, by their weights, over the design effect, and allowing for how little
        few clusters tell of it by Student's t (Korn & Graubard 1998). Where all values are the same
        they say nothing of the design effect, and each cluster counts as one.
        """
        kish = float(weights.sum() ** 2 / (weights @ weights))
        if self.independent:
            return kish
        if spread <= 0:
            return self.effective(weights)
        errors = weights * (values - values @ weights / weights.sum()) / weights.sum()
        design = max(1.0, self.variance(errors) * kish / spread)
        return float(kish / design * (_NORMAL / student_quantile(self.freedom(weights))) ** 2)

    def _products(self, values: Floats) -> float:
        if self.one_way:
            sums = np.bincount(self.components, values)
            return float(sums @ sums)
        return float(values @ (self._pairs @ values))

    @cached_property
    def _pairs(self) -> Floats:
        """(N, N), 1 where two items share a label."""
        known: dict[Hashable, int] = {}
        places = [
            (row, known.setdefault(label, len(known)))
            for row, own in enumerate(self.labels)
            for label in own
        ]
        has = np.zeros((len(self.labels), len(known)), dtype=np.float32)
        has[tuple(np.array(places).T)] = 1.0
        return np.asarray(has @ has.T > 0, dtype=np.float64)


def sharing_of(labels: Sequence[Labels]) -> Sharing:
    """What items share, from the label of each, or a frozen set of them."""
    return Sharing(tuple(own if isinstance(own, frozenset) else frozenset([own]) for own in labels))
