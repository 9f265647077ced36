"""Scores of routed experts: how much each of them matters. A new one is a function here.

A score is one pure function, registered by one line that says what it needs:

- `routing`: `(routing) -> scores`, from what the router did with calibration text.
- `weights`: `(squares) -> scores`, from the sum of squares of each expert's weights.
- `nothing`: `(shape, generator) -> scores`, from a seeded source of random numbers.

It returns (E,); higher stays. This module loads without torch.

Axes: `E` routed experts of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...registry import Registry
from .criteria import NOTHING, WEIGHTS, random_choice

if TYPE_CHECKING:
    from torch import Tensor

    from ..calibration.routing import Routing

ROUTING = "routing"


@dataclass(frozen=True)
class ExpertScore:
    """A registered score."""

    name: str  # as users write it
    function: Callable[..., Tensor]
    needs: str = ROUTING  # what it reads: `routing`, `weights` or `nothing`

    @property
    def needs_data(self) -> bool:
        """Whether it reads calibration data."""
        return self.needs == ROUTING


EXPERT_SCORES: Registry[ExpertScore] = Registry("expert_selection_method")


def expert_score(
    name: str, needs: str = ROUTING
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register the decorated function as a score."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        EXPERT_SCORES.add(name, ExpertScore(name, function, needs))
        return function

    return register


@expert_score("REAP")
def router_weighted_activation(routing: Routing) -> Tensor:
    """Mean over an expert's tokens of gate times L2 norm of its output; 0 where it has none.

    Source: REAP (arXiv 2510.13999).
    """
    return routing.added / routing.tokens.clamp_min(1)


@expert_score("FREQUENCY")
def routing_frequency(routing: Routing) -> Tensor:
    """How many tokens are routed to an expert."""
    return routing.tokens


@expert_score("GATE_SUM")
def summed_gate(routing: Routing) -> Tensor:
    """The sum of the gates of an expert's tokens."""
    return routing.gates


@expert_score("ADDED")
def summed_output(routing: Routing) -> Tensor:
    """The sum over an expert's tokens of gate times L2 norm of its output: what it adds in all."""
    return routing.added


@expert_score("NORM", needs=WEIGHTS)
def norm_of_weights(squares: Tensor) -> Tensor:
    """L2 norm of all weights of an expert."""
    return squares.sqrt()


EXPERT_SCORES.add("RANDOM", ExpertScore("RANDOM", random_choice, NOTHING))
