"""Models whose layers differ in width: saved, loaded, pruned again, and never read as another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from optipfair import PruningPlan, apply_plan, load_model, plan_pruning, prune_model
from optipfair.arch.heterogeneous import build, overrides, with_overrides
from optipfair.arch.view import describe
from optipfair.errors import ArgumentError, UnsupportedModelError
from optipfair.testing import tiny_model
from support.oracles import with_zeroed_neurons

# Gated, fused, experts (with shared ones), Conv1D, on the layer itself, interleaved, multimodal,
# a list by layer in the config.
KINDS = ["llama", "phi3", "qwen2_moe", "gpt2", "opt", "gpt_oss", "gemma3", "gemma3n_text"]
IDS = torch.arange(12)[None]
pytestmark = pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")


def cut(model: Any, **request: Any) -> Any:
    return prune_model(model, show_progress=False, **request)


def widths(model: Any) -> list[int]:
    return [mlp.width for mlp in describe(model).mlps]


@pytest.fixture
def again(tmp_path: Path) -> Callable[[Any], Any]:
    """Save a model and load it with `load_model`, checking that it answers the same."""

    def check(model: Any) -> Any:
        model.save_pretrained(tmp_path / "model")
        loaded = load_model(tmp_path / "model")
        assert type(loaded) is type(model)
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)
        return loaded

    return check


@pytest.mark.parametrize("family", KINDS)
def test_chosen_layers_are_cut_saved_and_loaded(family: str, again: Callable[[Any], Any]) -> None:
    model = tiny_model(family)
    plan = plan_pruning(model, pruning_percentage=40, layer_indices=[1])
    assert {cut.layer for cut in plan.width_cuts} == {1}
    zeroed = with_zeroed_neurons(model, plan)
    apply_plan(model, plan)
    torch.testing.assert_close(model(IDS).logits, zeroed(IDS).logits, atol=1e-5, rtol=0)
    loaded = again(model)
    tokens = [each.generate(IDS, max_new_tokens=4, do_sample=False) for each in (model, loaded)]
    assert torch.equal(*tokens)


@pytest.mark.parametrize("family", KINDS)
def test_plain_transformers_loads_it_right_or_fails(family: str, tmp_path: Path) -> None:
    model = cut(tiny_model(family), pruning_percentage=40, layer_indices=[1])
    model.save_pretrained(tmp_path)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    except (RuntimeError, ValueError, AttributeError):
        return
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("family", KINDS)
def test_prunings_of_such_a_model_compose(family: str, again: Callable[[Any], Any]) -> None:
    model = again(cut(tiny_model(family), pruning_percentage=40, layer_indices=[1]))
    before = widths(model)
    model = again(cut(model, pruning_percentage=50, layer_indices=[0]))
    assert sum(widths(model)) < sum(before)
    if family != "gemma3n_text":  # its depth cannot be pruned
        last = len(describe(model).layers) - 1
        again(cut(model, pruning_type="DEPTH", layer_indices=[last]))


def test_width_after_depth_of_a_model_whose_layers_differ(again: Callable[[Any], Any]) -> None:
    model = cut(tiny_model("llama"), pruning_percentage=40, layer_indices=[2])  # 40, 40, 24, 40
    model = again(cut(model, pruning_type="DEPTH", layer_indices=[0]))
    assert widths(model) == [40, 24, 40]
    model = again(cut(model, pruning_percentage=50))
    assert widths(model) == [20, 12, 20]
    assert overrides(model.config) == {1: {"intermediate_size": 12}}


def test_layers_that_agree_again_need_no_override(tmp_path: Path) -> None:
    model = cut(tiny_model("llama"), pruning_percentage=40, layer_indices=[1])
    cut(model, expansion_rate=150)
    assert widths(model) == [24, 24, 24, 24]
    model.save_pretrained(tmp_path)
    assert "per_layer_config" not in json.loads((tmp_path / "config.json").read_text())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_removing_the_layer_that_differs_leaves_a_plain_config() -> None:
    model = cut(tiny_model("llama"), pruning_percentage=40, layer_indices=[1])
    cut(model, pruning_type="DEPTH", layer_indices=[1])
    assert "per_layer_config" not in model.config.to_dict()
    assert model.config.intermediate_size == 40


def test_an_expansion_rate_leaves_layers_that_are_below_it() -> None:
    model = cut(tiny_model("llama"), pruning_percentage=70, layer_indices=[1])  # 40, 12, 40, 40
    assert widths(cut(model, expansion_rate=125)) == [20, 12, 20, 20]


@pytest.mark.parametrize("indices", [[1], (1,), range(1, 2), torch.tensor([1])], ids=repr)
def test_layer_indices_may_be_any_sequence_of_integers(indices: Any) -> None:
    model = tiny_model("llama")
    assert widths(cut(model, pruning_percentage=50, layer_indices=indices)) == [40, 20, 40, 40]


@pytest.mark.parametrize(
    ("indices", "match"),
    [
        ([], "cannot be an empty list"),
        ([4], "4 layers"),
        ([True], "no whole number"),
        ([1, 1], "duplicates"),
    ],
)
def test_layer_indices_that_cannot_be_are_refused(
    indices: Any, match: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, match, ArgumentError):
        cut(model, pruning_percentage=50, layer_indices=indices)


def test_all_layers_may_be_named() -> None:
    model = cut(tiny_model("llama"), pruning_percentage=50, layer_indices=range(4))
    assert widths(model) == [20] * 4
    assert model.config.intermediate_size == 20


def test_layers_without_an_mlp_cannot_be_named(refused: Callable[..., Any]) -> None:
    model = tiny_model("zamba")
    without = [layer.index for layer in describe(model).layers if not layer.mlps]
    with refused(model, "have no MLP", ArgumentError):
        cut(model, pruning_percentage=50, layer_indices=without[:1])


def test_a_shared_mlp_cannot_be_cut_in_one_of_its_layers(refused: Callable[..., Any]) -> None:
    model = tiny_model("zamba")
    owner = describe(model).mlps[0].layer
    with refused(model, "share their", ArgumentError):
        cut(model, pruning_percentage=50, layer_indices=[owner])


def test_a_family_that_cannot_be_initialized_so_is_refused(refused: Callable[..., Any]) -> None:
    model = tiny_model("gemma4_text")
    if not hasattr(model.config, "is_heterogeneous"):
        pytest.skip("this transformers has no configs whose layers differ, and none is needed")
    with refused(model, "cannot be initialized", UnsupportedModelError):
        cut(model, pruning_percentage=50, layer_indices=[1])


def test_the_plan_of_chosen_layers_survives_json() -> None:
    plan = plan_pruning(tiny_model("llama"), pruning_percentage=40, layer_indices=[1])
    assert PruningPlan.from_json(plan.to_json()) == plan


def test_heads_that_differ_by_layer_load_too(tmp_path: Path) -> None:
    """Any field may differ, not only ours: the file then needs tensors of those shapes."""
    model = tiny_model("llama")
    config = with_overrides(model.config, {2: {"num_key_value_heads": 1}}, {})
    mixed: Any = build(type(model), config).eval()
    mixed.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.model.layers[2].self_attn.k_proj.weight.shape == (4, 16)
    assert torch.equal(loaded(IDS).logits, mixed(IDS).logits)


def test_a_model_loaded_so_moves_saves_and_changes_its_attention_as_any(tmp_path: Path) -> None:
    cut(tiny_model("llama"), pruning_percentage=40, layer_indices=[1]).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    expected: Tensor = model(IDS).logits
    model.set_attn_implementation("eager")
    assert all(layer.self_attn.config is model.config for layer in model.model.layers)
    torch.testing.assert_close(model(IDS).logits, expected, atol=1e-5, rtol=0)


def test_the_width_in_the_config_can_be_read_where_layers_differ(
    again: Callable[[Any], Any],
) -> None:
    model = cut(tiny_model("llama"), pruning_percentage=40, layer_indices=[1])
    loaded = again(model)
    assert model.config.intermediate_size == loaded.config.intermediate_size == 40
    assert "intermediate_size" in dir(loaded.config)
    assert overrides(again(loaded).config) == {1: {"intermediate_size": 24}}
