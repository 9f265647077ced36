"""Two models on the same pairs of prompts: how much more one exceeds its controls than the other.

Numbers in, plain data out; no model runs here. A pair's excess is its difference minus the mean
difference of its own controls in the same model, so that what the models do to any words cancels.

Axes: `P` pairs that both models saw, `L` layers of a component, `M` components and their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._version import __version__
from ..uncertainty import bootstrap_bounds, holm, permutation_p_values
from .study import EXCESS, LEVEL, Floats, Study, swapped_words

VERSION = 1  # of the JSON
TEST = "two-sided sign flips: in each pair the two models change places, or do not"
_NOTHING = {"a": None, "b": None, "paired": None}


@dataclass(frozen=True)
class Subject:
    """A model, by what a study found of it.

    Attributes:
        name: as it is shown.
        model_type: of its config.
        layers: how many it has.
        study: what was found.
    """

    name: str
    model_type: str
    layers: int
    study: Study

    def components(self) -> list[str]:
        """Those with a layer where the metric is defined for all pairs and controls."""
        keys = self.study.measured.keys
        return list(dict.fromkeys(keys[i].component for i in _defined(self.study)))


@dataclass(frozen=True)
class Shared:
    """The pairs that both models saw and have controls for.

    Attributes:
        first, second: their numbers in each study, (P,).
        clusters: labels; pairs that differ in the same words in other sentences have the same.
        without_controls: how many pairs both saw without controls in one of them.
        in_one_only: how many pairs only one of them saw.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    clusters: tuple[Any, ...]
    without_controls: int
    in_one_only: int


def shared_pairs(first: Study, second: Study) -> Shared:
    """Match the pairs of two studies by their prompts."""
    places = [
        {(pair.prompt1, pair.prompt2): i for i, pair in reversed(list(enumerate(s.plan.pairs)))}
        for s in (first, second)
    ]
    both = [(places[0][texts], places[1][texts]) for texts in places[0] if texts in places[1]]
    both.sort()
    kept = [(i, j) for i, j in both if first.plan.owned[i] and second.plan.owned[j]]
    return Shared(
        tuple(i for i, _ in kept),
        tuple(j for _, j in kept),
        tuple(swapped_words(first.plan.pairs[i], i) for i, _ in kept),
        len(both) - len(kept),
        len(set(places[0]) ^ set(places[1])),
    )


def compare_studies(first: Subject, second: Subject) -> dict[str, Any]:
    """Compare two models, component by component and over all of them.

    Each component's figure is the mean over its layers, so that models of unequal depth can be
    compared; the overall figure is the mean over all layers of the components that both have.

    Args:
        first: model `a`.
        second: model `b`; differences are b minus a.

    Returns:
        Plain data for strict JSON, as `bias_comparison.schema.json` beside this module describes
        it: `models`, `pairs`, `overall` and `components`. Each of the last
        two has `a` and `b` (`difference`, `control`, `excess`: means over the pairs) and `paired`:
        the mean difference of the excesses, its bootstrap interval over pairs, the p-value (`test`
        says of which), and of components the p-value corrected for their number by Holm. None
        where no pair has controls in both models.
    """
    shared = shared_pairs(first.study, second.study)
    names = [name for name in first.components() if name in second.components()]
    rows = _rows(first, second, shared, names)
    components = dict(zip(names, rows[1:], strict=True))
    corrected = holm([row["paired"] and row["paired"]["p_value"] for row in rows[1:]])
    for row, p in zip(rows[1:], corrected, strict=True):
        if row["paired"]:
            row["paired"]["p_holm"] = p
    return {
        "version": VERSION,
        "optipfair": __version__,
        "metric": EXCESS,
        "level": LEVEL,
        "test": TEST,
        "models": {
            label: {"name": each.name, "model_type": each.model_type, "layers": each.layers}
            for label, each in (("a", first), ("b", second))
        },
        "pairs": {
            "compared": len(shared.first),
            "without_controls": shared.without_controls,
            "in_one_only": shared.in_one_only,
        },
        "overall": rows[0],
        "components": components,
        "in_one_only": sorted({*first.components(), *second.components()} - set(names)),
    }


def excess_by_layer(study: Study, pairs: Sequence[int], component: str) -> tuple[list[int], Floats]:
    """Layers where a component is defined for all comparisons, and each pair's excess (P, L)."""
    places = _places(study, [component])
    own, control = _own_and_control(study, pairs)
    return [study.measured.keys[i].layer for i in places], (own - control)[:, places]


def _rows(
    first: Subject, second: Subject, shared: Shared, names: Sequence[str]
) -> list[dict[str, Any]]:
    """The figures of all components together, then of each."""
    groups = [list(names), *([name] for name in names)]
    if not shared.first or not names:
        return [dict(_NOTHING) for _ in groups]
    sides = [
        _means(each.study, pairs, groups)
        for each, pairs in ((first, shared.first), (second, shared.second))
    ]
    excesses = [own - control for own, control in sides]  # (P, M) each
    paired = excesses[1] - excesses[0]
    bounds = bootstrap_bounds(paired, level=LEVEL, clusters=shared.clusters)
    # With one control, each choice of who plays the pair is a choice of signs.
    p_values = permutation_p_values(
        excesses[1], [row[None] for row in excesses[0]], clusters=shared.clusters
    )
    return [
        {
            "a": _means_of_pairs(*sides[0], column),
            "b": _means_of_pairs(*sides[1], column),
            "paired": {
                "difference": float(paired[:, column].mean()),
                "interval": None if bounds is None else [float(end[column]) for end in bounds],
                "p_value": float(p_values[column]),
            },
        }
        for column in range(len(groups))
    ]


def _means(
    study: Study, pairs: Sequence[int], groups: Sequence[Sequence[str]]
) -> tuple[Floats, Floats]:
    """The pairs' own values and their controls', each over the layers of a group: (P, M)."""
    places = [_places(study, group) for group in groups]
    own, control = (
        np.stack([values[:, each].mean(axis=1) for each in places], axis=1)
        for values in _own_and_control(study, pairs)
    )
    return own, control


def _own_and_control(study: Study, pairs: Sequence[int]) -> tuple[Floats, Floats]:
    """Of each pair its own values and the mean of its controls', for all keys."""
    values = study.values
    control = np.stack([values[list(study.plan.owned[i])].mean(axis=0) for i in pairs])
    return values[list(pairs)], control


def _means_of_pairs(own: Floats, control: Floats, column: int) -> dict[str, float]:
    difference, neutral = float(own[:, column].mean()), float(control[:, column].mean())
    return {"difference": difference, "control": neutral, "excess": difference - neutral}


def _places(study: Study, components: Sequence[str]) -> list[int]:
    keys = study.measured.keys
    return [i for i in _defined(study) if keys[i].component in components]


def _defined(study: Study) -> list[int]:
    """The keys whose metric is defined for all comparisons."""
    found: list[int] = np.flatnonzero(~np.isnan(study.values).any(axis=0)).tolist()
    return found
