"""Do the effects that attribution predicts agree with what patching finds?

Each part, and each of the largest neurons, is patched alone: what it makes different between the
words of a template is really taken away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from optipfair.arch.view import MLPView, ModelView, describe
from optipfair.bias.attribution import Parts, effects_of_prompts, effects_of_units, parts_of
from optipfair.bias.contrasts.aligned import Aligned, aligned, removal, without
from optipfair.bias.contrasts.contrast import Contrast
from optipfair.bias.contrasts.contrast_prompts import interaction, prompts_of
from optipfair.bias.contrasts.tracing import projection

NEURONS = 50
TEMPLATES, WORDS = 2, 6  # of a contrast: as many prompts as are patched in minutes


def agreement(model: Any, tokenizer: Any, contrast: Contrast) -> Iterator[str]:
    """Predicted and patched effects of all parts, and of the largest neurons."""
    view = describe(model)
    prompts = prompts_of([contrast], model, tokenizer)
    parts = parts_of(view)
    seen = aligned(view, [part for _, part in parts.all], prompts)
    both = [(_predicted(seen, part), _patched(view, seen, part)) for _, part in parts.all]
    yield f"    {len(both)} MLPs and attentions: {_agree(both)}"
    yield f"    the {NEURONS} largest neurons: {_agree(_of_neurons(view, parts, seen))}"


def _predicted(seen: Aligned, part: MLPView) -> float:
    return interaction(effects_of_prompts(seen, part.key), seen.prompts)


def _patched(view: ModelView, seen: Aligned, part: MLPView, unit: slice | None = None) -> float:
    taken: Any = {projection(part): removal(part, seen.groups[part.key], unit)}
    left = interaction(without(view, seen.prompts, taken), seen.prompts)
    return interaction(seen.values, seen.prompts) - left


def _of_neurons(view: ModelView, parts: Parts, seen: Aligned) -> list[tuple[float, float]]:
    effects = torch.stack([effects_of_units(seen, mlp.key) for mlp in parts.mlps])  # (L, I)
    largest = effects.abs().flatten().topk(NEURONS).indices.tolist()
    places = [divmod(each, effects.shape[1]) for each in largest]
    return [
        (
            float(effects[layer, unit]),
            _patched(view, seen, parts.mlps[layer], slice(unit, unit + 1)),
        )
        for layer, unit in places
    ]


def _agree(both: Sequence[tuple[float, float]]) -> str:
    predicted, patched = np.array(both).T
    same = (np.sign(predicted) == np.sign(patched)).mean()
    return (
        f"Spearman {spearman(predicted, patched):+.3f}, of absolute values "
        f"{spearman(abs(predicted), abs(patched)):+.3f}, one sign {same:.0%}, "
        f"sum predicted {predicted.sum():+.3f}, patched {patched.sum():+.3f}"
    )


def spearman(first: Any, second: Any) -> float:
    ranks = [np.argsort(np.argsort(each)) for each in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def few(contrast: Contrast) -> Contrast:
    """Its first templates and words."""
    kinds = (contrast.words[0][:WORDS], contrast.words[1][:WORDS])
    return replace(contrast, templates=contrast.templates[:TEMPLATES], words=kinds)
