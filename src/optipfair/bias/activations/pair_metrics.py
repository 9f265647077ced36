"""The figures of a pair of prompts: of layers, of components, of all, and how they go with depth.

Axes: `K` keys (a component of a layer).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from ...results import ABSENT, Count, Result, spread
from ..prompts.tokens import Positive
from .layer_keys import COMPONENTS, LayerKey
from .metrics import METRICS, Sums

EMPTY = "no tokens are compared"
NO_SIZE = "one side is zero everywhere"
FEW = "fewer than two layers have a value"
UNKNOWN = "the layer has no value"

Component = Annotated[str, {"enum": list(COMPONENTS)}]
Key = Annotated[str, {"pattern": f"^({'|'.join(COMPONENTS)})_layer_(0|[1-9][0-9]*)$"}]
Reasons = Annotated[dict[str, str] | None, {"minProperties": 1}]
_TRENDS = ("mean", *(name for name in METRICS if METRICS[name].scale_free))


def _metric_schema(name: str) -> dict[str, Any]:
    most = {"maximum": 2.000001} if METRICS[name].scale_free else {}
    described = {"description": (METRICS[name].function.__doc__ or "").split("\n")[0]}
    return {"type": ["number", "null"], "minimum": 0, **most, **described}


class LayerFigures(Result):
    """Each metric of a layer, null where it is not defined."""

    figures: dict[str, float | None] = field(metadata=spread(f"^({'|'.join(METRICS)})$"))
    undefined: Annotated[Reasons, "figure → why it is null."] = field(default=None, metadata=ABSENT)

    SCHEMA: ClassVar[Mapping[str, Any]] = {
        "patternProperties": {f"^{name}$": _metric_schema(name) for name in METRICS},
        "required": list(METRICS),
    }


class Figures(LayerFigures):
    """Each metric of several layers together, null where it is not defined."""

    layers: Annotated[Positive, "how many layers (keys) are together here."] = field(kw_only=True)

    SCHEMA: ClassVar[Mapping[str, Any]] = {
        **LayerFigures.SCHEMA,
        "required": [*METRICS, "layers"],
    }


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
    values = {name: METRICS[name].of(sums) for name in METRICS}
    places: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key.component, []).append(place)

    def of_layer(place: int) -> LayerFigures:
        own = {name: column[place] for name, column in values.items()}
        return LayerFigures(**_figures(own, sums.number[place]))

    def together(own: list[int]) -> Figures:
        over = sums.at(own).together()
        joined = {
            name: values[name][own].nanmean()
            if METRICS[name].scale_free
            else METRICS[name].of(over)
            for name in METRICS
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
    names = [name for name in METRICS if name == "mean" or METRICS[name].scale_free]
    return Progression(depth, {name: _trend(depth, values[name][order]) for name in names})


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
