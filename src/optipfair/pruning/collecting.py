"""What enters an MLP's down projection, summed up while a layer runs.

Some of the tokens are held back, in blocks, to judge on them what was fitted on the others.

Axes: `B` batch, `S` sequence, `T` tokens, `I` neurons, `E` experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..arch.view import MLPView
from ..hooks import recording_inputs
from .calibration import check_experts, expert_inputs, routed_tokens, token_mask
from .compensation import Moments

_BLOCK = 16  # tokens that are held back together, since neighbours are alike
_EVERY = 5  # one block in so many is held back


@dataclass
class Inputs:
    """Sums over the tokens that entered one down projection, or one expert's.

    Attributes:
        fitting: sum of x x^T of the tokens to fit on, (I, I) float64; None if only squares are
            kept.
        held_back: the same of the others.
        squares: sum of x^2 over all tokens, (I,) float64.
        total: sum of x, (I,) float64.
        tokens: how many, of all.
    """

    fitting: Tensor | None
    held_back: Tensor | None
    squares: Tensor
    total: Tensor
    tokens: int = 0

    @classmethod
    def empty(cls, width: int, device: torch.device, *, moments: bool) -> Inputs:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        pair = [zeros(width, width) if moments else None for _ in range(2)]
        return cls(pair[0], pair[1], zeros(width), zeros(width))

    def add(self, values: Tensor) -> None:
        """Add tokens, (T, I); which of them are held back follows from how many came before."""
        held = held_back(self.tokens, len(values), values.device)
        self.tokens += len(values)
        wide = values.float()
        self.squares += wide.square().sum(dim=0).double()
        self.total += wide.sum(dim=0).double()
        if self.fitting is not None and self.held_back is not None:
            _add_products(self.fitting, wide[~held])
            _add_products(self.held_back, wide[held])

    @property
    def norms(self) -> Tensor:
        """L2 norm of each neuron over all tokens, (I,)."""
        return self.squares.sqrt()

    @property
    def variances(self) -> Tensor:
        """Variance of each neuron over all tokens, (I,)."""
        count = max(self.tokens, 1)
        return (self.squares / count - (self.total / count).square()).clamp_min(0)

    @property
    def moments(self) -> Tensor:
        """Second moments of all tokens, (I, I)."""
        assert self.fitting is not None and self.held_back is not None
        return self.fitting + self.held_back

    def split(self) -> tuple[Moments, Moments]:
        """Moments to fit on, and those to judge by."""
        assert self.fitting is not None and self.held_back is not None
        return Moments(self.fitting), Moments(self.held_back)


def held_back(before: int, count: int, device: torch.device) -> Tensor:
    """Which of the next `count` tokens are held back, (T,) bool, after so many before them."""
    numbers = torch.arange(before, before + count, device=device)
    return numbers // _BLOCK % _EVERY == _EVERY - 1


def _add_products(sums: Tensor, values: Tensor) -> None:
    if len(values):
        sums += (values.T @ values).double()


class MLPInputs:
    """The inputs of one MLP's down projection, for each expert where there are."""

    def __init__(self, mlp: MLPView, *, moments: bool) -> None:
        check_experts(mlp)
        self.mlp = mlp
        device = mlp.tensors[mlp.spec.down].device
        self.parts = [
            Inputs.empty(mlp.width, device, moments=moments) for _ in range(mlp.experts or 1)
        ]

    @property
    def module(self) -> nn.Module:
        return self.mlp.owner.get_submodule(self.mlp.spec.down.module)

    def update(self, args: tuple[Any, ...], mask: Tensor) -> None:
        """Add what entered the module. `mask` (B, S) says which tokens are real."""
        real = token_mask(args[0], mask)
        if not self.mlp.spec.experts:
            values = args[0].flatten(0, -2)
            self.parts[0].add(values[real.to(values.device)])
            return
        for expert, tokens in routed_tokens(args[0], args[1], real, len(self.parts)):
            self.parts[expert].add(expert_inputs(self.mlp, self.module, tokens, expert))


@contextmanager
def collecting(mlps: Sequence[MLPInputs], mask: list[Tensor]) -> Iterator[None]:
    """Collect while the layer runs inside the block; `mask[0]` is that of the batch that runs."""

    def callback(inputs: MLPInputs) -> Any:
        return lambda _module, args: inputs.update(args, mask[0])

    with recording_inputs([(each.module, callback(each)) for each in mlps]):
        yield
