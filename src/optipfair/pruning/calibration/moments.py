"""What enters an MLP's down projection, summed up while a layer runs.

Some of the tokens are held back, in blocks, to judge on them what was fitted on the others. Which
ones follows from their place in the data alone, not from how it is cut into batches.

Axes: `B` batch, `S` sequence, `T` tokens, `I` neurons, `E` experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...arch.view import MLPView
from ...distributed import sum_, total
from .activations import check_experts, down_module, entering, token_mask, updating

_BLOCK = 16  # tokens that are held back together, since neighbours are alike
_EVERY = 5  # one block in so many is held back
FIT, HELD_BACK = 1, 2  # what a token is for; 0 is padding
_MULTIPLIED = 4096  # tokens that are multiplied at once, in float32
_EPSILON = 1e-6  # as in norms
_SQUARED = 64  # tokens that are squared at once: they stay in the cache


def token_roles(mask: Tensor, first: int) -> Tensor:
    """What each token is for, (B, S): 1 to fit on, 2 to judge by, 0 not real.

    Sequences are cut into blocks of 16 tokens. A block is held back where its number in the
    sequence and the sequence's number in all the data (of which `first` is that of the first row)
    add up to 4 modulo 5: a fifth of all tokens, spread over every part of a sequence.
    """
    sequences = torch.arange(first, first + mask.shape[0], device=mask.device)[:, None]
    blocks = torch.arange(mask.shape[1], device=mask.device) // _BLOCK
    held = (sequences + blocks) % _EVERY == _EVERY - 1  # (B, S)
    return mask * (FIT + held * (HELD_BACK - FIT))


@dataclass(frozen=True)
class Moments:
    """Sums over tokens of a projection's inputs x and of what its outputs y should be.

    `targets` and `power` are None where y is the projection's own output.
    """

    inputs: Tensor  # sum of x x^T, (I, I)
    targets: Tensor | None = None  # sum of y x^T, (H, I)
    power: float | None = None  # sum of |y|^2
    constant: bool = False  # whether the last input is always 1: its weights are an intercept

    def __add__(self, other: Moments) -> Moments:
        both = self.targets is not None and other.targets is not None
        return Moments(
            self.inputs + other.inputs,
            self.targets + other.targets if both else None,  # type: ignore[operator]
            (self.power or 0.0) + (other.power or 0.0) if both else None,
            self.constant,
        )


@dataclass(frozen=True)
class Tokens:
    """What the tokens of a batch are, (B, S) each."""

    roles: Tensor  # `token_roles`
    scales: Tensor  # what a token's values are multiplied with before products are summed

    @classmethod
    def of(cls, hidden: Tensor, mask: Tensor, first: int) -> Tokens:
        """Those of a batch that enters a layer as `hidden` (B, S, H).

        An output that is added to the hidden states matters as far as it turns them, since norms
        divide by their size. So a token counts by one over the mean square of its states, and the
        few tokens whose states are a hundred times larger do not decide alone.
        """
        power = hidden.float().square().mean(dim=-1)
        return cls(token_roles(mask, first), (power + _EPSILON).rsqrt())


class Products:
    """Sum of x x^T over tokens x, (I, I) float64; products of a few thousand tokens in float32.

    Inside `fast_products` these are in bfloat16: their rounding is far below what another draw of
    tokens changes. Only what lies on and above the diagonal is computed.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._sums = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, tokens: Tensor) -> None:
        """Add tokens, (T, I) float32."""
        chunks: tuple[Tensor, ...] = torch.split(tokens, _MULTIPLIED)
        for chunk in chunks:
            for rows in self._strips():
                upper = slice(rows.start, None)
                self._sums[rows, upper] += chunk[:, rows].T @ chunk[:, upper]

    def sum_over_processes(self) -> None:
        """Take the sum over the tokens of all processes."""
        for rows in self._strips():
            sum_(self._sums[rows, rows.start :])

    @property
    def sums(self) -> Tensor:
        """The sum so far, both triangles."""
        for rows in self._strips():
            below = slice(rows.stop, None)
            self._sums[below, rows] = self._sums[rows, below].T
        return self._sums

    def _strips(self) -> list[slice]:
        """Eight strips of rows, or fewer broader ones: less than 60 % of all products."""
        width = len(self._sums)
        step = max(-(-width // 8), 128)
        return [slice(start, min(start + step, width)) for start in range(0, width, step)]


class Inputs:
    """Sums over the tokens that entered one down projection, or one expert's."""

    def __init__(
        self,
        width: int,
        device: torch.device,
        *,
        moments: bool,
        constant: bool = False,
        unit: int = 1,
        groups: int = 1,
    ) -> None:
        """Begin with no tokens.

        With `constant`, an x of the products ends with a 1, for a bias. So many neighbouring inputs
        as make a `unit` stay or go together (the columns of attention heads), and as many units
        stay in each of so many `groups`.
        """
        self.squares = torch.zeros(width, dtype=torch.float64, device=device)  # sum of x^2
        self.total = torch.zeros_like(self.squares)  # sum of x
        self.tokens = 0
        size = width + constant  # sums of x x^T of the tokens to fit on, and of the others
        self.products = (Products(size, device), Products(size, device)) if moments else None
        self.constant, self.unit, self.groups = constant, unit, groups

    def add(self, values: Tensor, scales: Tensor, *, held_back: bool = False) -> None:
        """Add tokens, (T, I), to fit on or held back, with their scales, (T,)."""
        if len(values) == 0:
            return
        wide = values.float()
        self.tokens += len(wide)
        chunks: tuple[Tensor, ...] = torch.split(wide, _SQUARED)
        for chunk in chunks:
            self.squares += chunk.square().sum(dim=0)
            self.total += chunk.sum(dim=0)
        if self.products is not None:
            self.products[held_back].add(self._scaled(wide, scales))

    def _scaled(self, values: Tensor, scales: Tensor) -> Tensor:
        """Tokens times their scales, (T, I), with the constant at the end where there is one."""
        if not self.constant:
            return values * scales[:, None]
        width = values.shape[1]
        scaled = values.new_empty(len(values), width + 1)
        torch.mul(values, scales[:, None], out=scaled[:, :width])
        scaled[:, width] = scales
        return scaled

    def sum_over_processes(self) -> None:
        """Take the sums over the tokens of all processes."""
        sum_(self.squares, self.total)
        self.tokens = int(total(self.tokens)[0])
        for products in self.products or ():
            products.sum_over_processes()

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
        fitting, held_back = self.split()
        width = len(self.squares)
        return (fitting.inputs + held_back.inputs)[:width, :width]

    def split(self) -> tuple[Moments, Moments]:
        """Moments to fit on, and those to judge by."""
        assert self.products is not None
        fitting, held_back = (Moments(each.sums, constant=self.constant) for each in self.products)
        return fitting, held_back


class MLPInputs:
    """The inputs of one MLP's down projection, for each expert where there are.

    With `constant` and moments, these have one input more, which is always 1.
    """

    def __init__(self, mlp: MLPView, *, moments: bool, constant: bool = False) -> None:
        check_experts(mlp)
        self.mlp, self.module, self.moments = mlp, down_module(mlp), moments
        device, unit = mlp.tensors[mlp.spec.down].device, mlp.spec.down.rows
        about: dict[str, Any] = {"constant": constant, "unit": unit, "groups": mlp.spec.groups}
        self.parts = [
            Inputs(mlp.down_inputs, device, moments=moments, **about)
            for _ in range(mlp.experts or 1)
        ]

    def update(self, args: tuple[Any, ...], tokens: Tokens) -> None:
        """Add what entered the module."""
        roles = token_mask(args[0], tokens.roles).to(args[0].device)
        scales = token_mask(args[0], tokens.scales).to(args[0].device)
        wanted = {False: roles == FIT, True: roles == HELD_BACK}
        for held_back, places in (wanted if self.moments else {False: roles > 0}).items():
            for expert, at, values in entering(self.mlp, args, places):
                self.parts[expert].add(values, scales[at], held_back=held_back)

    def sum_over_processes(self) -> None:
        """Take the sums over the tokens of all processes."""
        for part in self.parts:
            part.sum_over_processes()


def collecting(mlps: Sequence[MLPInputs], tokens: list[Tokens]) -> AbstractContextManager[None]:
    """Collect while a layer runs inside the block; `tokens[0]` are those of the batch that runs."""
    return updating([(each.module, each.update) for each in mlps], tokens)
