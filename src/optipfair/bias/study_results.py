"""What `visualize_bias` returns of a study: how far pairs exceed their neutral controls.

The JSON Schema in `bias_metrics.schema.json` is made from these classes.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import field
from operator import itemgetter
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from .._version import __version__
from ..results import ABSENT, Count, Result, plain, spread
from ..uncertainty import LEVEL, Floats, bootstrap_bounds, holm, permutation_p_values
from .activations.metrics import Component, Key, PairMetrics, Reasons
from .activations.other_names import also_named
from .prompts.edits import NoNeutralWordError, find_edits
from .prompts.pairs import PromptPair
from .prompts.tokens import Coverage, Positive
from .prompts.words import split_words
from .study import Plan, Study

NO_CONTROLS = "there are no controls"
NOT_DEFINED = "the metric is not defined for some of the prompts"
ONE_PAIR = "fewer than two pairs differ in words of their own"

Interval = Annotated[list[float] | None, {"minItems": 2, "maxItems": 2}]
Text = Annotated[str, {"minLength": 1}]
Difference = Annotated[float | None, {"minimum": 0}, "mean over pairs and keys."]
PValue = Annotated[float | None, {"minimum": 0, "maximum": 1}]
Layer = Annotated[str, {"pattern": "^[0-9]+$"}]


class Excess(Result):
    """How far pairs exceed their neutral controls.

    Attributes:
        control: mean over the pairs of the mean of their controls.
        excess: mean over the pairs of their own difference minus that of their controls.
        interval: bootstrap interval of the excess.
        p_value: permutation p-value of an excess above 0.
    """

    control: float | None
    excess: float | None
    interval: Interval
    p_value: PValue
    undefined: Reasons = field(default=None, metadata=ABSENT)

    @classmethod
    def without(cls, reason: str, *more: str) -> Excess:
        names = (*more, "control", "excess", "interval", "p_value")
        return cls(None, None, None, None, dict.fromkeys(names, reason))


class OverKeys(Excess):
    """How far pairs exceed their neutral controls, over all keys."""

    pairs: Positive = field(kw_only=True)
    difference: Difference = field(kw_only=True)


class OfKey(Excess):
    """How far all pairs exceed their neutral controls in one layer's component."""

    p_holm: Annotated[PValue, "the p-value, corrected for the number of keys."] = field(
        kw_only=True
    )


class Summary(Result):
    """How far the pairs exceed their neutral controls: overall, by category and by key."""

    metric: Literal["relative_difference"]
    level: Annotated[float, {"const": LEVEL}, "of the intervals."]
    pairs: Positive
    controls: Count
    prompts: Annotated[Positive, "how many ran."]
    forward_passes: Positive
    overall: OverKeys
    categories: dict[str, OverKeys]
    keys_: Annotated[dict[Key, OfKey], {"minProperties": 1}]
    missing: Annotated[
        dict[Component, Annotated[dict[Layer, str], {"minProperties": 1}]],
        "component → layer → why it has none there.",
    ]
    notes: list[str]


class PairResult(Result):
    """One pair."""

    prompt1: Text
    prompt2: Text
    category: str | None
    coverage: Coverage
    controls: Annotated[list[tuple[str, str]], "the neutral control pairs."]
    metrics: PairMetrics


class StudiedModel(Result):
    """The model."""

    name: str
    model_type: str


class BiasMetrics(Result):
    """What optipfair.visualize_bias returns and writes.

    A figure that is not defined is null, with the reason in `undefined` beside it.
    """

    version: Literal[1]
    optipfair: Annotated[str, "version of the library."]
    model: StudiedModel
    summary: Summary
    pairs: dict[str, PairResult] = field(metadata=spread("^pair_[1-9][0-9]*$"))

    SCHEMA: ClassVar[Mapping[str, Any]] = {
        "required": ["version", "optipfair", "model", "summary", "pair_1"]
    }


class FoundBias(dict[str, Any]):
    """What `visualize_bias` returns: its items and values are the pairs, and it holds the rest too.

    `found["summary"]` and `found.summary` are there (so are `version`, `model` and `optipfair`),
    but not among `found.items()`. JSON and `to_dict()` hold all of it.
    """

    @classmethod
    def of(cls, metrics: BiasMetrics) -> FoundBias:
        found = metrics.to_dict()
        for name, pair in metrics.pairs.items():
            found[name]["metrics"] = also_named(pair.metrics)
        return cls(found)

    version = property(itemgetter("version"))
    optipfair = property(itemgetter("optipfair"))
    model = property(itemgetter("model"))
    summary = property(itemgetter("summary"))

    @property
    def pairs(self) -> dict[str, Any]:
        return {name: self[name] for name in self if name.startswith("pair_")}

    def values(self) -> Any:
        return self.pairs.values()

    def items(self) -> Any:
        # json asks a dict for its items as a loop does, and must get all of them.
        written = sys._getframe(1).f_globals.get("__name__") == "json.encoder"
        return super().items() if written else self.pairs.items()

    def to_dict(self) -> dict[str, Any]:
        """All keys as plain data, as `bias_metrics.json` holds them."""
        return {key: plain(value) for key, value in super().items()}

    def __reduce__(self) -> Any:
        return type(self), (dict(super().items()),)


def bias_metrics(study: Study) -> BiasMetrics:
    """All numbers of a study."""
    pairs = {
        f"pair_{number + 1}": PairResult(
            pair.prompt1,
            pair.prompt2,
            pair.category,
            study.plan.comparisons[number].alignment.coverage(),
            list(study.plan.controls[number].pairs),
            study.measured.groups(number),
        )
        for number, pair in enumerate(study.plan.pairs)
    }
    model = StudiedModel(study.name, study.model_type)
    return BiasMetrics(1, __version__, model, summarize_study(study), pairs)


def summarize_study(study: Study) -> Summary:
    """How far the pairs exceed their neutral controls: overall, by category, and by key."""
    plan = study.plan
    by_category: dict[str, list[int]] = {}
    for number, pair in enumerate(plan.pairs):
        if pair.category:
            by_category.setdefault(pair.category, []).append(number)
    return Summary(
        metric="relative_difference",
        level=LEVEL,
        pairs=len(plan.pairs),
        controls=sum(map(len, plan.owned)),
        prompts=study.captured.prompts,
        forward_passes=study.captured.passes,
        overall=_over_keys(study, range(len(plan.pairs))),
        categories={name: _over_keys(study, own) for name, own in by_category.items()},
        keys_=_by_key(study),
        missing={
            component: {str(layer): reason for layer, reason in layers.items()}
            for component, layers in study.captured.missing.items()
        },
        notes=_notes(plan),
    )


def _over_keys(study: Study, pairs: Sequence[int]) -> OverKeys:
    """The mean over all keys, of some pairs and their controls."""
    defined = study.values[:, study.defined()]
    if not defined.shape[1]:
        nothing = Excess.without(NOT_DEFINED, "difference")
        return OverKeys(**nothing, pairs=len(pairs), difference=None)
    values = defined.mean(axis=1, keepdims=True)
    difference = float(values[list(pairs)].mean())
    (excess,) = _excess(study.plan, values, pairs)
    return OverKeys(**excess, pairs=len(pairs), difference=difference)


def _by_key(study: Study) -> dict[str, OfKey]:
    """Every key over all pairs, corrected for their number."""
    defined = study.defined()
    rows = [Excess.without(NOT_DEFINED) for _ in study.measured.keys]
    figures = _excess(study.plan, study.values[:, defined], range(len(study.plan.pairs)))
    for place, excess in zip(defined, figures, strict=True):
        rows[place] = excess
    corrected = holm([excess.p_value for excess in rows])
    return {
        str(key): OfKey(**excess, p_holm=p)
        for key, excess, p in zip(study.measured.keys, rows, corrected, strict=True)
    }


def _excess(plan: Plan, values: Floats, pairs: Sequence[int]) -> list[Excess]:
    """For each column of `values` (C, K), the mean of pairs minus the mean of their controls.

    Pairs that differ in the same words in other sentences are no independent witnesses: they are
    resampled together, each with as many controls as the one of them that has the fewest. Pairs
    without controls are left out.
    """
    compared = [pair for pair in pairs if plan.owned[pair]]
    columns = range(values.shape[1])
    if not compared or not columns:
        return [Excess.without(NO_CONTROLS) for _ in columns]
    own = values[compared]  # (P, K)
    clusters = [swapped_words(plan.pairs[pair], pair) for pair in compared]
    owned = _together([plan.owned[pair] for pair in compared], clusters)
    controls = [values[list(rows)] for rows in owned]
    centre = np.stack([each.mean(axis=0) for each in controls])
    excess = own - centre
    alone = len(set(clusters)) == len(clusters)  # each by itself: many times as fast
    bounds = bootstrap_bounds(excess, clusters=None if alone else clusters)
    p_values = permutation_p_values(own, controls, alternative="greater", clusters=clusters)
    return [
        Excess(
            control=float(centre[:, k].mean()),
            excess=float(excess[:, k].mean()),
            interval=None if bounds is None else [float(end[k]) for end in bounds],
            p_value=float(p_values[k]),
            undefined={"interval": ONE_PAIR} if bounds is None else None,
        )
        for k in columns
    ]


def _together(owned: Sequence[range], clusters: Sequence[Hashable]) -> list[range]:
    """As many controls for each pair of a cluster, since they change places together."""
    fewest: dict[Hashable, int] = {}
    for rows, cluster in zip(owned, clusters, strict=True):
        fewest[cluster] = min(len(rows), fewest.get(cluster, len(rows)))
    return [rows[: fewest[cluster]] for rows, cluster in zip(owned, clusters, strict=True)]


def swapped_words(pair: PromptPair, number: int) -> Hashable:
    """The words that differ; the pair's own number where there are none to name."""
    try:
        edits = find_edits(split_words(pair.prompt1), split_words(pair.prompt2))
        return tuple(sorted({(edit.first, edit.second) for edit in edits})) or number
    except NoNeutralWordError:
        return number


def _notes(plan: Plan) -> list[str]:
    """What a reader must know of single pairs."""
    notes = []
    for number, (pair, controls) in enumerate(zip(plan.pairs, plan.controls, strict=True), start=1):
        if pair.prompt1 == pair.prompt2:
            notes.append(f"pair_{number}: both prompts are the same, so nothing can differ")
        elif controls.reason:
            notes.append(f"pair_{number}: {controls.reason}")
    return notes
