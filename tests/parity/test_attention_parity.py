"""Attention: removed heads == heads of which nothing comes out, in memory, on disk, reloaded."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from optipfair import PruningPlan, apply_plan, plan_pruning, prune_checkpoint, prune_model
from optipfair.errors import UnsupportedModelError
from optipfair.loading.quiet import quiet_transformers
from optipfair.testing import tiny_model
from optipfair.testing.toys import UNBUILDABLE
from support.oracles import greedy, plain_attributes, with_zeroed_heads
from support.walk import (
    MODEL_TYPES,
    generated,
    logits,
    same_tensors,
    save_and_reload,
    skip_without_toy,
)

LISTED = [
    *("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
    *("gemma2", "gemma3_text", "phi3"),
]
# Sinks, gates among the queries, norms of each head, biases, layers without attention, another
# name of the projection out.
OTHERS = ["gpt_oss", "qwen3_next", "cohere", "starcoder2", "nemotron_h", "phi"]
CASES = [
    (family, unit)
    for family in (*LISTED, *OTHERS)
    for unit in ("group", "head")
    if (family, unit) not in [("phi3", "head")]
]
cases = pytest.mark.parametrize(("family", "unit"), CASES)


def toy(family: str) -> Any:
    """A toy model with four groups of two heads, where the family has such a toy."""
    more = {"num_attention_heads": 8, "num_key_value_heads": 4}
    return tiny_model(family, **(more if family in LISTED else {}))


def ask(unit: str, method: str = "PPM") -> dict[str, Any]:
    return {
        "pruning_type": "ATTENTION",
        "neuron_selection_method": method,
        "pruning_percentage": 50,
        "attention_unit": unit,
    }


@cases
def test_removed_heads_equal_heads_of_which_nothing_comes_out(
    family: str, unit: str, logits_of: Callable[..., Tensor]
) -> None:
    model = toy(family)
    plan = plan_pruning(model, **ask(unit, "PON"))
    zeroed, original = logits_of(with_zeroed_heads(model, plan)), logits_of(model)
    pruned = logits_of(apply_plan(model, plan))
    torch.testing.assert_close(pruned, zeroed, atol=1e-5, rtol=0)
    assert (pruned - original).abs().max() > 1e-3, "the oracle must see the cut"


@cases
def test_a_saved_model_loads_in_plain_transformers_bit_for_bit(
    family: str, unit: str, logits_of: Callable[..., Tensor], reloaded: Callable[..., Any]
) -> None:
    model = prune_model(toy(family), **ask(unit), show_progress=False)
    loaded = reloaded(model)
    assert same_tensors(loaded, model)
    assert torch.equal(logits_of(loaded), logits_of(model))
    expected = dict(loaded.named_modules())
    for name, module in model.named_modules():
        if name:  # transformers notes on the model itself that it was loaded
            assert plain_attributes(module) == plain_attributes(expected[name]), name


@cases
def test_it_generates_with_and_without_cache(family: str, unit: str, token_ids: Tensor) -> None:
    model = prune_model(toy(family), **ask(unit), show_progress=False)
    assert greedy(model, token_ids, cache=True) == greedy(model, token_ids, cache=False)


@pytest.mark.parametrize(("unit", "heads", "groups"), [("group", 4, 2), ("head", 4, 4)])
@pytest.mark.parametrize("family", [family for family in LISTED if family != "phi3"])
def test_the_config_states_the_heads_and_their_size(
    family: str, unit: str, heads: int, groups: int
) -> None:
    model = toy(family)
    size = model.model.layers[0].self_attn.head_dim
    config = prune_model(model, **ask(unit), show_progress=False).config
    found = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    assert found == (heads, groups, size)


def test_where_each_head_has_its_own_keys_a_group_is_a_head(
    logits_of: Callable[..., Tensor],
) -> None:
    model = tiny_model("llama", num_key_value_heads=4)
    plan = plan_pruning(model, **ask("group"))
    assert {(cut.width, cut.kept) for cut in plan.width_cuts} == {(4, 2)}
    zeroed = with_zeroed_heads(model, plan)
    apply_plan(model, plan)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (2, 2)
    torch.testing.assert_close(logits_of(model), logits_of(zeroed), atol=1e-5, rtol=0)


ON_DISK = [
    (*case, method)
    for case in CASES
    for method in ("PPM", "VOW", "PON", "L2")
    if method in ("PPM", "PON") or case[0] in ("llama", "phi3")
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("family", "unit", "method"), ON_DISK)
def test_on_disk_it_is_bit_for_bit_as_in_memory(
    family: str, unit: str, method: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = toy(family).to(dtype)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "model")
    result = prune_checkpoint(tmp_path / "model", tmp_path / "streamed", **ask(unit, method))
    assert result.streamed
    prune_model(model, **ask(unit, method), show_progress=False)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "saved")
    file = "model.safetensors"
    found, expected = load_file(tmp_path / "streamed" / file), load_file(tmp_path / "saved" / file)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    configs = [(tmp_path / name / "config.json").read_text() for name in ("streamed", "saved")]
    assert configs[0] == configs[1]


def test_a_plan_of_attention_is_carried_out_from_its_file(tmp_path: Path) -> None:
    model = toy("qwen3")
    with quiet_transformers():
        model.save_pretrained(tmp_path / "model")
    plan = plan_pruning(model, **ask("head"))
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan
    result = prune_checkpoint(
        tmp_path / "model", tmp_path / "out", plan=tmp_path / "plan.json", verify="full"
    )
    assert result.streamed and result.plan == plan
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Kept 4 of 8 query heads in each layer's attention." in card
    assert "attention-pruning" in card


def test_data_decide_and_compensate_for_a_checkpoint_as_for_a_model(tmp_path: Path) -> None:
    data = [{"input_ids": torch.arange(48).view(2, 24) * 5 % 200 + i} for i in range(20)]
    model = toy("qwen3")
    with quiet_transformers():
        model.save_pretrained(tmp_path / "model")
    prune_checkpoint(tmp_path / "model", tmp_path / "out", **ask("group", "AUTO"), dataloader=data)
    prune_model(model, **ask("group", "AUTO"), dataloader=data, show_progress=False)
    found = load_file(tmp_path / "out" / "model.safetensors")
    state = model.state_dict()
    assert all(torch.equal(found[name], state[name]) for name in found)


def every_type() -> list[Any]:
    """All model types that transformers builds; slow, since the others stand for them."""
    return [
        pytest.param(name, marks=[pytest.mark.slow])
        for name in MODEL_TYPES
        if name not in UNBUILDABLE
    ]


@pytest.mark.filterwarnings("ignore")  # transformers warns about some of its own toy models
@pytest.mark.parametrize("unit", ["group", "head"])
@pytest.mark.parametrize("model_type", every_type())
def test_every_model_type_is_pruned_right_or_refused(model_type: str, unit: str) -> None:
    skip_without_toy(model_type)
    assert_served_or_refused(model_type, unit)


@pytest.mark.parametrize("unit", ["group", "head"])
@pytest.mark.parametrize("model_type", ["gpt_oss", "deepseek_v3", "olmo2", "doge"])
def test_so_it_is_for_one_of_each_kind(model_type: str, unit: str) -> None:
    assert_served_or_refused(model_type, unit)


def assert_served_or_refused(model_type: str, unit: str) -> None:
    model = tiny_model(model_type)
    victim = copy.deepcopy(model)
    try:
        plan = plan_pruning(victim, **ask(unit))
        apply_plan(victim, plan)
    except UnsupportedModelError:
        assert same_tensors(victim, model), "a refused call changed the model"
        return
    pruned = logits(victim)
    torch.testing.assert_close(pruned, logits(with_zeroed_heads(model, plan)), atol=1e-5, rtol=0)
    reloaded = save_and_reload(victim)
    torch.testing.assert_close(logits(reloaded), pruned, atol=1e-5, rtol=0)
    assert generated(victim) == generated(reloaded)
    assert (generated(model) is None) == (generated(victim) is None)


REFUSED = {
    ("bloom", "group"): "no attention of a known form",
    ("gpt2", "group"): "no attention of a known form",
    ("deepseek_v3", "group"): "no attention of a known form",
    ("mamba", "group"): "no attention of a known form",
    ("opt", "group"): "does not state how many heads self_attn.q_proj has",
    ("bart", "group"): r"layer 0 has several attentions \(self_attn, encoder_attn\)",
    ("olmo2", "group"): "q_norm.weight normalizes over all heads",
    ("bitnet", "head"): "attn_sub_norm.weight normalizes over all heads",
    ("diffllama", "head"): "self_attn.lambda_q1 belongs to no head by itself",
    ("minimax_m3_vl_text", "group"): "indexer.q_proj.weight belongs to no head by itself",
    ("doge", "group"): r"with fewer heads self_attn.dt_proj.weight would be \(1, 8\)",
    ("gemma3n_text", "group"): "some layers use the keys and values of others",
    ("recurrent_gemma", "head"): "the number of heads also governs temporal_block",
    ("phi3", "head"): 'queries, keys and values in one; use attention_unit="group"',
    ("phi", "head"): 'has one query head, which must stay; use attention_unit="group"',
}


@pytest.mark.parametrize(("family", "unit"), REFUSED)
def test_what_cannot_be_cut_is_refused_with_the_reason(
    family: str, unit: str, refused: Callable[..., Any]
) -> None:
    more = {"num_key_value_heads": 4} if family == "phi" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a toy model
        model = tiny_model(family, **more)
    with refused(model, REFUSED[family, unit], UnsupportedModelError):
        prune_model(model, **ask(unit), show_progress=False)


def test_one_group_must_stay(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama", num_key_value_heads=1)
    with refused(model, 'one key/value group, which must stay; use attention_unit="head"'):
        prune_model(model, **ask("group"), show_progress=False)


def test_a_number_that_the_config_cannot_state_is_refused_naming_those_that_it_can(
    refused: Callable[..., Any], tmp_path: Path
) -> None:
    model = toy("llama")  # hidden size 16: six heads do not divide it
    reason = r"cannot state that 3 of 4 kv_groups stay: .*It can state.*: 1 \(75 %\), 2 \(50 %\)\."
    with refused(model, reason, UnsupportedModelError):
        prune_model(model, "ATTENTION", pruning_percentage=25, show_progress=False)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match=reason):
        prune_checkpoint(tmp_path / "model", tmp_path / "out", "ATTENTION", pruning_percentage=25)
    assert not (tmp_path / "out").exists()


def test_a_plan_with_other_numbers_of_heads_in_each_group_is_refused(
    refused: Callable[..., Any],
) -> None:
    model = tiny_model("llama")
    text = plan_pruning(model, **ask("head")).to_json()
    wrong = PruningPlan.from_json(re.sub(r'"keep": \[\s*"[^"]*"', '"keep": ["0-1"', text))
    with refused(model, r"keeps \[2, 0\] of query_heads.*the same number must stay in every group"):
        apply_plan(model, wrong)


@pytest.mark.parametrize("unit", ["group", "head"])
def test_a_budget_keeps_the_most_units_that_fit(unit: str) -> None:
    model = toy("qwen3")
    half = prune_model(copy.deepcopy(model), **ask(unit), show_progress=False)
    limit = sum(parameter.numel() for parameter in half.parameters())
    plan = plan_pruning(model, "ATTENTION", attention_unit=unit, target_params=limit)
    units = 4 if unit == "group" else 8
    assert {(cut.width, cut.kept) for cut in plan.width_cuts} == {(units, units // 2)}


def test_a_smaller_budget_takes_more_of_them(refused: Callable[..., Any]) -> None:
    model = toy("qwen3")
    half = prune_model(copy.deepcopy(model), **ask("group"), show_progress=False)
    below = sum(parameter.numel() for parameter in half.parameters()) - 1
    plan = plan_pruning(model, "ATTENTION", target_params=below)
    assert {cut.kept for cut in plan.width_cuts} == {1}
    with refused(model, "cannot be reached"):  # one of each two is the fewest that can stay
        prune_model(
            model, "ATTENTION", attention_unit="head", target_params=below, show_progress=False
        )
