"""Neurons by hand: one MLP into new layers, and chosen neurons set to zero."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optipfair import (
    ArgumentError,
    UnsupportedModelError,
    compute_neuron_pair_importance_pon,
    plan_pruning,
    prune_neuron_pairs,
    zero_neurons_mlp,
)
from optipfair.arch.slots import read
from optipfair.arch.view import describe
from optipfair.bias.activations import remove_hooks
from optipfair.pruning import (
    get_activation_norms,
    run_calibration_forward_passes,
    setup_mlp_hooks_for_importance,
)
from optipfair.testing import tiny_model
from support.oracles import with_zeroed_neurons


def mlp_of(**overrides: Any) -> Any:
    return tiny_model("llama", **overrides).model.layers[0].mlp


@pytest.mark.parametrize("bias", [False, True])
def test_new_layers_compute_what_the_old_ones_do_with_the_neurons_zeroed(bias: bool) -> None:
    mlp = mlp_of(mlp_bias=bias)
    gate, up, down, kept = prune_neuron_pairs(mlp, 25)
    assert kept == gate.out_features == up.out_features == down.in_features == 30
    assert (down.bias is not None) is bias
    new = copy.deepcopy(mlp)
    new.gate_proj, new.up_proj, new.down_proj = gate, up, down
    scores = (mlp.gate_proj.weight.amax(1) + mlp.gate_proj.weight.amin(1).abs()) + (
        mlp.up_proj.weight.amax(1) + mlp.up_proj.weight.amin(1).abs()
    )
    zeroed = copy.deepcopy(mlp)
    zeroed.down_proj.weight.data[:, scores.argsort()[:10]] = 0
    values = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(new(values), zeroed(values), atol=1e-6, rtol=0)


def test_the_mlp_itself_stays_as_it_was(unchanged: Callable[..., Any]) -> None:
    model = tiny_model("llama").train()
    with unchanged(model):
        layers = prune_neuron_pairs(model.model.layers[0].mlp, 25)[:3]
    for layer in layers:  # no memory is shared, either
        layer.weight.data.zero_()
    assert model.model.layers[0].mlp.gate_proj.weight.abs().sum() > 0


def test_the_importance_function_gets_exactly_two_positional_tensors() -> None:
    mlp = mlp_of()
    calls: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def by_index(*args: Tensor, **kwargs: object) -> Tensor:
        calls.append((args, kwargs))
        return torch.arange(40)

    gate, _, down, kept = prune_neuron_pairs(mlp, 25, by_index)
    [(args, kwargs)] = calls
    assert len(args) == 2
    assert kwargs == {}
    assert torch.equal(args[0], mlp.gate_proj.weight)
    assert torch.equal(args[1], mlp.up_proj.weight)
    assert torch.equal(gate.weight, mlp.gate_proj.weight[10:])  # the highest scores stay
    assert torch.equal(down.weight, mlp.down_proj.weight[:, 10:])
    assert kept == 30


def test_any_of_the_four_functions_can_be_given() -> None:
    gate, *_ = prune_neuron_pairs(mlp_of(), 20, compute_neuron_pair_importance_pon)
    assert gate.weight.shape == (32, 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_new_layers_keep_dtype_mode_and_requires_grad(dtype: torch.dtype) -> None:
    mlp = mlp_of().to(dtype).eval()
    mlp.up_proj.requires_grad_(False)
    gate, up, down, _ = prune_neuron_pairs(mlp, 25)
    assert gate.weight.dtype == up.weight.dtype == down.weight.dtype == dtype
    assert (gate.weight.requires_grad, up.weight.requires_grad) == (True, False)
    assert not gate.training


def test_zero_percent_keeps_all_and_one_neuron_always_stays() -> None:
    assert prune_neuron_pairs(mlp_of(), 0)[3] == 40
    assert prune_neuron_pairs(mlp_of(), 99.99)[3] == 1


@pytest.mark.parametrize("percentage", [-1, 100, float("nan"), float("inf"), "20", True, None])
def test_impossible_percentages_are_refused(percentage: Any) -> None:
    with pytest.raises(ArgumentError, match="prune_percentage"):
        prune_neuron_pairs(mlp_of(), percentage)


@pytest.mark.parametrize(
    "mlp", [nn.Linear(2, 2), None, "mlp", tiny_model("gpt2").transformer.h[0].mlp,
            tiny_model("phi3").model.layers[0].mlp, tiny_model("llama")],
    ids=["linear", "none", "text", "gpt2", "fused", "model"],
)  # fmt: skip
def test_what_is_no_gated_mlp_is_refused(mlp: Any) -> None:
    with pytest.raises(ArgumentError, match="gate_proj, up_proj and down_proj"):
        prune_neuron_pairs(mlp, 20)


@pytest.mark.parametrize(
    "scores", [torch.ones(39), torch.ones(40, 1), [1.0] * 40, None, 3.0],
    ids=["short", "matrix", "list", "none", "number"],
)  # fmt: skip
def test_scores_of_another_shape_are_refused(scores: Any) -> None:
    with pytest.raises(ArgumentError, match=r"importance_fn returned.*\(40,\)"):
        prune_neuron_pairs(mlp_of(), 20, lambda _gate, _up: scores)


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_scores_that_cannot_be_ranked_are_refused(value: float) -> None:
    with pytest.raises(UnsupportedModelError, match="NaN or Inf"):
        prune_neuron_pairs(mlp_of(), 20, lambda _gate, _up: torch.full((40,), value))


@pytest.mark.parametrize("name", ["gate_proj", "up_proj", "down_proj"])
def test_nan_in_any_of_the_three_layers_is_refused(name: str) -> None:
    mlp = mlp_of()
    mlp.get_submodule(name).weight.data[3, 3] = float("nan")
    with pytest.raises(UnsupportedModelError, match="NaN or Inf"):
        prune_neuron_pairs(mlp, 20)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "opt", "falcon", "bloom", "mixtral"])
def test_zeroed_neurons_are_zero_in_every_tensor_and_others_stay(family: str) -> None:
    model = tiny_model(family)
    before = copy.deepcopy(model)
    assert zero_neurons_mlp(model, {1: [3, 5], 3: [0]}, show_progress=False) is model
    for mlp, old in zip(describe(model).mlps, describe(before).mlps, strict=True):
        drop = {1: [3, 5], 3: [0]}.get(mlp.layer, [])
        for slot, tensor in mlp.tensors.items():
            if slot.role == "bias":
                assert not tensor.data[drop].any()
                continue
            for role, matrix in read(old.tensors[slot].data, slot).items():
                expected = matrix.clone()
                expected[..., drop, :] = 0
                assert torch.equal(read(tensor.data, slot)[role], expected)


def test_zeroed_neurons_do_what_removed_neurons_do(logits_of: Callable[..., Tensor]) -> None:
    model = tiny_model("llama")
    plan = plan_pruning(model, pruning_percentage=20)
    expected = with_zeroed_neurons(model, plan)
    gone = {c.layer: sorted(set(range(40)) - set(c.keep[0])) for c in plan.width_cuts}
    assert torch.equal(
        logits_of(zero_neurons_mlp(model, gone, show_progress=False)), logits_of(expected)
    )


@pytest.mark.parametrize(
    "neurons", [[3, 1], (1, 3), range(1, 4, 2), torch.tensor([1, 3]), torch.tensor([1, 3]).numpy()],
    ids=repr,
)  # fmt: skip
def test_any_sequence_of_integers_names_neurons(neurons: Any) -> None:
    model = zero_neurons_mlp(tiny_model("llama"), {0: neurons}, show_progress=False)
    up = model.model.layers[0].mlp.up_proj.weight
    assert up.abs().sum(dim=1).eq(0).nonzero().flatten().tolist() == [1, 3]


@pytest.mark.parametrize("neurons", [{}, {0: []}], ids=str)
def test_nothing_to_zero_changes_nothing(neurons: Any, unchanged: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with unchanged(model):
        zero_neurons_mlp(model, neurons, show_progress=False)


@pytest.mark.parametrize(
    ("neurons", "match"),
    [
        ([1, 2], "list.*mapping"),
        (None, "NoneType.*mapping"),
        ({4: [1]}, "layer 4.*0 to 3"),
        ({-1: [1]}, "layer -1"),
        ({"0": [1]}, "layer '0'"),
        ({True: [1]}, "layer True"),
        ({1.0: [1]}, "layer 1.0"),
        ({0: [40]}, r"neuron_indices\[0\] holds 40.*0 to 39"),
        ({0: [-1]}, "holds -1"),
        ({0: [1.0]}, "holds 1.0"),
        ({0: [True]}, "holds True"),
        ({0: ["1"]}, "holds '1'"),
        ({0: "12"}, "no sequence"),
        ({0: 3}, "no sequence"),
        ({0: None}, "no sequence"),
        ({0: [1], 9: [1]}, "layer 9"),
        ({0: [1], 1: [99]}, "holds 99"),
    ],
    ids=str,
)
def test_unknown_layers_and_neurons_are_refused(
    neurons: Any, match: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, match, ArgumentError):
        zero_neurons_mlp(model, neurons, show_progress=False)


def test_a_layer_of_several_mlps_has_no_single_numbering(refused: Callable[..., Any]) -> None:
    model = tiny_model("qwen2_moe")
    with refused(model, "experts, shared_expert", UnsupportedModelError):
        zero_neurons_mlp(model, {0: [1]}, show_progress=False)


def test_scores_of_ones_own_take_the_place_of_a_function() -> None:
    mlp = mlp_of()
    gate, _, _, kept = prune_neuron_pairs(mlp, 25, custom_importance_scores=range(40))
    assert kept == 30
    assert torch.equal(gate.weight, mlp.gate_proj.weight[10:])


def test_activation_norms_choose_as_pruning_with_data_does() -> None:
    model, batches = tiny_model("llama"), [torch.arange(60).reshape(3, 20)]
    plan = plan_pruning(model, pruning_percentage=25, dataloader=batches)
    hooks = setup_mlp_hooks_for_importance(model)
    run_calibration_forward_passes(model, batches, show_progress=False)
    remove_hooks(hooks)
    norms = get_activation_norms(hooks)
    for cut in plan.width_cuts:
        mlp = model.model.layers[cut.layer].mlp
        expected = mlp.up_proj.weight[list(cut.keep[0])]
        for given in (norms, norms[cut.layer]):
            _, up, _, _ = prune_neuron_pairs(mlp, 25, activation_norms=given, layer_idx=cut.layer)
            assert torch.equal(up.weight, expected)


def test_a_divisor_rounds_the_new_layers_down() -> None:
    mlp = mlp_of(intermediate_size=160)
    assert prune_neuron_pairs(mlp, 10, expansion_divisor=64)[3] == 128


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"custom_importance_scores": range(39)}, r"scores has shape \(39,\).* 40 neurons"),
        ({"custom_importance_scores": [float("nan")] * 40}, "custom_importance_scores.* NaN"),
        ({"activation_norms": {1: range(40)}}, r"layer_idx=None .* \[1\]"),
        ({"activation_norms": {1: range(40)}, "layer_idx": 2}, "layer_idx=2"),
        ({"activation_norms": range(40), "custom_importance_scores": range(40)}, "exclusive"),
        (
            {"activation_norms": range(40), "importance_fn": max},
            "importance_fn and activation_norms",
        ),
        ({"expansion_divisor": 48}, "expansion_divisor must be one of"),
    ],
    ids=str,
)
def test_what_cannot_say_which_neurons_stay_is_refused(more: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        prune_neuron_pairs(mlp_of(), 20, **more)
