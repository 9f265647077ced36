"""Figures of a comparison as places on axes, in per cent; the template draws them.

Places in per cent keep text and marks at their size on every screen. Nothing here knows HTML.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..uncertainty import Estimate
from .comparison import FigureOfTwo, LayerExcess, Layers
from .formats import number, plain, points, signed, times, with_interval


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in per cent."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """A straight axis from `low` to `high`."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Per cent from the low end; what lies outside is put at the end."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    def ticks(self, label: Callable[[float], str], most: int = 6) -> list[Tick]:
        """Round numbers between the ends, at most `most`."""
        return [Tick(self.at(value), label(value)) for value in _round_numbers(self, most)]


@dataclass(frozen=True)
class Strip:
    """One row of a figure: marks on a line, and the same in words."""

    of: FigureOfTwo
    text: str
    marks: Mapping[str, float]  # places, such as `value`, `low`, `high`
    reason: str | None  # why something is missing
    state: str = ""  # worse, better or unclear, by the interval; undefined without a figure


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
    """Points of the two models on two axes; places of y are counted from the top."""

    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    points: Mapping[str, Mapping[str, float]]  # model → places x and y, values ability and bias
    ability: Sequence[str]  # the measures behind it
    bias: Sequence[str]


@dataclass(frozen=True)
class Profile:
    """Excess by depth: a line for each model; places of y are counted from the top."""

    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    line: float  # where the excess is zero
    models: Mapping[str, Sequence[Mapping[str, float]]]  # points of x, y and, if known, low, high


def headlines(measures: Iterable[FigureOfTwo]) -> list[FigureOfTwo]:
    """What decides verdicts, all groups together."""
    return [each for each in measures if each.headline and each.group is None]


def by_group(measures: Iterable[FigureOfTwo]) -> list[FigureOfTwo]:
    """The same measures, group by group."""
    return [each for each in measures if each.headline and each.group is not None]


def forest(measures: Sequence[FigureOfTwo]) -> list[Panel]:
    """How much worse the pruned model is: a panel for each unit that occurs."""
    by_unit = {kind: [each for each in measures if _unit(each) == kind] for kind in _UNITS}
    return [_harm_panel(kind, own) for kind, own in by_unit.items() if own]


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
    usable = [m for m in headlines(measures) if m.scale is not None and len(_both(m)) == 2]
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
            "y": _down(y, bias[model]),
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
    return Profile(x.ticks(plain), ticks, _down(y, 0.0), models)


_MODELS = ("original", "pruned")
_ENDS = ("low", "high")
# Unit → the title of its panel, a note, and how harms in it are written.
_UNITS: Mapping[str, tuple[str, str, Callable[..., str]]] = {
    "points": ("Measures of at most 1", "in points of 0.01", points),
    "hundred": ("Measures of at most 100", "in points", signed),
    "ratio": (
        "Ratios",
        "times worse, logarithmic",
        lambda harm, like=0.0: times(*(math.exp(min(x, 700.0)) for x in (harm, like))),
    ),
    "own": ("Measures without ends", "log-likelihoods in nats", signed),
}


def _unit(measure: FigureOfTwo) -> str:
    if measure.change_kind == "ratio":
        return "ratio"
    return {1.0: "points", 100.0: "hundred"}.get(_most(measure), "own")


def _most(measure: FigureOfTwo) -> float:
    return measure.scale[1] if measure.scale else math.nan


def _harm_panel(kind: str, measures: Sequence[FigureOfTwo]) -> Panel:
    harms = [measure.harm for measure in measures]
    scale = scale_of([0.0, *(harm[end] for harm in harms for end in ("value", *_ENDS))])
    title, note, write = _UNITS[kind]
    factor = 100 if kind == "points" else 1
    ticks = (
        ratio_ticks(scale, lambda ratio: f"×{ratio:.4g}")  # noqa: RUF001
        if kind == "ratio"
        else scale.ticks(lambda value: plain(factor * value))
    )
    strips = [_harm_strip(measure, scale, write) for measure in measures]
    return Panel(kind, title, note, ticks, scale.at(0.0), strips)


def _harm_strip(measure: FigureOfTwo, scale: Scale, write: Callable[..., str]) -> Strip:
    harm = measure.harm
    marks = {end: scale.at(harm[end]) for end in ("value", *_ENDS) if harm[end] is not None}
    text = " ".join(filter(None, with_interval(harm, write)))
    return Strip(measure, text, marks, harm.reason, _state(harm))


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
    return Strip(measure, text, marks, reason)


def _both(measure: FigureOfTwo) -> list[str]:
    return [m for m in _MODELS if measure[m].value is not None]


def _state(harm: Estimate) -> str:
    if harm.value is None:
        return "undefined"
    if harm.low is None or harm.high is None or harm.low <= 0 <= harm.high:
        return "unclear"
    return "worse" if harm.low > 0 else "better"


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
    places = {"x": x.at(each.depth), "y": _down(y, each.excess or 0.0)}
    return places | {end: _down(y, each[end]) for end in _ENDS if each[end] is not None}


def _down(scale: Scale, value: float) -> float:
    """A place counted from the top."""
    return round(100 - scale.at(value), 2)


def scale_of(values: Iterable[float | None], margin: float = 0.06) -> Scale:
    """The scale that holds all values, with a margin at both ends."""
    known = [value for value in values if value is not None] or [0.0]
    low, high = min(known), max(known)
    width = max(high - low, 1e-9 * max(abs(low), abs(high))) or 1.0
    return Scale(low - margin * width, high + margin * width)


def ratio_ticks(scale: Scale, label: Callable[[float], str], most: int = 6) -> list[Tick]:
    """Ticks of a scale of logarithms, at round ratios."""
    low, high = (math.exp(min(700.0, max(-700.0, end))) for end in (scale.low, scale.high))
    if high < 3 * low:
        ratios = _round_numbers(Scale(low, high), most)
    else:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        step = max(1, math.ceil((last - first) / most))
        steps = (1, 2, 5) if last - first <= 2 else (1,)
        exponents = (e for e in range(first, last + 1) if e % step == 0)
        ratios = [k * 10.0**e for e in exponents for k in steps if low <= k * 10.0**e <= high]
    return [Tick(scale.at(math.log(ratio)), label(ratio)) for ratio in ratios if ratio > 0]


def _round_numbers(scale: Scale, most: int) -> list[float]:
    rough = (scale.high - scale.low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough * (1 - 1e-9))
    first = math.ceil(scale.low / step)
    last = math.floor(scale.high / step)
    # No negative zero, and none of the dust of binary fractions.
    return [float(f"{k * step:.12g}") + 0.0 for k in range(first, last + 1)]
