"""The numbers of a study: its pairs, and how far they exceed their neutral controls.

Axes: `K` keys (a component of a layer), `C` comparisons: the pairs, then their controls.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, get_args

import numpy as np

from .._version import __version__
from ..uncertainty import LEVEL, Floats, holm
from .prompts.controls import Controls
from .study import Plan, Study
from .study_results import (
    BiasMetrics,
    Excess,
    Measures,
    OfKey,
    OverKeys,
    PairResult,
    StudiedModel,
    Summary,
    WordsApart,
)
from .swap_means import mean_of_swaps

NO_CONTROLS = "there are no controls"
NOT_DEFINED = "the metric is not defined for some of the prompts"


def bias_metrics(study: Study) -> BiasMetrics:
    """All numbers of a study."""
    pairs = {
        f"pair_{number + 1}": PairResult(
            pair.prompt1,
            pair.prompt2,
            pair.category,
            study.plan.comparisons[number].alignment.coverage(),
            list(study.plan.controls[number].pairs),
            _words_apart([study.plan.controls[number]]),
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
        measures=get_args(Measures)[0],
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
    """The mean over all keys, of those of some pairs that have controls, and of their controls."""
    plan = study.plan
    compared = plan.with_controls(pairs) or pairs
    counts: dict[str, Any] = {
        "pairs": len(compared),
        "swaps": len({plan.swaps[pair].label for pair in compared}),
        "left_out": len(pairs) - len(compared),
        "words_apart": _words_apart([plan.controls[pair] for pair in compared]),
    }
    defined = study.values[:, study.defined()]
    if not defined.shape[1]:
        nothing = Excess.without(NOT_DEFINED, "difference")
        return OverKeys(**nothing, **counts, difference=None)
    values = defined.mean(axis=1, keepdims=True)
    difference = float(values[list(compared)].mean())
    (excess,) = _excess(plan, values, compared)
    return OverKeys(**excess, **counts, difference=difference)


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

    Pairs without controls are left out.
    """
    compared = plan.with_controls(pairs)
    columns = range(values.shape[1])
    if not compared or not columns:
        return [Excess.without(NO_CONTROLS) for _ in columns]
    own = values[compared]  # (P, K)
    control = np.stack([values[plan.owned[pair]].mean(axis=0) for pair in compared])
    found = mean_of_swaps(own - control, [plan.swaps[pair] for pair in compared])
    return [
        Excess(
            control=float(control[:, k].mean()),
            excess=float(found.mean[k]),
            interval=found.interval(k),
            p_value=found.p_value(k),
            undefined=found.undefined,
        )
        for k in columns
    ]


def _words_apart(controls: Sequence[Controls]) -> WordsApart | None:
    """How far pairs' own words are from each other, and neutral ones, on average."""
    measured = [each.apart for each in controls if each.apart is not None]
    return WordsApart(*map(fmean, zip(*measured, strict=True))) if measured else None


def _notes(plan: Plan) -> list[str]:
    """What a reader must know of single pairs."""
    notes = []
    for number, (pair, controls) in enumerate(zip(plan.pairs, plan.controls, strict=True), start=1):
        if pair.prompt1 == pair.prompt2:
            notes.append(f"pair_{number}: both prompts are the same, so nothing can differ")
        elif controls.reason:
            notes.append(f"pair_{number}: {controls.reason}")
    return notes
