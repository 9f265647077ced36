"""Figures of a comparison as places on axes, in per cent; the template draws them.

Places in per cent keep text and marks at their size on every screen. Nothing here knows HTML.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from ..uncertainty import Estimate
from .comparison import FigureOfTwo, LayerExcess, Layers
from .formats import number, plain, points, signed, times, with_interval
from .scales import Scale, Tick, ratio_ticks, scale_of


@dataclass(frozen=True)
class Strip:
    """One row of a figure: marks on a line, and the same in words.

    Attributes:
        state: `worse`, `better` or `unclear`, by the interval; `undefined` without a figure.
        marks: places, such as `value`, `low`, `high`.
        reason: why something is missing.
    """

    task: str
    measure: str
    group: str | None
    text: str
    state: str = ""
    marks: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True)
class Panel:
    """Strips that share an axis, one a measure; `line` is where nothing changes."""

    kind: str
    title: str
    note: str
    ticks: Sequence[Tick]
    line: float | None
    strips: Sequence[Strip]


@dataclass(frozen=True)
class Plane:
    """Points of the two models on two axes; places of y are counted from the top.

    Attributes:
        points: `original` and `pruned`: places and values, {"x", "y", "ability", "bias"}.
        ability, bias: the measures behind each axis.
    """

    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    points: Mapping[str, Mapping[str, float]]
    ability: Sequence[str]
    bias: Sequence[str]


@dataclass(frozen=True)
class Profile:
    """Excess by depth: a line for each model; places of y are counted from the top.

    Attributes:
        line: where the excess is zero.
        models: `original` and `pruned` -> their points, each with x, y and, where known, low, high.
    """

    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    line: float
    models: Mapping[str, Sequence[Mapping[str, float]]]


def headlines(measures: Iterable[FigureOfTwo]) -> list[FigureOfTwo]:
    """What decides verdicts, all groups together."""
    return [each for each in measures if each.headline and each.group is None]


def by_group(measures: Iterable[FigureOfTwo]) -> list[FigureOfTwo]:
    """The same measures, group by group."""
    return [each for each in measures if each.headline and each.group is not None]


def forest(measures: Sequence[FigureOfTwo]) -> list[Panel]:
    """How much worse the pruned model is: a panel for each unit that occurs."""
    panels = [
        _harm_panel(kind, [each for each in measures if _unit(each) == kind]) for kind in _UNITS
    ]
    return [panel for panel in panels if panel.strips]


def absolutes(measures: Sequence[FigureOfTwo]) -> list[Panel]:
    """Both models on the measures' own scales, where these have ends: a panel for each scale."""
    scales = dict.fromkeys(tuple(each.scale) for each in measures if each.scale)
    return [
        _absolute_panel(Scale(*ends), [m for m in measures if m.scale == list(ends)])
        for ends in scales
    ]


def plane(measures: Sequence[FigureOfTwo]) -> Plane | None:
    """Mean ability against mean distance from no bias; None unless both are known.

    Both are means over headline measures on scales from 0 to 1 (those from 0 to 100 divided by
    100) that both models have: of quality those for which higher is better, of fairness the
    distance from the best value (from 0 where lower is better).
    """
    usable = [each for each in headlines(measures) if _on_a_known_scale(each)]
    able = [m for m in usable if m.question == "quality" and m.better == "higher"]
    fair = [m for m in usable if m.question == "fairness" and m.better != "higher"]
    if not able or not fair:
        return None
    ability = {model: fmean(_share(m, model) for m in able) for model in _MODELS}
    bias = {model: fmean(_distance(m, model) for m in fair) for model in _MODELS}
    x, y = (_at_least(scale_of(axis.values(), 0.6), 0.02) for axis in (ability, bias))
    points = {
        model: {
            "x": x.at(ability[model]),
            "y": round(100 - y.at(bias[model]), 2),
            "ability": ability[model],
            "bias": bias[model],
        }
        for model in _MODELS
    }
    up = [Tick(100 - tick.at, tick.label) for tick in y.ticks(plain, 4)]
    return Plane(x.ticks(plain, 4), up, points, [m.id for m in able], [m.id for m in fair])


def profile(layers: Layers) -> Profile | None:
    """The excess of each layer by relative depth; None where no layer has one."""
    kept = {model: [p for p in layers[model] if p.excess is not None] for model in _MODELS}
    everything = [point for line in kept.values() for point in line]
    if not everything:
        return None
    x = Scale(-0.02, 1.02)
    y = scale_of([0.0, *(each[end] for each in everything for end in ("excess", *_ENDS))])
    models = {model: [_point(each, x, y) for each in line] for model, line in kept.items()}
    ticks = [Tick(100 - tick.at, tick.label) for tick in y.ticks(plain)]
    return Profile(x.ticks(plain), ticks, round(100 - y.at(0.0), 2), models)


_MODELS = ("original", "pruned")
_ENDS = ("low", "high")
_UNITS = ("points", "hundred", "ratio", "own")
_TITLES = {
    "points": ("Measures of at most 1", "in points of 0.01"),
    "hundred": ("Measures of at most 100", "in points"),
    "ratio": ("Ratios", "times worse, logarithmic"),
    "own": ("Measures without ends", "log-likelihoods in nats"),
}
_WRITTEN: Mapping[str, Callable[..., str]] = {
    "points": points,
    "hundred": signed,
    "ratio": lambda harm, like=0.0: times(*(math.exp(min(x, 700.0)) for x in (harm, like))),
    "own": signed,
}


def _unit(measure: FigureOfTwo) -> str:
    if measure.change_kind == "ratio":
        return "ratio"
    if measure.scale is None:
        return "own"
    return "points" if _most(measure) == 1 else "hundred" if _most(measure) == 100 else "own"


def _most(measure: FigureOfTwo) -> float:
    return measure.scale[1] if measure.scale else math.nan


def _harm_panel(kind: str, measures: Sequence[FigureOfTwo]) -> Panel:
    harms = [measure.harm for measure in measures]
    scale = scale_of([0.0, *(harm[end] for harm in harms for end in ("value", *_ENDS))])
    write = _WRITTEN[kind]
    ticks = ratio_ticks(scale, _ratio_label) if kind == "ratio" else scale.ticks(_axis_label(kind))
    title, note = _TITLES[kind]
    strips = [_harm_strip(measure, scale, write) for measure in measures]
    return Panel(kind, title, note, ticks, scale.at(0.0), strips)


def _harm_strip(measure: FigureOfTwo, scale: Scale, write: Callable[..., str]) -> Strip:
    harm = measure.harm
    marks = {end: scale.at(harm[end]) for end in ("value", *_ENDS) if harm[end] is not None}
    return Strip(
        *_names(measure),
        " ".join(part for part in with_interval(harm, write) if part),
        _state(harm),
        marks,
        harm.reason,
    )


def _absolute_panel(scale: Scale, measures: Sequence[FigureOfTwo]) -> Panel:
    ends = plain(scale.low), plain(scale.high)
    strips = [_absolute_strip(measure, scale) for measure in measures]
    title = f"On a scale from {ends[0]} to {ends[1]}"
    return Panel(f"absolute-{ends[0]}-{ends[1]}", title, "", scale.ticks(plain), None, strips)


def _absolute_strip(measure: FigureOfTwo, scale: Scale) -> Strip:
    marks = {model: scale.at(measure[model].value) for model in _both(measure)}
    reason = None if len(marks) == 2 else measure.original.reason or measure.pruned.reason
    if measure.chance is not None:
        marks["chance"] = scale.at(measure.chance)
    if not isinstance(measure.better, str):
        marks["ideal"] = scale.at(measure.better)
    text = f"{number(measure.original.value)} → {number(measure.pruned.value)}"
    return Strip(*_names(measure), text, marks=marks, reason=reason)


def _names(measure: FigureOfTwo) -> tuple[str, str, str | None]:
    return measure.task, measure.measure, measure.group


def _both(measure: FigureOfTwo) -> list[str]:
    return [m for m in _MODELS if measure[m].value is not None]


def _state(harm: Estimate) -> str:
    if harm.value is None:
        return "undefined"
    if harm.low is None or harm.high is None or harm.low <= 0 <= harm.high:
        return "unclear"
    return "worse" if harm.low > 0 else "better"


def _on_a_known_scale(measure: FigureOfTwo) -> bool:
    return measure.scale is not None and len(_both(measure)) == 2


def _share(measure: FigureOfTwo, model: str) -> float:
    value: float = measure[model].value
    return value / _most(measure)


def _distance(measure: FigureOfTwo, model: str) -> float:
    best = 0.0 if measure.better == "lower" else float(measure.better)
    return abs(_share(measure, model) - best / _most(measure))


def _at_least(scale: Scale, width: float) -> Scale:
    """The scale, widened about its middle where it is narrower."""
    short = max(0.0, width - (scale.high - scale.low)) / 2
    return Scale(scale.low - short, scale.high + short)


def _point(each: LayerExcess, x: Scale, y: Scale) -> dict[str, float]:
    places = {"x": x.at(each.depth), "y": round(100 - y.at(each.excess or 0.0), 2)}
    ends = {end: round(100 - y.at(each[end]), 2) for end in _ENDS if each[end] is not None}
    return places | ends


def _ratio_label(ratio: float) -> str:
    return f"×{ratio:.4g}"  # noqa: RUF001


def _axis_label(kind: str) -> Callable[[float], str]:
    return (lambda value: plain(100 * value)) if kind == "points" else plain
