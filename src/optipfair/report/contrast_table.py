"""Contrasts of a comparison as rows for a terminal."""

from __future__ import annotations

from .comparison import Comparison, ContrastOfOne
from .formats import signed

CONTRAST_HEADER = ("contrast, nats", "original", "pruned", "largest parts of the pruned model")


def contrast_rows(comparison: Comparison) -> list[list[str]]:
    """One row a contrast: its size in both models, and what makes it in the second."""
    return [
        [
            each.contrast,
            _size(each.original),
            _size(each.pruned),
            ", ".join(
                f"layer {part.layer} {part.component} {signed(part.effect)}"
                for part in each.pruned.parts[:3]
            ),
        ]
        for each in comparison.contrasts
    ]


def _size(found: ContrastOfOne) -> str:
    if found.low is None or found.high is None:
        return signed(found.value)
    return f"{signed(found.value)} [{signed(found.low)}, {signed(found.high)}]"
