"""Decisions: what is random in them, what they refuse, and that the model stays as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from optipfair import (
    ArgumentError,
    DataError,
    PruningWarning,
    UnknownNameError,
    UnsupportedModelError,
    plan_pruning,
    prune_model,
)
from optipfair.arch.view import describe
from optipfair.pruning.cut.plan import PruningPlan, WidthCut
from optipfair.pruning.cut.surgery import apply_plan
from optipfair.testing import tiny_model
from support.decisions import DATA, NEED_DATA, assert_same_weights, decision, kept, pruned, texts

pytestmark = pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")


# Random choice.


def test_random_depends_on_the_seed_and_the_place_only(unchanged: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with unchanged(model):
        found = decision(model, "RANDOM", data=None)
    assert kept(decision(model, "RANDOM", data=None)) == kept(found)
    assert kept(decision(model, "RANDOM", data=None, layer_indices=[2])) == kept(found)[2:3]
    assert kept(decision(model, "RANDOM", data=None, layer_indices=[3, 1])) == kept(found)[1::2]
    assert len(set(kept(found))) == len(kept(found))
    assert kept(decision(model, "RANDOM", data=None, seed=1)) != kept(found)


def test_random_differs_between_experts() -> None:
    found = decision(tiny_model("mixtral"), "RANDOM", data=None)
    assert all(len(set(keep)) == len(keep) for keep in kept(found))


# What is refused, and that the model stays as it was.

NO_DATA: dict[str, Any] = {"dataloader": None}


@pytest.mark.parametrize(
    ("options", "match", "kind"),
    [
        *[({"method": name, **NO_DATA}, "Give a dataloader", ArgumentError) for name in NEED_DATA],
        ({"method": "MAW", "compensate": True, **NO_DATA}, "needs calibration", ArgumentError),
        ({"method": "RANDOM", "compensate": True, **NO_DATA}, "dataloader", ArgumentError),
        ({"method": "VOW"}, "only 'MAW'", ArgumentError),
        ({"method": "VOW", "compensate": False}, "only 'MAW'", ArgumentError),
        ({"compensate": 1}, "compensate=1 is neither", ArgumentError),
        ({"compensate": "yes"}, "compensate='yes' is neither", ArgumentError),
        ({"sequential": 0}, "sequential=0 is neither", ArgumentError),
        ({"compensate": "no", "method": "MAW", **NO_DATA}, "compensate='no' is nei", ArgumentError),
        ({"compensate": "no", **NO_DATA}, "compensate='no' is neither", ArgumentError),
        ({"sequential": True, "method": "MAW", **NO_DATA}, "sequential=True needs", ArgumentError),
        ({"sequential": True, "method": "MAW"}, "sequential=True.*method='MAW'", ArgumentError),
        ({"seed": -1}, "seed=-1 is no whole", ArgumentError),
        ({"seed": 1.5}, "seed=1.5 is no whole", ArgumentError),
        ({"seed": None}, "seed=None is no whole", ArgumentError),
        ({"method": "AUTOO"}, "Did you mean 'AUTO'", UnknownNameError),
        ({"dataloader": []}, "no batch", DataError),
        ({"dataloader": ["a text"]}, "str", DataError),
        ({"dataloader": 7}, "dataloader is a int", DataError),
        ({"layer_indices": [9]}, "9", ArgumentError),
    ],
)
def test_wrong_arguments_are_refused(
    options: dict[str, Any], match: str, kind: type[Exception], refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, match, kind):
        pruned(model, **options)


@pytest.mark.parametrize("options", [{"compensate": True}, {"sequential": True}], ids=str)
def test_removing_layers_takes_no_options_of_neurons_without_data(
    options: dict[str, Any], refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, next(iter(options)), ArgumentError):
        prune_model(model, "DEPTH", num_layers_to_remove=1, show_progress=False, **options)


def test_a_plan_without_its_tensors_is_refused(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    plan = plan_pruning(model, "MLP_GLU", "AUTO", 40, dataloader=DATA)
    bare = PruningPlan.from_json(plan.to_json())
    with refused(model, "by tensors that it does not hold. Give the file", ArgumentError):
        apply_plan(model, bare)
    expected = pruned(tiny_model("llama"))
    assert_same_weights(apply_plan(model, bare, plan.replacements), expected)


def test_a_plan_of_counts_is_refused(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    plan = PruningPlan("llama", 4, (0, 1, 2, 3), (WidthCut(0, "mlp", 40, count=8),))
    assert PruningPlan.from_json(plan.to_json()) == plan
    with refused(model, "says how many neurons of mlp of layer 0 stay, not which", ArgumentError):
        apply_plan(model, plan)


@pytest.mark.parametrize("family", ["bloom", "xlm", "openai-gpt", "jetmoe"])
def test_models_that_cannot_be_pruned_so_are_left_as_they_were(
    family: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model(family).train()
    with refused(model, ".", UnsupportedModelError):
        pruned(model)


@pytest.mark.parametrize(
    "options", [{}, {"method": "MAW", "compensate": True}, {"method": "FLAP"}], ids=str
)
def test_layers_that_share_an_mlp_are_refused(
    options: dict[str, Any], refused: Callable[..., Any]
) -> None:
    """Each would want other neurons, or other weights, of the same tensors."""
    model = tiny_model("llama")
    model.model.layers[2].mlp = model.model.layers[0].mlp
    with refused(model, "Layers 0 and 2 share their mlp", UnsupportedModelError):
        pruned(model, **options)


def test_layers_that_share_a_bias_are_refused(refused: Callable[..., Any]) -> None:
    model = tiny_model("gpt2")
    layers = model.transformer.h
    layers[2].mlp.c_proj.bias = layers[0].mlp.c_proj.bias
    with refused(model, "Layers 0 and 2 share their mlp", UnsupportedModelError):
        pruned(model)


def test_a_bias_that_nothing_is_cut_before_takes_no_replacement(
    refused: Callable[..., Any],
) -> None:
    model = tiny_model("gpt2")
    found = decision(model, layer_indices=[1])
    other = {
        (2, *key[1:]): tensor for key, tensor in found.replacements.items() if key[2][-1] == "s"
    }
    assert other
    with refused(model, "replacement of 'mlp.c_proj.bias' in layer 2", ArgumentError):
        apply_plan(model, found, other)


def test_nan_activations_are_refused_naming_the_layer(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    model.model.layers[1].post_attention_layernorm.weight.data[0] = float("inf")
    with refused(model, "(?s)layer 1.*NaN or Inf", (DataError, UnsupportedModelError)):
        pruned(model)


def test_an_error_in_a_late_layer_leaves_the_model_as_it_was(unchanged: Callable[..., Any]) -> None:
    """After the first layers were decided: their copies were cut, the live ones not."""
    model = tiny_model("llama").train()
    model.model.layers[1].eval()
    calls: list[int] = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) > 6:
            raise KeyError("from the model")

    model.model.layers[3].register_forward_pre_hook(fail)
    with unchanged(model), pytest.raises(KeyError, match="from the model"):
        pruned(model)


@pytest.mark.parametrize("method", [*NEED_DATA, "RANDOM", "MAW"])
def test_pruning_leaves_the_global_random_state(method: str) -> None:
    states = torch.get_rng_state(), random.getstate()
    rows: Any = torch.tensor([row[:8] for row in texts()])
    loader: Any = DataLoader(rows, batch_size=8, shuffle=True)
    pruned(tiny_model("llama"), method=method, dataloader=loader)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_data_of_one_token_are_warned_of_and_nothing_is_fitted_to_them() -> None:
    model, data = tiny_model("llama"), [torch.full((8, 40), 3)]
    said = pytest.warns(PruningWarning, match="hold one distinct token, so what is chosen")
    with said, pytest.warns(PruningWarning, match="Too few calibration tokens reached mlp of"):
        plan = plan_pruning(model, "MLP_GLU", "AUTO", 50, dataloader=data)
    assert [row["error"] for row in plan.request["reconstruction_errors"]] == [None] * 4
    for mlp in describe(model).mlps:
        chosen = list(plan.width_cuts[mlp.layer].keep[0])
        new = plan.replacements[mlp.layer, mlp.spec.name, mlp.spec.down.name]
        assert torch.equal(new, mlp.tensors[mlp.spec.down][:, chosen])


def test_one_sequence_is_warned_of_in_real_models() -> None:
    model, data = tiny_model("llama", intermediate_size=1024), [torch.arange(40)[None] % 11]
    with pytest.warns(PruningWarning, match="hold one distinct sequence, so what is chosen"):
        plan_pruning(model, "MLP_GLU", "WACT", 50, dataloader=[*data, *data])


def test_copies_of_a_sequence_are_judged_by_as_one() -> None:
    model, ids = tiny_model("llama"), torch.arange(200)[None] % 37
    alone = plan_pruning(model, "MLP_GLU", "AUTO", 50, dataloader=[ids])
    copies = plan_pruning(model, "MLP_GLU", "AUTO", 50, dataloader=[ids.repeat(5, 1)])
    for one, five in zip(
        alone.request["reconstruction_errors"],
        copies.request["reconstruction_errors"],
        strict=True,
    ):
        assert one["error"] == pytest.approx(five["error"], rel=1e-3)
