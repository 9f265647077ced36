"""The bias metrics, and by them the figures of a pair of prompts: of layers, and with depth.

A metric is a small function of a few sums over tokens and units. Axes: `M` aligned units of tokens,
`U` units of a component, `K` keys (a component of a layer).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...results import ABSENT, Count, Result, spread
from ..prompts.tokens import Positive
from .layer_keys import COMPONENTS, LayerKey

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

    text: str
    function: Callable[[Sums], Tensor]  # NaN where it is not defined
    scale_free: bool = False

    def of(self, sums: Sums) -> Tensor:
        """Its values; NaN where nothing is compared."""
        return self.function(sums).masked_fill(sums.number == 0, math.nan)

    def schema(self) -> dict[str, Any]:
        most = {"maximum": 2.000001} if self.scale_free else {}
        return {"type": ["number", "null"], "minimum": 0, **most, "description": self.text}


def _deviation(sums: Sums) -> Tensor:
    variance = sums.squared / sums.number - (sums.absolute / sums.number).square()
    return variance.clamp_min(0).sqrt()


def _cosine_distance(sums: Sums) -> Tensor:
    lengths = (sums.first * sums.second).sqrt()
    return torch.where(lengths > 0, (1 - sums.dot / lengths).clamp(0, 2), math.nan)


METRICS = {
    "mean": Metric("Mean of |a - b|.", lambda sums: sums.absolute / sums.number),
    "max": Metric("Largest |a - b|.", lambda sums: sums.largest),
    "min": Metric("Smallest |a - b|.", lambda sums: sums.smallest),
    "std": Metric(
        "Standard deviation of |a - b| (of all there are, divided by their number).", _deviation
    ),
    "l1": Metric("Sum of |a - b|.", lambda sums: sums.absolute),
    "l2": Metric("Euclidean length of a - b.", lambda sums: sums.squared.sqrt()),
    "relative_difference": Metric(
        "|a - b| over the mean of |a| and |b| (Euclidean lengths): 0 for equal, 2 for opposite.",
        lambda sums: 2 * sums.squared.sqrt() / (sums.first.sqrt() + sums.second.sqrt()),
        scale_free=True,
    ),
    "cosine_distance": Metric(
        "1 - a b / (|a| |b|): 0 for one direction, 1 for orthogonal, 2 for opposite.",
        _cosine_distance,
        scale_free=True,
    ),
}

EMPTY = "no tokens are compared"
NO_SIZE = "one side is zero everywhere"
FEW = "fewer than two layers have a value"
UNKNOWN = "the layer has no value"

Component = Annotated[str, {"enum": list(COMPONENTS)}]
Key = Annotated[str, {"pattern": f"^({'|'.join(COMPONENTS)})_layer_(0|[1-9][0-9]*)$"}]
Reasons = Annotated[dict[str, str] | None, {"minProperties": 1}]
_TRENDS = [name for name, each in METRICS.items() if name == "mean" or each.scale_free]


class LayerFigures(Result):
    """Each metric of a layer, null where it is not defined."""

    figures: dict[str, float | None] = field(metadata=spread(f"^({'|'.join(METRICS)})$"))
    undefined: Annotated[Reasons, "figure → why it is null."] = field(default=None, metadata=ABSENT)

    SCHEMA: ClassVar[Mapping[str, Any]] = {
        "patternProperties": {f"^{name}$": each.schema() for name, each in METRICS.items()},
        "required": list(METRICS),
    }


class Figures(LayerFigures):
    """Each metric of several layers together, null where it is not defined."""

    layers: Annotated[Positive, "how many layers (keys) are together here."] = field(kw_only=True)

    SCHEMA: ClassVar[Mapping[str, Any]] = {**LayerFigures.SCHEMA, "required": [*METRICS, "layers"]}


class Trend(Result):
    """How a metric goes with depth."""

    values_: list[float | None]  # one for each of the layers
    first: float | None
    last: float | None
    peak_layer: Annotated[int | None, {"minimum": 0}]
    slope: Annotated[float | None, "least-squares change per layer."]
    undefined: Annotated[Reasons, "figure → why it is null."] = field(default=None, metadata=ABSENT)


class Progression(Result):
    """How the scale-free metrics, and the mean difference, of a component go with depth."""

    layers: list[Count]
    trends: dict[str, Trend] = field(metadata=spread(f"^({'|'.join(_TRENDS)})$"))

    SCHEMA: ClassVar[Mapping[str, Any]] = {"required": ["layers", *_TRENDS]}


class PairMetrics(Result):
    """The four groups of figures of a pair of prompts."""

    layer_metrics: Annotated[dict[Key, LayerFigures], {"minProperties": 1}]
    component_metrics: Annotated[
        dict[Component, Figures],
        {"minProperties": 1},
        "over all elements of a component's layers; scale-free metrics are averaged over the "
        "layers that have one.",
    ]
    overall_metrics: Figures
    progression_metrics: Annotated[dict[Component, Progression], {"minProperties": 1}]


def four_groups(keys: Sequence[LayerKey], sums: Sums) -> PairMetrics:
    """The specification's four groups, from the sums (K,) of one comparison."""
    values = {name: metric.of(sums) for name, metric in METRICS.items()}
    places: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key.component, []).append(place)

    def of_layer(place: int) -> LayerFigures:
        own = {name: column[place] for name, column in values.items()}
        return LayerFigures(**_figures(own, sums.number[place]))

    def together(own: list[int]) -> Figures:
        over = sums.at(own).together()
        joined = {
            name: values[name][own].nanmean() if metric.scale_free else metric.of(over)
            for name, metric in METRICS.items()
        }
        return Figures(**_figures(joined, over.number), layers=len(own))

    return PairMetrics(
        {str(key): of_layer(place) for place, key in enumerate(keys)},
        {component: together(own) for component, own in places.items()},
        together(list(range(len(keys)))),
        {component: _progression(keys, values, own) for component, own in places.items()},
    )


def _figures(values: Mapping[str, Tensor], number: Tensor) -> dict[str, Any]:
    """Plain numbers; None for what is not defined, and why."""
    figures = {name: _number(value) for name, value in values.items()}
    reason = NO_SIZE if number > 0 else EMPTY
    undefined = {name: reason for name, value in figures.items() if value is None}
    return {"figures": figures, "undefined": undefined or None}


def _progression(
    keys: Sequence[LayerKey], values: Mapping[str, Tensor], places: Sequence[int]
) -> Progression:
    order = sorted(places, key=lambda place: keys[place].layer)
    depth = [keys[place].layer for place in order]
    return Progression(depth, {name: _trend(depth, values[name][order]) for name in _TRENDS})


def _trend(depth: list[int], values: Tensor) -> Trend:
    known = ~values.isnan()
    figures = {
        "first": _number(values[0]),
        "last": _number(values[-1]),
        "peak_layer": depth[int(values.nan_to_num(-1).argmax())] if bool(known.any()) else None,
        "slope": _slope(torch.tensor(depth)[known].double(), values[known]),
    }
    undefined = {
        name: FEW if name == "slope" else UNKNOWN
        for name, value in figures.items()
        if value is None
    }
    return Trend([_number(value) for value in values], **figures, undefined=undefined or None)  # type: ignore[arg-type]


def _slope(depth: Tensor, values: Tensor) -> float | None:
    """Least-squares change per layer; None for fewer than two layers."""
    if len(values) < 2:
        return None
    centred = depth - depth.mean()
    return _number((centred * values).sum() / centred.square().sum())


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
