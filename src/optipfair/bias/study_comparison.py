"""Two models on the same pairs of prompts: how much more one exceeds its controls than the other.

A pair's excess is its difference minus the mean difference of its own controls in the same model,
so that what the models do to any words cancels. The JSON Schema in `bias_comparison.schema.json` is
made from these classes.

Axes: `P` pairs that both models saw, `L` layers of a component, `M` components and their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import numpy as np

from .._version import __version__
from ..results import ABSENT, Count, Result
from ..uncertainty import LEVEL, Floats, holm
from .activations.metrics import Component, Reasons
from .prompts.tokens import Positive
from .study import Study
from .study_results import Interval, Measures, PValue
from .swap_means import Swap, mean_of_swaps

Distance = Annotated[float, {"minimum": 0, "maximum": 2.000001}]


class ComparedModel(Result):
    """One of the models."""

    name: str
    model_type: str
    layers: Positive


class Models(Result):
    """Both models; differences are b minus a."""

    a: ComparedModel
    b: ComparedModel


class PairCounts(Result):
    """How many pairs are compared."""

    compared: Annotated[Count, "that both models saw and have controls for."]
    swaps: Annotated[Count, "distinct ones among those compared, whatever the sentence."]
    without_controls: Annotated[Count, "that both saw without controls in one of them."]
    in_one_only: Annotated[Count, "that only one of them saw."]


class Means(Result):
    """One model's means over the pairs and layers."""

    difference: Distance
    control: Annotated[Distance, "mean over the pairs of the mean of their controls."]
    excess: Annotated[
        float,
        {"minimum": -2.000001, "maximum": 2.000001},
        "the difference minus that of the controls.",
    ]


class Paired(Result):
    """One model's excess beside the other's, pair by pair.

    Attributes:
        difference: mean over the pairs of model b's excess minus model a's.
        interval: of the difference; null for fewer than five independent swaps, with the reason in
            `undefined`.
        p_value: as `test` says; null with the interval.
    """

    difference: float
    interval: Interval
    p_value: PValue
    undefined: Reasons = field(default=None, metadata=ABSENT)


class PairedOfComponent(Paired):
    """One model's excess beside the other's in one component."""

    p_holm: Annotated[PValue, "the p-value, corrected for the number of components."] = field(
        kw_only=True
    )


class Overall(Result):
    """Over all components that both models have: the mean over their layers."""

    a: Means
    b: Means
    paired: Paired


class OfComponent(Overall):
    """Of one component that both models have: the mean over its layers."""

    paired: PairedOfComponent


class NothingShared(Result):
    """No pair has controls in both models."""

    a: None = None
    b: None = None
    paired: None = None


class StudyComparison(Result):
    """How two models differ on the same pairs of prompts."""

    version: Literal[1]
    optipfair: Annotated[str, "version of the library."]
    metric: Literal["relative_difference"]
    measures: Annotated[Measures, "what the figures say, and what they do not."]
    level: Annotated[float, {"const": LEVEL}, "of the intervals."]
    test: Annotated[
        Literal["two-sided, Student's t over distinct swaps, the words that they share counted"],
        "what the p-values are of.",
    ]
    models: Models
    pairs: PairCounts
    overall: Overall | NothingShared
    components: dict[Component, OfComponent | NothingShared]
    in_one_only: Annotated[
        list[Component], {"uniqueItems": True}, "components that only one model has."
    ]


@dataclass(frozen=True)
class Shared:
    """What two studies share: the components of both, and the pairs that have controls in both."""

    components: list[str]
    first: list[int]  # the numbers of the pairs in each study, (P,)
    second: list[int]
    swaps: list[Swap]  # of each pair: what its words add in both models
    counts: PairCounts


def find_shared(first: Study, second: Study) -> Shared:
    """Match the pairs of two studies by their prompts."""
    one, two = (
        {(pair.prompt1, pair.prompt2): i for i, pair in reversed([*enumerate(study.plan.pairs)])}
        for study in (first, second)
    )
    both = sorted((one[texts], two[texts]) for texts in one if texts in two)
    kept = [(i, j) for i, j in both if first.plan.owned[i] and second.plan.owned[j]]
    theirs = second.defined_components()
    swaps = [_in_both(first.plan.swaps[i], second.plan.swaps[j]) for i, j in kept]
    distinct = len({swap.label for swap in swaps})
    return Shared(
        [name for name in first.defined_components() if name in theirs],
        [i for i, _ in kept],
        [j for _, j in kept],
        swaps,
        PairCounts(len(kept), distinct, len(both) - len(kept), len(set(one) ^ set(two))),
    )


def compare_studies(first: Study, second: Study) -> StudyComparison:
    """Compare model `b`, the second, with model `a`, component by component and over all of them.

    Figures are means over layers, so that models of unequal depth can be compared.
    """
    shared = find_shared(first, second)
    names = shared.components
    overall: Overall | NothingShared = NothingShared()
    components: dict[str, OfComponent | NothingShared] = dict.fromkeys(names, NothingShared())
    if shared.first and names:
        overall, *rows = _rows(first, second, shared, [names, *([name] for name in names)])
        corrected = holm([row.paired.p_value for row in rows])
        for name, row, p in zip(names, rows, corrected, strict=True):
            paired = PairedOfComponent(**row.paired, p_holm=p)
            components[name] = OfComponent(row.a, row.b, paired)
    return StudyComparison(
        version=1,
        optipfair=__version__,
        metric="relative_difference",
        level=LEVEL,
        measures=get_args(Measures)[0],
        test="two-sided, Student's t over distinct swaps, the words that they share counted",
        models=Models(*(ComparedModel(s.name, s.model_type, s.depth) for s in (first, second))),
        pairs=shared.counts,
        overall=overall,
        components=components,
        in_one_only=sorted({*first.defined_components()} ^ {*second.defined_components()}),
    )


def excess_by_layer(study: Study, pairs: Sequence[int], component: str) -> tuple[list[int], Floats]:
    """Layers where a component is defined for all comparisons, and each pair's excess (P, L)."""
    places = study.defined([component])
    own, control = study.own_and_control(pairs)
    return [study.measured.keys[i].layer for i in places], (own - control)[:, places]


def _rows(
    first: Study, second: Study, shared: Shared, groups: Sequence[Sequence[str]]
) -> list[Overall]:
    """The figures of each group of components."""
    own_a, control_a = _over_layers(first, shared.first, groups)  # (P, M) each
    own_b, control_b = _over_layers(second, shared.second, groups)
    excess_a, excess_b = own_a - control_a, own_b - control_b
    paired = excess_b - excess_a
    found = mean_of_swaps(paired, shared.swaps)
    return [
        Overall(
            a=_means(own_a[:, k], control_a[:, k]),
            b=_means(own_b[:, k], control_b[:, k]),
            paired=Paired(
                difference=float(found.mean[k]),
                interval=found.interval(k),
                p_value=found.p_value(k),
                undefined=found.undefined,
            ),
        )
        for k in range(len(groups))
    ]


def _in_both(one: Swap, other: Swap) -> Swap:
    """What a pair's words add to the difference of two models, in each of which they act anew."""
    sides = (("a", one), ("b", other))
    return Swap(one.label, {(n, word): x for n, each in sides for word, x in each.loads.items()})


def _over_layers(
    study: Study, pairs: Sequence[int], groups: Sequence[Sequence[str]]
) -> tuple[Floats, Floats]:
    """The pairs' own values and their controls', each over the layers of a group: (P, M)."""
    places = [study.defined(group) for group in groups]
    own, control = (
        np.stack([values[:, each].mean(axis=1) for each in places], axis=1)
        for values in study.own_and_control(pairs)
    )
    return own, control


def _means(own: Floats, control: Floats) -> Means:
    difference, neutral = float(own.mean()), float(control.mean())
    return Means(difference, neutral, difference - neutral)
