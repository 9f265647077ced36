"""What a search found, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A shape that was judged.

    Attributes:
        name: `searched`, `widths by layer`, `uniform width` or `fewer layers`.
        parameters: that are left.
        expected: the sum of its parts' scores, in nats; None where it was not made of them.
        divergence: what it is, all parts together: KL from the model as it came on held-back text
            that no score saw, in nats a token.
        perplexity_ratio: perplexity on that text over that of the model as it came.
        widths: neurons of each layer's MLP, 0 where it is gone.
        attention: of each layer, whether it has any.
    """

    name: str
    parameters: int
    expected: float | None
    divergence: float
    perplexity_ratio: float
    widths: tuple[int, ...]
    attention: tuple[bool, ...]


@dataclass(frozen=True)
class Found:
    """What was found under one budget.

    Attributes:
        budget: as it was given.
        best: the shape of least divergence.
        others: those that were judged beside it, best first.
        plan: the file of its plan, for `optipfair prune --plan`.
    """

    budget: str
    best: Shape
    others: tuple[Shape, ...]
    plan: str


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        output_path: the folder with the plans and the scores.
        parameters: of the model as it came.
        found: for each budget.
        scores: choice → divergence if it alone is made, in nats.
        seconds: that it took.
    """

    output_path: str
    parameters: int
    found: tuple[Found, ...]
    scores: Mapping[str, float]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)
