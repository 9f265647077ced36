"""Pairs of prompts and their neutral controls, captured together and compared.

Axes: `K` keys (a component of a layer), `C` comparisons: the pairs, then their controls.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from torch import Tensor

from ..arch.view import ModelView
from ..uncertainty import Floats
from .activations.capture import Captured, Comparison, Kept, capture
from .activations.differences import Differences, Measured
from .activations.layer_keys import LayerKey
from .prompts.controls import Controls, control_pairs
from .prompts.edits import NoNeutralWordError, find_edits
from .prompts.pairs import PromptPair
from .prompts.tokens import Encoded, encode_for
from .prompts.word_vectors import word_measures
from .prompts.words import split_words
from .settings import Settings
from .swap_means import Swap

EXCESS = "relative_difference"  # the metric that pairs and controls are compared by


@dataclass(frozen=True)
class Plan:
    """What to run: pairs, the controls of each, and the comparisons of both, pairs first."""

    pairs: tuple[PromptPair, ...]
    controls: tuple[Controls, ...]
    comparisons: tuple[Comparison, ...]

    @cached_property
    def owned(self) -> list[range]:
        """For each pair, the places of its controls among the comparisons."""
        sizes = (len(each.pairs) for each in self.controls)
        return [range(*ends) for ends in pairwise(accumulate(sizes, initial=len(self.pairs)))]

    @cached_property
    def swaps(self) -> list[Swap]:
        """For each pair, the words that it exchanges, less those of its controls."""
        places = enumerate(zip(self.pairs, self.controls, strict=True))
        return [swap_of(pair, controls, number) for number, (pair, controls) in places]

    def with_controls(self, pairs: Sequence[int]) -> list[int]:
        return [pair for pair in pairs if self.owned[pair]]


@dataclass(frozen=True)
class Study:
    """A plan that was carried out in a model."""

    plan: Plan
    measured: Measured
    captured: Captured
    kept: Mapping[tuple[int, LayerKey], tuple[Tensor, Tensor]]  # as asked: aligned, both prompts
    name: str  # of the model
    model_type: str
    depth: int  # how many layers it has

    @cached_property
    def values(self) -> Floats:
        """The compared metric, (C, K); NaN where it is not defined."""
        return self.measured.values(EXCESS).T.numpy()

    @cached_property
    def components(self) -> list[str]:
        return list(dict.fromkeys(key.component for key in self.measured.keys))

    def defined(self, components: Sequence[str] | None = None) -> list[int]:
        """The places of the keys (of some components) whose metric all comparisons have."""
        return [
            int(place)
            for place in np.flatnonzero(~np.isnan(self.values).any(axis=0))
            if components is None or self.measured.keys[place].component in components
        ]

    def defined_components(self) -> list[str]:
        return list(dict.fromkeys(self.measured.keys[i].component for i in self.defined()))

    def own_and_control(self, pairs: Sequence[int]) -> tuple[Floats, Floats]:
        """The values of pairs, and the means of those of their controls, each (pairs, K)."""
        control = [self.values[self.plan.owned[pair]].mean(axis=0) for pair in pairs]
        return self.values[list(pairs)], np.stack(control)


def plan_study(
    view: ModelView,
    tokenizer: Any,
    pairs: Sequence[PromptPair],
    settings: Settings = Settings(),  # noqa: B008
) -> Plan:
    """Tokenize and align all pairs and build their controls; no model runs."""

    @cache
    def encoded(text: str) -> Encoded:
        return encode_for(view.model, tokenizer, text)

    length, distance = word_measures(view.model, tokenizer)

    def controls_of(pair: PromptPair) -> Controls:
        if not settings.controls:
            return Controls(())
        return control_pairs(
            pair,
            settings.controls,
            seed=settings.seed,
            length=length,
            distance=distance,
            words=settings.control_words,
        )

    own = [Comparison(encoded(pair.prompt1), encoded(pair.prompt2)) for pair in pairs]
    made = tuple(map(controls_of, pairs))
    others = [Comparison(encoded(a), encoded(b)) for each in made for a, b in each.pairs]
    return Plan(tuple(pairs), made, (*own, *others))


def carry_out(
    view: ModelView,
    plan: Plan,
    components: Sequence[str],
    layers: Sequence[int],
    *,
    keep: Sequence[int] = (),
    name: str | None = None,
    show_progress: bool = False,
) -> Study:
    """Run every prompt of a plan once.

    The aligned activations of the layers in `keep` are kept, of the pairs, not of their controls.
    """
    keys = [LayerKey(component, layer) for component in components for layer in layers]
    differences = Differences(keys, len(plan.comparisons))
    kept = Kept([key for key in keys if key.layer in keep], range(len(plan.pairs)))
    reducers = [differences.add, kept.add]
    captured = capture(
        view, plan.comparisons, components, layers, reducers, show_progress=show_progress
    )
    config: Any = view.model.config
    said = str(getattr(config, "_name_or_path", "") or type(view.model).__name__)
    return Study(
        plan,
        differences.measured(),
        captured,
        kept.found,
        said if name is None else name,
        str(getattr(config, "model_type", "")),
        len(view.layers),
    )


def swap_of(pair: PromptPair, controls: Controls, number: int) -> Swap:
    """The words that a pair exchanges, in whatever order, and the neutral ones that are taken off.

    A pair without words to name is a swap of its own, by its number.
    """
    try:
        found = find_edits(split_words(pair.prompt1), split_words(pair.prompt2))
        keys = sorted({tuple(sorted(edit.key)) for edit in found})
    except NoNeutralWordError:
        keys = []
    loads: dict[Hashable, float] = {word: 1.0 for key in keys for word in key if word}
    for word in (word.lower() for neutral in controls.words for word in neutral):
        loads[word] = loads.get(word, 0.0) - 1 / len(controls.words)
    return Swap(tuple(keys) or number, loads or {number: 1.0})
