"""Pairs of prompts and their neutral controls, captured together and compared.

Axes: `K` keys (a component of a layer), `P` pairs.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from ..arch.view import ModelView
from ..uncertainty import bootstrap_bounds, holm, permutation_p_values
from .activations.capture import Captured, Comparison, Kept, Reducer, capture
from .activations.layer_keys import LayerKey
from .activations.metrics import Differences, Measured
from .prompts.controls import Controls, Words, control_pairs
from .prompts.edits import NoNeutralWordError, find_edits
from .prompts.pairs import PromptPair
from .prompts.tokens import Encoded, encode
from .prompts.words import split_words

EXCESS = "relative_difference"  # the metric that pairs and controls are compared by
LEVEL = 0.95
NO_CONTROLS = "there are no controls"
NOT_DEFINED = "the metric is not defined for some of the prompts"
ONE_PAIR = "fewer than two pairs differ in words of their own"
_FIGURES = ("control", "excess", "interval", "p_value")

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Plan:
    """What to run for some pairs: their comparisons, and after them those of their controls.

    Attributes:
        pairs: what the user asked for.
        controls: of each pair.
        comparisons: pairs first.
        owned: for each pair, the places of its controls among the comparisons.
    """

    pairs: tuple[PromptPair, ...]
    controls: tuple[Controls, ...]
    comparisons: tuple[Comparison, ...]
    owned: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Study:
    """What was found.

    Attributes:
        plan: what ran.
        measured: sums of all keys and comparisons.
        captured: what ran, and what the model does not have.
        kept: (comparison, key) → aligned activations of both prompts, where they were asked for.
    """

    plan: Plan
    measured: Measured
    captured: Captured
    kept: Mapping[tuple[int, LayerKey], tuple[Tensor, Tensor]]

    @property
    def values(self) -> Floats:
        """The compared metric, (comparisons, K); NaN where it is not defined."""
        return self.measured.values(EXCESS).T.numpy()

    def band(self, pair: int) -> tuple[Any, Any] | None:
        """The lowest and highest of a pair's controls for each key; None without controls."""
        owned = list(self.plan.owned[pair])
        if not owned:
            return None
        return self.values[owned].min(axis=0), self.values[owned].max(axis=0)


def plan_study(
    tokenizer: Any,
    vocabulary: int,
    pairs: Sequence[PromptPair],
    controls: int = 8,
    *,
    words: Words | None = None,
    seed: int = 0,
) -> Plan:
    """Tokenize and align all pairs and build their controls; no model runs.

    Raises:
        DataError: a prompt is no text for this model.
    """
    known: dict[str, Encoded] = {}

    def encoded(text: str) -> Encoded:
        if text not in known:
            known[text] = encode(tokenizer, text, vocabulary)
        return known[text]

    @cache
    def length(words: str) -> int:
        return len(tokenizer(words, add_special_tokens=False)["input_ids"])

    comparisons = [Comparison.of(encoded(p.prompt1), encoded(p.prompt2)) for p in pairs]
    found = tuple(
        control_pairs(pair, controls, seed=seed, length=length, words=words)
        if controls
        else Controls(())
        for pair in pairs
    )
    owned: list[tuple[int, ...]] = []
    for each in found:
        start = len(comparisons)
        comparisons += [Comparison.of(encoded(a), encoded(b)) for a, b in each.pairs]
        owned.append(tuple(range(start, len(comparisons))))
    return Plan(tuple(pairs), found, tuple(comparisons), tuple(owned))


def carry_out(
    view: ModelView,
    plan: Plan,
    components: Sequence[str],
    layers: Sequence[int],
    *,
    keep: Sequence[LayerKey] = (),
    reducers: Sequence[Reducer] = (),
    show_progress: bool = False,
) -> Study:
    """Run every prompt of a plan once.

    Args:
        view: the model.
        plan: what to run.
        components: which to compare.
        layers: of which layers.
        keep: keys whose aligned activations are kept, of the pairs, not of their controls.
        reducers: what else is to see the activations.
        show_progress: whether to show a bar.
    """
    differences, kept = Differences(), Kept(keep, range(len(plan.pairs)))
    captured = capture(
        view,
        plan.comparisons,
        components,
        layers,
        [differences, kept, *reducers],
        show_progress=show_progress,
    )
    return Study(plan, differences.measured(len(plan.comparisons)), captured, kept.found)


def summarize_study(study: Study) -> dict[str, Any]:
    """How far the pairs exceed their neutral controls: overall, by category, and by key."""
    plan = study.plan
    categories = dict.fromkeys(pair.category for pair in plan.pairs if pair.category)
    every = range(len(plan.pairs))
    return {
        "metric": EXCESS,
        "level": LEVEL,
        "pairs": len(plan.pairs),
        "controls": sum(map(len, plan.owned)),
        "prompts": study.captured.prompts,
        "forward_passes": study.captured.passes,
        "overall": _over_keys(study, every),
        "categories": {
            name: _over_keys(study, [i for i in every if plan.pairs[i].category == name])
            for name in categories
        },
        "keys": _by_key(study),
        "missing": {
            component: {str(layer): reason for layer, reason in layers.items()}
            for component, layers in study.captured.missing.items()
        },
        "notes": _notes(plan),
    }


def _over_keys(study: Study, pairs: Sequence[int]) -> dict[str, Any]:
    """The mean over all keys, of some pairs and their controls."""
    defined = study.values[:, ~np.isnan(study.values).any(axis=0)]
    if not defined.shape[1]:
        names = ("difference", *_FIGURES)
        return {"pairs": len(pairs), **_undefined(dict.fromkeys(names, NOT_DEFINED))}
    values = defined.mean(axis=1, keepdims=True)
    found = {"pairs": len(pairs), "difference": float(values[list(pairs)].mean())}
    return found | _excess(study.plan, values, pairs)[0]


def _by_key(study: Study) -> dict[str, Any]:
    """Every key over all pairs, corrected for their number."""
    values = study.values
    defined = np.flatnonzero(~np.isnan(values).any(axis=0))
    nothing = _undefined(dict.fromkeys(_FIGURES, NOT_DEFINED))
    found: list[dict[str, Any]] = [nothing for _ in study.measured.keys]
    rows = _excess(study.plan, values[:, defined], range(len(study.plan.pairs)))
    for place, figures in zip(defined, rows, strict=True):
        found[place] = figures
    corrected = holm([figures["p_value"] for figures in found])
    return {
        str(key): {**figures, "p_holm": p}
        for key, figures, p in zip(study.measured.keys, found, corrected, strict=True)
    }


def _undefined(reasons: Mapping[str, str]) -> dict[str, Any]:
    """Figures without a value, and why they have none."""
    return {**dict.fromkeys(reasons), "undefined": dict(reasons)}


def _excess(plan: Plan, values: Floats, pairs: Sequence[int]) -> list[dict[str, Any]]:
    """For each column, the mean of pairs minus the mean of their controls.

    Pairs that differ in the same words in other sentences are no independent witnesses: they are
    resampled together, each with as many controls as the one of them that has the fewest.

    Args:
        plan: what ran.
        values: (comparisons, K), all defined.
        pairs: rows of the pairs; those without controls are left out.
    """
    compared = [i for i in pairs if plan.owned[i]]
    columns = range(values.shape[1])
    if not compared or not columns:
        return [_undefined(dict.fromkeys(_FIGURES, NO_CONTROLS)) for _ in columns]
    own = values[compared]  # (P, K)
    clusters = [swapped_words(plan.pairs[i], i) for i in compared]
    controls = [
        values[list(rows)] for rows in _together([plan.owned[i] for i in compared], clusters)
    ]
    centre = np.stack([each.mean(axis=0) for each in controls])
    excess = own - centre
    alone = len(set(clusters)) == len(clusters)  # each by itself: many times as fast
    bounds = bootstrap_bounds(excess, level=LEVEL, clusters=None if alone else clusters)
    p_values = permutation_p_values(own, controls, alternative="greater", clusters=clusters)
    return [
        {
            "control": float(centre[:, k].mean()),
            "excess": float(excess[:, k].mean()),
            "p_value": float(p_values[k]),
            **(
                _undefined({"interval": ONE_PAIR})
                if bounds is None
                else {"interval": [float(bounds[0][k]), float(bounds[1][k])]}
            ),
        }
        for k in columns
    ]


def _together(
    owned: Sequence[tuple[int, ...]], clusters: Sequence[Hashable]
) -> list[tuple[int, ...]]:
    """As many controls for each pair of a cluster, since they change places together."""
    fewest: dict[Hashable, int] = {}
    for rows, cluster in zip(owned, clusters, strict=True):
        fewest[cluster] = min(len(rows), fewest.get(cluster, len(rows)))
    return [rows[: fewest[cluster]] for rows, cluster in zip(owned, clusters, strict=True)]


def swapped_words(pair: PromptPair, number: int) -> Hashable:
    """The words that differ; the pair's own number where nothing is found."""
    try:
        edits = find_edits(split_words(pair.prompt1), split_words(pair.prompt2))
        return tuple(sorted({(edit.first, edit.second) for edit in edits})) or number
    except NoNeutralWordError:
        return number


def _notes(plan: Plan) -> list[str]:
    """What a reader must know of single pairs."""
    found = []
    for number, (pair, controls) in enumerate(zip(plan.pairs, plan.controls, strict=True), start=1):
        if pair.prompt1 == pair.prompt2:
            found.append(f"pair_{number}: both prompts are the same, so nothing can differ")
        elif controls.reason:
            found.append(f"pair_{number}: {controls.reason}")
    return found
