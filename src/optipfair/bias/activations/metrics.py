"""The bias metrics: small functions of a few sums over tokens and units, registered by name.

Axes: `M` aligned units of tokens, `U` units of a component.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...registry import Registry

_PIECE = 2**18  # elements at once: what lies in the CPU's cache is many times as fast


class Sums(NamedTuple):
    """Sums over the tokens and units of a comparison, or of many: tensors of one shape, float64."""

    number: Tensor  # how many differences
    absolute: Tensor  # sum of |a - b|
    squared: Tensor  # of (a - b)^2
    largest: Tensor  # of |a - b|
    smallest: Tensor
    dot: Tensor  # sum of a b
    first: Tensor  # of a^2
    second: Tensor  # of b^2

    @classmethod
    def of(cls, first: Tensor, second: Tensor, sizes: Sequence[int]) -> Sums:
        """Of aligned activations (M, U); `sizes` are the comparisons' shares of M."""
        piece = max(1, _PIECE // first.shape[1]) if first.device.type == "cpu" else len(first)
        pieces = zip(torch.split(first, piece), torch.split(second, piece), strict=True)
        rows = cls.joined([cls._of_rows(one, two) for one, two in pieces])
        owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        zeros = torch.zeros(len(sizes), dtype=torch.float64)
        return cls(*(zeros.index_add(0, owner, row) for row in rows))._replace(
            largest=zeros.scatter_reduce(0, owner, rows.largest, "amax"),
            smallest=(zeros + math.inf).scatter_reduce(0, owner, rows.smallest, "amin"),
        )

    @classmethod
    def _of_rows(cls, first: Tensor, second: Tensor) -> Sums:
        """Each row (U,) by itself."""
        units = first.shape[1]
        difference = (first - second).abs_()
        largest, smallest = difference.amax(dim=1), difference.amin(dim=1)
        total = difference.sum(dim=1)
        absolute = total.cpu().double()
        # Squares of the distances from the row's mean, so that equal differences have no spread.
        difference.sub_((total / units)[:, None])
        around = difference.square_().sum(dim=1).cpu().double()
        products = (first * second, first.square(), second.square())
        return cls(
            torch.full((len(first),), units, dtype=torch.float64),
            absolute,
            around + absolute.square() / units,
            largest.cpu().double(),
            smallest.cpu().double(),
            *(each.sum(dim=1).cpu().double() for each in products),
        )

    @classmethod
    def joined(cls, parts: Sequence[Sums]) -> Sums:
        """Those of several parts, one after the other."""
        return cls(*(torch.cat(fields) for fields in zip(*parts, strict=True)))

    def at(self, place: Any) -> Sums:
        """The sums at an index, or at several."""
        return Sums(*(values[place] for values in self))

    def together(self) -> Sums:
        """As if what lies along the first axis were one comparison."""
        return Sums(*(values.sum(dim=0) for values in self))._replace(
            largest=self.largest.amax(dim=0), smallest=self.smallest.amin(dim=0)
        )


@dataclass(frozen=True)
class Metric:
    """One figure.

    One that is `scale_free` goes from 0 to 2 whatever the size of the activations, and is averaged
    over layers; another is taken over all their elements.
    """

    function: Callable[[Sums], Tensor]  # NaN where it is not defined
    scale_free: bool = False

    def of(self, sums: Sums) -> Tensor:
        """Its values; NaN where nothing is compared."""
        return self.function(sums).masked_fill(sums.number == 0, math.nan)


METRICS: Registry[Metric] = Registry("bias metric")


def metric(
    name: str, *, scale_free: bool = False
) -> Callable[[Callable[[Sums], Tensor]], Callable[[Sums], Tensor]]:
    """Register a function of sums as a metric; the first line of its docstring describes it."""

    def register(function: Callable[[Sums], Tensor]) -> Callable[[Sums], Tensor]:
        METRICS.add(name, Metric(function, scale_free))
        return function

    return register


@metric("mean")
def mean_difference(sums: Sums) -> Tensor:
    """Mean of |a - b|."""
    return sums.absolute / sums.number


@metric("max")
def largest_difference(sums: Sums) -> Tensor:
    """Largest |a - b|."""
    return sums.largest


@metric("min")
def smallest_difference(sums: Sums) -> Tensor:
    """Smallest |a - b|."""
    return sums.smallest


@metric("std")
def deviation(sums: Sums) -> Tensor:
    """Standard deviation of |a - b| (of all there are, divided by their number)."""
    variance = sums.squared / sums.number - mean_difference(sums).square()
    return variance.clamp_min(0).sqrt()


@metric("l1")
def l1(sums: Sums) -> Tensor:
    """Sum of |a - b|."""
    return sums.absolute


@metric("l2")
def l2(sums: Sums) -> Tensor:
    """Euclidean length of a - b."""
    return sums.squared.sqrt()


@metric("relative_difference", scale_free=True)
def relative_difference(sums: Sums) -> Tensor:
    """|a - b| over the mean of |a| and |b| (Euclidean lengths): 0 for equal, 2 for opposite."""
    return 2 * sums.squared.sqrt() / (sums.first.sqrt() + sums.second.sqrt())


@metric("cosine_distance", scale_free=True)
def cosine_distance(sums: Sums) -> Tensor:
    """1 - a b / (|a| |b|): 0 for one direction, 1 for orthogonal, 2 for opposite."""
    lengths = (sums.first * sums.second).sqrt()
    distance = (1 - sums.dot / lengths).clamp(0, 2)
    return torch.where(lengths > 0, distance, math.nan)
