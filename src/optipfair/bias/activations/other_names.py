"""Other names of the bias metrics, those of the published package: the dicts answer to them too."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, ClassVar

from ...results import AlsoNamed, OtherNames
from .metrics import PairMetrics


class _Figures(AlsoNamed):
    ALSO: ClassVar[OtherNames] = {
        **{f"{name}_difference": itemgetter(name) for name in ("mean", "max", "min", "std")},
        **{f"{name}_norm": itemgetter(name) for name in ("l1", "l2")},
    }


class _OfSeveral(AlsoNamed):
    ALSO: ClassVar[OtherNames] = {
        **_Figures.ALSO,
        "num_layers": itemgetter("layers"),
        "total_layers": itemgetter("layers"),
    }


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _largest(trend: Mapping[str, Any]) -> float | None:
    return max((value for value in trend["values"] if value is not None), default=None)


def _rises(trend: Mapping[str, Any]) -> bool | None:
    first, last = trend["first"], trend["last"]
    return None if first is None or last is None else last > first


class _Progression(AlsoNamed):
    """Of the mean difference with depth; a ratio is None where it is not defined."""

    ALSO: ClassVar[OtherNames] = {
        "mean_diffs_by_layer": lambda own: own["mean"]["values"],
        "layer_with_max_diff": lambda own: own["mean"]["peak_layer"],
        "is_increasing": lambda own: _rises(own["mean"]),  # whether the last is above the first
        "first_to_last_ratio": lambda own: _ratio(own["mean"]["first"], own["mean"]["last"]),
        "max_to_first_ratio": lambda own: _ratio(_largest(own["mean"]), own["mean"]["first"]),
    }


def also_named(metrics: PairMetrics) -> dict[str, Any]:
    """The four groups as plain data whose dicts answer to their other names too."""
    groups = metrics.to_dict()

    def each(group: str, kind: type[AlsoNamed]) -> dict[str, AlsoNamed]:
        return {name: kind(values) for name, values in groups[group].items()}

    return {
        "layer_metrics": each("layer_metrics", _Figures),
        "component_metrics": each("component_metrics", _OfSeveral),
        "overall_metrics": _OfSeveral(groups["overall_metrics"]),
        "progression_metrics": each("progression_metrics", _Progression),
    }
