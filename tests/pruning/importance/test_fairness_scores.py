"""Scores that weigh importance against bias: by ranks, and which way round they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optipfair import (
    ArgumentError,
    analyze_neuron_bias,
    combine_bias_and_importance,
    compute_fairness_pruning_scores,
    neuron_bias_scores,
    neuron_importance_scores,
    plan_pruning,
    prune_model_mlp_glu,
)
from optipfair.arch.view import describe
from optipfair.testing import byte_tokenizer, tiny_model

PAIRS = [("The white man was walking", "The Black man was walking")]
TOKENIZER = byte_tokenizer()


def ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """From 0 to 1, one by one: how many are lower, and half of the others that are equal."""
    below = (values[:, None] > values).sum(axis=1)
    equal = (values[:, None] == values).sum(axis=1) - 1
    scaled: np.ndarray[Any, Any] = (below + equal / 2) / max(len(values) - 1, 1)
    return scaled if len(values) > 1 else scaled + 0.5


few = st.integers(-3, 3).map(float)
columns = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*(st.lists(few, min_size=n, max_size=n) for _ in range(2)))
)


@given(columns, st.floats(0, 1))
def test_scores_are_combined_by_ranks(both: tuple[list[float], list[float]], weight: float) -> None:
    bias, importance = map(np.asarray, both)
    (found,) = combine_bias_and_importance({3: bias}, {3: importance}, weight).values()
    wanted = (1 - weight) * ranks(importance) + weight * (1 - ranks(bias))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


def test_the_weight_goes_from_importance_to_bias() -> None:
    model = tiny_model("llama")
    importance = neuron_importance_scores(model, "L2")
    bias = neuron_bias_scores(model, TOKENIZER, PAIRS, controls=2)

    def cuts(scores: dict[int, Tensor]) -> Any:
        return plan_pruning(model, pruning_percentage=40, neuron_scores=scores).width_cuts

    mixed = {w: cuts(combine_bias_and_importance(bias, importance, w)) for w in (0, 0.5, 1)}
    assert mixed[0] == plan_pruning(model, "MLP_GLU", "L2", 40).width_cuts
    assert mixed[1] == cuts({layer: -scores for layer, scores in bias.items()})
    assert mixed[0.5] == cuts(combine_bias_and_importance(bias, importance))
    assert mixed[0] != mixed[0.5] != mixed[1]


ROW = [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("bias", "importance", "weight", "match"),
    [
        ({0: ROW}, {0: ROW, 1: ROW}, 0.5, r"Layers \[1\] are in one of"),
        ({0: ROW}, {0: ROW[:2]}, 0.5, r"Layer 0 has shape \(3,\) .* and \(2,\)"),
        ({0: [ROW]}, {0: [ROW]}, 0.5, r"shape \(1, 3\)"),
        ({0: [1, 2, float("nan")]}, {0: ROW}, 0.5, r"bias_scores\[0\] holds NaN"),
        ({0: ROW}, {0: [1, 2, float("inf")]}, 0.5, r"importance_scores\[0\] holds NaN or Inf"),
        ([ROW], {0: ROW}, 0.5, "bias_scores is a list"),
        ({0: ROW}, {}, 0.5, "importance_scores is empty"),
        *(({0: ROW}, {0: ROW}, w, "bias_weight=") for w in (-0.1, 1.1, float("nan"), True, "1")),
    ],
    ids=str,
)
def test_scores_that_do_not_fit_together_are_refused(
    bias: Any, importance: Any, weight: Any, match: str
) -> None:
    with pytest.raises(ArgumentError, match=match):
        combine_bias_and_importance(bias, importance, weight)


def test_the_other_way_round_the_highest_go() -> None:
    """Importance alone removes what `MAW` removes, bias alone what differs most."""
    model = tiny_model("llama")
    bias = analyze_neuron_bias(model, TOKENIZER, PAIRS, show_progress=False)
    plan = plan_pruning(model, pruning_percentage=40)
    by_importance = compute_fairness_pruning_scores(model, bias, bias_weight=0)
    for cut in plan.width_cuts:
        stay = by_importance[cut.layer].argsort(stable=True)[: cut.kept].sort().values
        assert tuple(stay.tolist()) == cut.keep[0]
    by_bias = compute_fairness_pruning_scores(model, bias, bias_weight=1)
    together = (bias["gate_proj_layer_2"] + bias["up_proj_layer_2"]).double()
    assert torch.equal(by_bias[2].argsort(), together.argsort())


def test_its_scores_prune_the_layers_that_they_are_of() -> None:
    model = tiny_model("llama")
    bias = neuron_bias_scores(model, TOKENIZER, PAIRS, controls=0)
    scores = compute_fairness_pruning_scores(model, {1: bias[1]}, 0.5)
    lowest = scores[1].argsort(stable=True)[:30].sort().values
    expected = model.model.layers[1].mlp.up_proj.weight[lowest].clone()
    prune_model_mlp_glu(*(model, "MAW", 25, None, False), layer_indices=[1], fairness_scores=scores)
    assert [mlp.width for mlp in describe(model).mlps] == [40, 30, 40, 40]
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, expected)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        (({0: ROW}, {0: ROW}), "combine_bias_and_importance"),
        ((None, {}), "bias_scores is empty"),
        ((None, {7: ROW}), r"layers \[7\].* no MLP"),
        ((None, {"up_proj_layer_0": ROW}), r"shape \(3,\), .* 40 neurons"),
        ((None, {"up_proj_layer_0": ROW, "gate_proj_layer_0": [1]}), "shapes .*neuron_output"),
        ((None, {"up_proj_layer_0": ROW, "x": ROW}), "key 'up_proj_layer_0'"),
        ((None, {"up_proj_layer_0": "x"}), r"bias_scores \(up_proj\)\[0\]"),
        ((None, {0: range(40)}, 2), "bias_weight=2"),
    ],
    ids=str,
)
def test_bias_scores_that_are_not_of_the_model_are_refused(given_: Any, said: str) -> None:
    model = tiny_model("llama") if given_[0] is None else given_[0]
    with pytest.raises(ArgumentError, match=said):
        compute_fairness_pruning_scores(model, *given_[1:])
