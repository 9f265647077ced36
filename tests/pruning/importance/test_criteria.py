"""Golden numbers of every criterion, derived by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from optipfair import (
    ArgumentError,
    compute_neuron_pair_importance_l2,
    compute_neuron_pair_importance_maw,
    compute_neuron_pair_importance_pon,
    compute_neuron_pair_importance_vow,
)
from optipfair.arch.families import BARE_GATED
from optipfair.arch.view import find_mlp
from optipfair.pruning.importance.criteria import CRITERIA, WEIGHTS, hybrid
from optipfair.pruning.importance.mlp_scores import score_mlp_with_data

GATE = torch.tensor([[1.0, -3.0, 2.0]])
UP = torch.tensor([[0.0, 4.0, -1.0]])

# name → (gated, plain MLP without a gate)
# PPM: max + |min|: gate 2 + 3 = 5, up 4 + 1 = 5.
# VOW: unbiased variance: gate mean 0, (1 + 9 + 4) / 2 = 7; up mean 1, (1 + 9 + 4) / 2 = 7.
# PON: L1: gate 1 + 3 + 2 = 6, up 0 + 4 + 1 = 5, product 30.
# L2: gate sqrt(1 + 9 + 4), up sqrt(0 + 16 + 1).
GOLDEN = {
    "PPM": (10.0, 5.0),
    "VOW": (14.0, 7.0),
    "PON": (30.0, 5.0),
    "L2": (math.sqrt(14) + math.sqrt(17), math.sqrt(17)),
}
FUNCTIONS = {
    "PPM": compute_neuron_pair_importance_maw,
    "VOW": compute_neuron_pair_importance_vow,
    "PON": compute_neuron_pair_importance_pon,
    "L2": compute_neuron_pair_importance_l2,
}


STATIC = [name for name in CRITERIA if CRITERIA[name].needs == WEIGHTS]


@pytest.mark.parametrize("name", STATIC)
def test_every_criterion_gives_its_golden_number(name: str) -> None:
    scores = CRITERIA[name].function(GATE, UP)
    torch.testing.assert_close(scores, torch.tensor([GOLDEN[name][0]]))


@pytest.mark.parametrize("name", STATIC)
def test_a_plain_mlp_leaves_the_gate_term_out(name: str) -> None:
    scores = CRITERIA[name].function(None, UP)
    torch.testing.assert_close(scores, torch.tensor([GOLDEN[name][1]]))


@pytest.mark.parametrize("name", STATIC)
def test_neurons_are_scored_one_by_one(name: str) -> None:
    gate, up = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    whole = CRITERIA[name].function(gate, up)
    rows = [CRITERIA[name].function(gate[i : i + 1], up[i : i + 1]) for i in range(7)]
    torch.testing.assert_close(whole, torch.cat(rows))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_public_functions_are_the_criteria(name: str) -> None:
    torch.testing.assert_close(FUNCTIONS[name](GATE, UP), torch.tensor([GOLDEN[name][0]]))


def test_maw_is_another_name_of_ppm() -> None:
    assert CRITERIA["MAW"] is CRITERIA["PPM"]


def test_ppm_of_a_row_of_one_sign_adds_the_size_of_its_smallest() -> None:
    # max + |min|: 4 + 1 for the positive row, -1 + 4 for the negative one.
    rows = torch.tensor([[1.0, 4.0], [-1.0, -4.0]])
    assert compute_neuron_pair_importance_maw(rows, torch.zeros(2, 2)).tolist() == [5.0, 3.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_is_scored_in_float32(name: str, dtype: torch.dtype) -> None:
    # L1 norms of 64 * 256 = 16384 each: their product overflows float16 (65504).
    weight = torch.full((2, 256), 64.0, dtype=dtype)
    scores = FUNCTIONS[name](weight, weight)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert torch.equal(scores, FUNCTIONS[name](weight.float(), weight.float()))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    "weights",
    [
        (torch.ones(3), torch.ones(3)),
        (torch.ones(2, 3), torch.ones(3, 2)),
        (torch.ones(2, 3), None),
        (1, 2),
    ],
    ids=["vectors", "two shapes", "none", "numbers"],
)
def test_weights_that_are_no_two_matrices_of_one_shape_are_refused(
    name: str, weights: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(ArgumentError, match="two matrices of one shape"):
        FUNCTIONS[name](*weights)


def test_the_hybrid_score_is_the_hand_made_one() -> None:
    # neuron 0: (4/4 + 1/2 + 2/2) * 3 = 7.5; neuron 1: (2/4 + 2/2 + 2/2) * 5 = 12.5
    gate, up, down = torch.tensor([4.0, 2.0]), torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0])
    norms = torch.tensor([3.0, 5.0])
    assert hybrid(gate, up, down, norms).tolist() == [7.5, 12.5]
    # without a gate: (1/2 + 1) * 3 = 4.5; (1 + 1) * 5 = 10
    assert hybrid(None, up, down, norms).tolist() == [4.5, 10.0]


def test_an_all_zero_matrix_adds_nothing_to_the_hybrid_score() -> None:
    ones = torch.ones(2)
    assert hybrid(torch.zeros(2), ones, ones, ones).tolist() == [2.0, 2.0]


def test_the_hybrid_score_of_an_mlp_reads_down_columns() -> None:
    mlp = nn.Module()
    mlp.gate_proj, mlp.up_proj, mlp.down_proj = (nn.Linear(2, 2, bias=False) for _ in range(3))
    mlp.gate_proj.weight.data = torch.tensor([[1.0, -3.0], [2.0, 0.0]])  # PPM 4, 2
    mlp.up_proj.weight.data = torch.tensor([[0.0, 1.0], [-1.0, 1.0]])  # PPM 1, 2
    mlp.down_proj.weight.data = torch.tensor([[1.0, 2.0], [-1.0, 0.0]])  # columns: PPM 2, 2
    view = find_mlp(0, mlp, BARE_GATED)
    assert view is not None
    # As above: (1 + 1/2 + 1) * 3 and (1/2 + 1 + 1) * 5.
    assert score_mlp_with_data(view, torch.tensor([3.0, 5.0])).tolist() == [7.5, 12.5]


def test_the_names_of_the_criteria_are_known_without_torch() -> None:
    code = "import sys, optipfair.pruning.importance.criteria as i; assert i.CRITERIA.names(); "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
