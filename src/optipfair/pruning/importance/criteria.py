"""Importance criteria: how much each neuron of an MLP matters. A new one is a function here.

A criterion is one pure function, registered by one line that says what it needs:

- `weights`: `(gate, up) -> scores`, from float32 matrices (I, H), a row for each neuron; `gate` is
  None where the MLP has none, and its term is left out. Rows must not influence each other.
- `nothing`: `(shape, generator) -> scores`, from a seeded source of random numbers.
- `activations` or `moments`: `(weights, inputs, count) -> scores`, from all matrices, statistics of
  what enters the down projection (with its second moments, (I, I), or without), and how many
  neurons stay. Where inputs stay or go together (`inputs.unit`), the scores of a unit are summed,
  or it returns one for each.

It returns (I,); higher stays. Biases are not scored. Command line, docs and tests read the
registry, and this module loads without torch, so that `--help` stays fast.

Axes: `I` intermediate (neurons), `H` hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import ArgumentError
from ...registry import Registry

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ..calibration.moments import Inputs

NOTHING, WEIGHTS, ACTIVATIONS, MOMENTS = "nothing", "weights", "activations", "moments"

ScoreFunction = Callable[..., "Tensor"]


@dataclass(frozen=True)
class Criterion:
    """A registered criterion."""

    name: str  # as users write it
    function: ScoreFunction
    needs: str = WEIGHTS  # what it reads: `nothing`, `weights`, `activations` or `moments`
    accepts_data: bool = False  # whether calibration data makes the hybrid of it
    compensates: bool = False  # whether kept neurons make up for lost ones unless asked otherwise

    @property
    def needs_data(self) -> bool:
        """Whether it scores what flows through the layers, one after the other."""
        return self.needs in (ACTIVATIONS, MOMENTS)


CRITERIA: Registry[Criterion] = Registry("importance criterion")


def criterion(
    name: str, *aliases: str, needs: str = WEIGHTS, **properties: bool
) -> Callable[[ScoreFunction], ScoreFunction]:
    """Register the decorated function as a criterion."""

    def register(function: ScoreFunction) -> ScoreFunction:
        CRITERIA.add(name, Criterion(name, function, needs, **properties), aliases)
        return function

    return register


@criterion("PPM", "MAW", accepts_data=True)
def peak_to_peak(gate: Tensor | None, up: Tensor) -> Tensor:
    """Peak-to-peak magnitude: max + |min| of the gate row plus the same of the up row.

    Source: Martra 2025, arXiv 2512.22671.
    """
    return ppm(up) if gate is None else ppm(gate) + ppm(up)


@criterion("VOW")
def variance_of_weights(gate: Tensor | None, up: Tensor) -> Tensor:
    """Variance of weights: unbiased variance of the gate row plus that of the up row."""
    return _variance(up) if gate is None else _variance(gate) + _variance(up)


@criterion("PON")
def product_of_norms(gate: Tensor | None, up: Tensor) -> Tensor:
    """Product of norms: L1 norm of the gate row times L1 norm of the up row."""
    return _l1(up) if gate is None else _l1(gate) * _l1(up)


@criterion("L2")
def sum_of_l2_norms(gate: Tensor | None, up: Tensor) -> Tensor:
    """Sum of L2 norms: L2 norm of the gate row plus L2 norm of the up row."""
    return _l2(up) if gate is None else _l2(gate) + _l2(up)


@dataclass(frozen=True)
class Weights:
    """An MLP's matrices, float32, (I, H) with a row for each neuron."""

    down: Tensor  # for attention the transposed output projection
    gate: Tensor | None = None  # None where there is none
    up: Tensor | None = None  # None for attention


@criterion("ACT", needs=ACTIVATIONS)
def activation_norm(weights: Weights, inputs: Inputs, count: int) -> Tensor:
    """Activation norm: L2 norm of the neuron's output over the calibration tokens."""
    return inputs.norms


@criterion("WACT", needs=ACTIVATIONS)
def weighted_activation(weights: Weights, inputs: Inputs, count: int) -> Tensor:
    """Weighted activation: activation norm times the L2 norm of the neuron's down column.

    Source: the score of Wanda (arXiv 2306.11695), summed over a column.
    """
    return inputs.norms * _l2(weights.down)


@criterion("FLAP", needs=ACTIVATIONS)
def fluctuation(weights: Weights, inputs: Inputs, count: int) -> Tensor:
    """Fluctuation: variance of the neuron's output times the squared norm of its down column.

    Source: FLAP (arXiv 2312.11983).
    """
    return inputs.variances * _l2(weights.down).square()


@criterion("OBS", needs=MOMENTS)
def brain_surgeon(weights: Weights, inputs: Inputs, count: int) -> Tensor:
    """Optimal brain surgeon: those go whose loss the others can best make up for, step by step.

    Sources: SlimGPT (arXiv 2412.18110), ZipLM (arXiv 2302.04089).
    """
    from .selection import elimination_order, unit_elimination_order

    down = weights.down
    units = len(down) // inputs.unit
    if inputs.unit == 1:
        order = elimination_order(down.T, inputs.moments, units - count)
    else:
        shape = (inputs.unit, inputs.groups)
        order = unit_elimination_order(down.T, inputs.moments, units - count, *shape)
    scores = down.new_full((units,), float(units))
    scores[order] = order.new_tensor(range(len(order))).to(scores)
    return scores


@criterion("AUTO", needs=MOMENTS, compensates=True)
def automatic(weights: Weights, inputs: Inputs, count: int) -> Tensor:
    """The hybrid on what the pruned layers give, with compensation; for attention OBS with it.

    A token counts as in compensation (`collecting.Tokens`).
    """
    if weights.up is None:
        return brain_surgeon(weights, inputs, count)
    gate = None if weights.gate is None else ppm(weights.gate)
    norms = inputs.moments.diagonal().sqrt()
    return hybrid(gate, ppm(weights.up), ppm(weights.down), norms.float())


@criterion("RANDOM", needs=NOTHING)
def random_choice(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Random neurons: what every criterion must beat."""
    import torch

    return torch.rand(shape, generator=generator)


def hybrid(gate: Tensor | None, up: Tensor, down: Tensor, input_norms: Tensor) -> Tensor:
    """Weights and activations: (g / max g + u / max u + d / max d) * |x|, (I,).

    g, u and d are the PPM scores of gate rows, up rows and down columns, each (I,); gate may be
    None. |x| is the L2 norm over all calibration tokens of a neuron's input to the down projection.
    The form follows CFSP (arXiv 2409.13199), equation 8.
    """
    parts = [part for part in (gate, up, down) if part is not None]
    # An all-zero matrix has no largest score: its term is zero for every neuron.
    relative = [part / part.max().clamp_min(1e-30) for part in parts]
    return sum(relative[1:], start=relative[0]) * input_norms


def compute_neuron_pair_importance_maw(gate_weight: Tensor, up_weight: Tensor) -> Tensor:
    """Score neurons by peak-to-peak magnitude (PPM, alias MAW).

    Per neuron: max + |min| of its gate row plus the same of its up row (Martra 2025,
    arXiv 2512.22671).

    Args:
        gate_weight: (I, H), any floating dtype.
        up_weight: (I, H).

    Returns:
        (I,) float32 scores, higher stays.

    Raises:
        ArgumentError: the weights are no two matrices of one shape.

    Example:
        >>> import torch
        >>> compute_neuron_pair_importance_maw(
        ...     torch.tensor([[1.0, -3.0, 2.0]]), torch.tensor([[0.0, 4.0, -1.0]])
        ... )
        tensor([10.])
    """
    return peak_to_peak(*_checked(gate_weight, up_weight))


def compute_neuron_pair_importance_vow(gate_weight: Tensor, up_weight: Tensor) -> Tensor:
    """Score neurons by variance of weights (VOW): unbiased, gate row plus up row.

    Arguments, result and errors as in `compute_neuron_pair_importance_maw`.
    """
    return variance_of_weights(*_checked(gate_weight, up_weight))


def compute_neuron_pair_importance_pon(gate_weight: Tensor, up_weight: Tensor) -> Tensor:
    """Score neurons by product of norms (PON): L1 of the gate row times L1 of the up row.

    Arguments, result and errors as in `compute_neuron_pair_importance_maw`.
    """
    return product_of_norms(*_checked(gate_weight, up_weight))


def compute_neuron_pair_importance_l2(gate_weight: Tensor, up_weight: Tensor) -> Tensor:
    """Score neurons by L2 norms: gate row plus up row.

    Arguments, result and errors as in `compute_neuron_pair_importance_maw`.
    """
    return sum_of_l2_norms(*_checked(gate_weight, up_weight))


def _checked(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    shapes = [tuple(getattr(weight, "shape", ())) for weight in (gate, up)]
    if len(shapes[0]) != 2 or shapes[0] != shapes[1]:
        raise ArgumentError(
            f"gate_weight and up_weight have shapes {shapes[0]} and {shapes[1]}. "
            "Give two matrices of one shape (intermediate_size, hidden_size)."
        )
    return gate.detach().float(), up.detach().float()


def ppm(matrix: Tensor) -> Tensor:
    """PPM score of each row of a float32 matrix: (I, H) → (I,)."""
    # Two reductions: on CPU they take a fifth of the time of one aminmax along rows.
    return matrix.amax(dim=1) + matrix.amin(dim=1).abs()


def _variance(matrix: Tensor) -> Tensor:
    # By its definition, mean first: Tensor.var (Welford) takes eight times as long on CPU.
    centred = matrix - matrix.mean(dim=1, keepdim=True)
    return _l2(centred).square() / max(matrix.shape[1] - 1, 1)


def _l1(matrix: Tensor) -> Tensor:
    # By its definition: Tensor.norm(p=1) takes twice as long on CPU.
    return matrix.abs().sum(dim=1)


def _l2(matrix: Tensor) -> Tensor:
    norm: Tensor = matrix.norm(dim=1)
    return norm
