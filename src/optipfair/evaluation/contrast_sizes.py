"""Contrasts in two models: how large each is, and which parts of the layers make it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..bias.attribution import attribute_bias
from ..bias.attribution_result import Attribution
from ..bias.contrasts.contrast import Contrast
from ..bias.contrasts.contrast_files import find_contrasts
from ..report.comparison import ContrastOfOne, ContrastOfTwo, PartOfContrast

_PARTS = 5  # of a model that are named, the largest


def contrast_sizes(
    models: Sequence[Any], tokenizer: Any, contrasts: Sequence[str | Contrast]
) -> list[ContrastOfTwo]:
    """Each contrast in the original and in the pruned model."""
    chosen = find_contrasts(contrasts)
    original, pruned = (attribute_bias(model, tokenizer, chosen, checked=0) for model in models)
    return [
        ContrastOfTwo(before.contrast, _of_one(before), _of_one(after))
        for before, after in zip(original, pruned, strict=True)
    ]


def _of_one(found: Attribution) -> ContrastOfOne:
    largest = sorted(found.layers, key=lambda each: -abs(each.effect.value))[:_PARTS]
    parts = [PartOfContrast(each.layer, each.component, each.effect.value) for each in largest]
    size = found.behaviour
    return ContrastOfOne(size.value, size.low, size.high, parts)
