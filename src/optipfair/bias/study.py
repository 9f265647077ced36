"""Pairs of prompts and their neutral controls, captured together and compared.

Axes: `K` keys (a component of a layer), `C` comparisons: the pairs, then their controls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from torch import Tensor

from ..arch.view import ModelView
from .activations.capture import Captured, Comparison, Kept, capture
from .activations.differences import Differences, Measured
from .activations.layer_keys import LayerKey
from .prompts.controls import Controls, Words, control_pairs
from .prompts.pairs import PromptPair
from .prompts.tokens import Encoded, encode

EXCESS = "relative_difference"  # the metric that pairs and controls are compared by
LEVEL = 0.95

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
    """A plan that was carried out in a model.

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

    def own_and_control(self, pairs: Sequence[int]) -> tuple[Floats, Floats]:
        """The values of pairs, and the means of those of their controls, each (pairs, K)."""
        control = [self.values[list(self.plan.owned[pair])].mean(axis=0) for pair in pairs]
        return self.values[list(pairs)], np.stack(control)


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

    @cache
    def encoded(text: str) -> Encoded:
        return encode(tokenizer, text, vocabulary)

    @cache
    def length(words: str) -> int:
        return len(tokenizer(words, add_special_tokens=False)["input_ids"])

    comparisons = [Comparison.of(encoded(p.prompt1), encoded(p.prompt2)) for p in pairs]
    made: list[Controls] = []
    owned: list[tuple[int, ...]] = []
    for pair in pairs:
        own = (
            control_pairs(pair, controls, seed=seed, length=length, words=words)
            if controls
            else Controls(())
        )
        start = len(comparisons)
        comparisons += [Comparison.of(encoded(a), encoded(b)) for a, b in own.pairs]
        owned.append(tuple(range(start, len(comparisons))))
        made.append(own)
    return Plan(tuple(pairs), tuple(made), tuple(comparisons), tuple(owned))


def carry_out(
    view: ModelView,
    plan: Plan,
    components: Sequence[str],
    layers: Sequence[int],
    *,
    keep: Sequence[LayerKey] = (),
    show_progress: bool = False,
) -> Study:
    """Run every prompt of a plan once.

    The aligned activations of the keys in `keep` are kept, of the pairs, not of their controls.
    """
    differences, kept = Differences(), Kept(keep, range(len(plan.pairs)))
    captured = capture(
        view,
        plan.comparisons,
        components,
        layers,
        [differences, kept],
        show_progress=show_progress,
    )
    return Study(plan, differences.measured(len(plan.comparisons)), captured, kept.found)
