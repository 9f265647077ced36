"""`describe` finds the layers and MLPs of a model, by the table or by structure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from optipfair import UnsupportedModelError, get_model_layers, validate_model_for_glu_pruning
from optipfair.arch.families import FAMILIES
from optipfair.arch.slots import read
from optipfair.arch.twin import build_on_meta
from optipfair.arch.view import describe
from optipfair.testing import TINY_FAMILIES, tiny_model

PLAIN_FAMILIES = {"gpt2", "opt", "gpt_neox", "falcon", "bloom"}


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_all_layers_are_found_in_order(family: str) -> None:
    model = tiny_model(family)
    layers = get_model_layers(model)
    assert len(layers) == model.config.num_hidden_layers
    in_order = [module for module in model.modules() if module in set(layers)]
    assert all(found is module for found, module in zip(layers, in_order, strict=True))


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_every_layer_has_an_mlp_of_the_configured_width(family: str) -> None:
    view = describe(tiny_model(family))
    assert all(layer.mlps for layer in view.layers)
    for mlp in view.mlps:
        stated = mlp.spec.width_key and getattr(view.text_config, mlp.spec.width_key)
        assert mlp.width == (stated or 4 * view.text_config.hidden_size)
        assert {tuple(matrix.shape[-2:]) for matrix in mlp.matrices().values()} == {
            (mlp.width, view.text_config.hidden_size)
        }


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_gated_models_are_valid_for_glu_pruning_and_plain_ones_not(family: str) -> None:
    assert validate_model_for_glu_pruning(tiny_model(family)) is (family not in PLAIN_FAMILIES)


@pytest.mark.parametrize(
    "model", [nn.Linear(2, 2), nn.Sequential(), nn.ModuleList([nn.ReLU()])], ids=repr
)
def test_validation_never_raises_for_a_model(model: Any) -> None:
    assert validate_model_for_glu_pruning(model) is False


def test_validation_says_no_to_a_model_without_layers() -> None:
    assert validate_model_for_glu_pruning(tiny_model("llama", num_hidden_layers=0)) is False


def test_fused_gate_and_up_are_read_as_two_matrices() -> None:
    model = tiny_model("phi3")
    mlp = describe(model).mlps[0]
    whole = model.model.layers[0].mlp.gate_up_proj.weight
    assert torch.equal(mlp.matrices()["gate"], whole[: mlp.width])
    assert torch.equal(mlp.matrices()["up"], whole[mlp.width :])


def test_conv1d_neurons_are_columns_of_the_stored_weight() -> None:
    model = tiny_model("gpt2")
    mlp = describe(model).mlps[0]
    assert torch.equal(mlp.matrices()["up"], model.transformer.h[0].mlp.c_fc.weight.T)
    assert torch.equal(mlp.matrices()["down"], model.transformer.h[0].mlp.c_proj.weight)


def test_describing_leaves_the_model_as_it_was(unchanged: Callable[..., Any]) -> None:
    model = tiny_model("qwen2_moe")
    with unchanged(model):
        view = describe(model)
        read(view.mlps[0].tensors[view.mlps[0].spec.down], view.mlps[0].spec.down)


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), "gpt2", None, {}], ids=repr)
def test_what_is_no_transformers_model_is_refused(thing: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="PreTrainedModel"):
        describe(thing)


@pytest.mark.parametrize("thing", ["gpt2", None, {}], ids=repr)
def test_the_layers_of_what_is_no_module_are_refused(thing: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="PreTrainedModel"):
        get_model_layers(thing)


@pytest.mark.parametrize("family", ["blt", None])
def test_a_model_whose_layers_are_not_found_has_none(family: str | None) -> None:
    assert get_model_layers(tiny_model(family) if family else nn.Linear(2, 2)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "olmoe"])
def test_experts_of_which_there_are_none_are_refused(family: str) -> None:
    config = tiny_model(family).config
    field = "num_local_experts" if family == "mixtral" else "num_experts"
    field = "n_routed_experts" if family == "deepseek_v3" else field
    setattr(config, field, 0)
    with pytest.raises(UnsupportedModelError, match=f"{family!r} has 0 experts .* at least one"):
        describe(build_on_meta(config))


def test_a_model_without_layers_is_refused(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama", num_hidden_layers=0)
    with refused(model, "decoder layers", UnsupportedModelError):
        describe(model)


def test_a_model_of_unknown_structure_is_refused_with_the_known_families() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'blt'.*llama"):
        describe(tiny_model("blt"))


def test_every_family_has_a_tiny_config_and_examples() -> None:
    assert all(spec.tiny and spec.examples for spec in FAMILIES.values())
    assert set(TINY_FAMILIES) == set(FAMILIES)


@pytest.mark.parametrize("shape", [(0,), (0, 0)], ids=str)
@pytest.mark.parametrize("name", ["mlp.down_proj", "self_attn.q_proj", "input_layernorm"])
def test_weights_that_other_processes_hold_are_called_so(name: str, shape: tuple[int, ...]) -> None:
    model = tiny_model("llama")
    model.get_submodule(f"model.layers.1.{name}").weight.data = torch.empty(shape)
    with pytest.raises(UnsupportedModelError, match=rf"layers\.1\.{name}\.weight is empty.*FSDP"):
        describe(model)
