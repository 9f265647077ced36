"""Blocks: an attention or MLP that is gone equals one that gives nothing; on disk and reloaded."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from optipfair import (
    PruningPlan,
    apply_plan,
    load_model,
    plan_pruning,
    prune_checkpoint,
    prune_model,
)
from optipfair.arch.view import describe
from optipfair.errors import ArgumentError, CheckpointError, UnsupportedModelError
from optipfair.loading.quiet import quiet_transformers
from optipfair.pruning.cut.checks import seen_by
from optipfair.pruning.layers.block_loss import blocks_of
from optipfair.pruning.options.presets import chosen_by_data, instead_of_data
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.pruning.request.pruning_request import check_request
from optipfair.testing import tiny_model
from optipfair.testing.toys import UNBUILDABLE
from support.oracles import greedy
from support.walk import (
    IDS,
    MODEL_TYPES,
    OK,
    generated,
    logits,
    same_tensors,
    skip_without_toy,
)

# Separate and fused projections, biases, norms behind a block, a plain MLP, experts.
FAMILIES = ["llama", "qwen2", "qwen3", "phi3", "gemma2", "opt"]
BLOCKS = ["attention.0", "mlp.2", "attention.3", "mlp.3"]
families = pytest.mark.parametrize("family", FAMILIES)
DATA = [
    {"input_ids": torch.randint(0, 250, (8, 24), generator=torch.Generator().manual_seed(seed))}
    for seed in range(4)
]


def giving_nothing(model: Any, blocks: list[str]) -> Any:
    """A copy whose projections out of these blocks are zero; their biases stay."""
    silent = copy.deepcopy(model)
    there = blocks_of(seen_by(describe(silent), {"neuron", "attention"}))
    for (layer, kind), mlps in there.items():
        for mlp in mlps if f"{kind}.{layer}" in blocks else ():
            mlp.tensors[mlp.spec.down].data.zero_()
    return silent


@families
def test_a_block_that_is_gone_equals_one_that_gives_nothing(
    family: str, logits_of: Callable[..., Tensor]
) -> None:
    model = tiny_model(family)
    expected, original = logits_of(giving_nothing(model, BLOCKS)), logits_of(model)
    pruned = prune_model(model, "BLOCKS", blocks=BLOCKS, show_progress=False)
    torch.testing.assert_close(logits_of(pruned), expected, atol=1e-5, rtol=0)
    assert (expected - original).abs().max() > 1e-3, "the oracle must see the cut"


@families
def test_it_reloads_and_generates_with_and_without_a_cache(
    family: str, tmp_path: Path, logits_of: Callable[..., Tensor]
) -> None:
    model = prune_model(tiny_model(family), "BLOCKS", blocks=BLOCKS, show_progress=False)
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert same_tensors(loaded, model)
    assert torch.equal(logits_of(loaded), logits_of(model))
    assert greedy(model, IDS, cache=True) == greedy(loaded, IDS, cache=False)


@families
def test_on_disk_it_is_bit_for_bit_as_in_memory(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "model")
    result = prune_checkpoint(tmp_path / "model", tmp_path / "out", "BLOCKS", blocks=BLOCKS)
    assert result.streamed
    prune_model(model, "BLOCKS", blocks=BLOCKS, show_progress=False)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "saved")
    found, expected = (
        load_file(tmp_path / each / "model.safetensors") for each in ("out", "saved")
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    configs = [json.loads((tmp_path / f / "config.json").read_text()) for f in ("out", "saved")]
    assert configs[0]["per_layer_config"] == configs[1]["per_layer_config"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Removed the attention of 2 layers (0, 3)." in card and "block-pruning" in card


def test_every_tensor_of_a_block_goes_and_nothing_else() -> None:
    model = tiny_model("qwen2")
    whole = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    prune_model(model, "BLOCKS", blocks=["attention.1"], show_progress=False)
    left = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    changed = {name for name in whole if whole[name] != left[name]}
    assert changed == {
        f"model.layers.1.self_attn.{name}"
        for name in (
            *("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"),
            *("q_proj.bias", "k_proj.bias", "v_proj.bias"),
        )
    }
    assert all(0 in left[name] for name in changed)


@pytest.mark.parametrize("blocks", [["attention.1"], ["mlp.1"]])
def test_plain_transformers_refuses_the_folder(blocks: list[str], tmp_path: Path) -> None:
    """It must not fill what is gone with random numbers."""
    model = prune_model(tiny_model("llama"), "BLOCKS", blocks=blocks, show_progress=False)
    with quiet_transformers():
        model.save_pretrained(tmp_path)
        with pytest.raises((RuntimeError, ValueError)):
            AutoModelForCausalLM.from_pretrained(tmp_path)


def test_other_prunings_follow_and_precede(logits_of: Callable[..., Tensor]) -> None:
    model = tiny_model("llama")
    quiet: dict[str, Any] = {"show_progress": False}
    prune_model(model, pruning_percentage=20, layer_indices=[1], **quiet)
    prune_model(model, "BLOCKS", blocks=["attention.0", "mlp.2", "mlp.3"], **quiet)
    prune_model(model, pruning_percentage=20, **quiet)  # of the MLPs that are there
    prune_model(model, "DEPTH", layer_indices=[2], **quiet)
    fields = model.config.to_dict()["per_layer_config"]
    assert fields["0"]["skip"] == ["attention"] and fields["2"]["intermediate_size"] == 0
    assert torch.equal(logits_of(loaded_again(model)), logits_of(model))


def loaded_again(model: Any) -> Any:
    with TemporaryDirectory() as folder, quiet_transformers():
        model.save_pretrained(folder)
        return load_model(folder)


def test_data_choose_the_blocks_that_are_missed_least() -> None:
    model = tiny_model("llama")

    def loss(blocks: list[str]) -> float:
        silent, total = giving_nothing(model, blocks), 0.0
        for batch in DATA:
            with torch.no_grad():
                total += float(silent(**batch, labels=batch["input_ids"]).loss)
        return total

    plan = plan_pruning(model, "BLOCKS", num_blocks_to_remove=2, dataloader=DATA)
    every = [f"{kind}.{layer}" for kind in ("attention", "mlp") for layer in range(4)]
    first = min(every, key=lambda block: loss([block]))
    second = min((b for b in every if b != first), key=lambda block: loss([first, block]))
    assert plan.request["blocks"] == [first, second]
    only = plan_pruning(
        model, "BLOCKS", num_blocks_to_remove=2, block_kind="attention", dataloader=DATA
    )
    assert {cut.mlp for cut in only.width_cuts} == {"attention"}


def test_a_budget_and_a_share_say_how_many_go() -> None:
    model = tiny_model("llama")
    total = sum(each.numel() for each in model.parameters())
    ask: dict[str, Any] = {"pruning_type": "BLOCKS", "dataloader": DATA}
    plan = plan_pruning(model, **ask, target_params=int(0.8 * total))
    assert len(plan_pruning(model, **ask, pruning_percentage=25).request["blocks"]) == 2
    left = sum(each.numel() for each in apply_plan(model, plan).parameters())
    one_less = len(plan.request["blocks"]) - 1
    assert left <= 0.8 * total and one_less >= 0
    fewer = tiny_model("llama")
    apply_plan(fewer, plan_pruning(fewer, **ask, num_blocks_to_remove=max(one_less, 1)))
    assert sum(each.numel() for each in fewer.parameters()) > 0.8 * total


@pytest.mark.parametrize("family", ["llama", "qwen2", "opt"])
def test_the_block_before_makes_up_for_those_that_go(
    family: str, tmp_path: Path, logits_of: Callable[..., Tensor]
) -> None:
    model = tiny_model(family)
    whole = logits_of(model)
    blocks = ["mlp.1", "attention.2", "mlp.3"]
    removed = prune_model(copy.deepcopy(model), "BLOCKS", blocks=blocks, show_progress=False)
    ask: dict[str, Any] = {"pruning_type": "BLOCKS", "blocks": blocks, "compensate": True}
    plan = plan_pruning(model, **ask, dataloader=DATA)
    assert [each["blocks"] for each in plan.request["replaced_blocks"]] == [
        ["mlp.1", "attention.2"],
        ["mlp.3"],
    ]
    for record in plan.request["replaced_blocks"]:
        assert record["mlp"] == "attention" and record["error"] < record["removed_error"]
    plan.save(tmp_path / "plan.json")
    made_up = apply_plan(copy.deepcopy(model), PruningPlan.load(tmp_path / "plan.json"))
    losses = [float((logits_of(each) - whole).square().mean()) for each in (made_up, removed)]
    assert losses[0] < losses[1]
    with quiet_transformers():
        model.save_pretrained(tmp_path / "model")
    prune_checkpoint(tmp_path / "model", tmp_path / "out", **ask, dataloader=DATA)
    assert torch.equal(logits_of(load_model(tmp_path / "out")), logits_of(made_up))


def test_attention_alone_is_made_up_for_by_the_mlp_before_it() -> None:
    model = tiny_model("llama")
    plan = plan_pruning(model, "BLOCKS", blocks=["attention.2"], compensate=True, dataloader=DATA)
    (record,) = plan.request["replaced_blocks"]
    assert (record["layer"], record["mlp"], record["blocks"]) == (1, "mlp", ["attention.2"])
    assert record["error"] <= record["removed_error"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"blocks": ["attention.9"]}, "layers are 0 to 3"),
        ({"blocks": ["head.1"]}, "is no block"),
        ({"blocks": "mlp.1"}, "is no list of blocks"),
        ({"blocks": ["mlp.1", "mlp.1"]}, "twice"),
        ({"blocks": ["mlp.1"], "block_kind": "mlp"}, "Leave it out"),
        ({"num_blocks_to_remove": 8, "dataloader": DATA}, "leaves nothing"),
        ({"num_blocks_to_remove": 1}, "there is none"),
        ({"num_blocks_to_remove": 1, "blocks": ["mlp.1"]}, "exclude each other"),
        ({}, "exactly one of"),
        ({"num_blocks_to_remove": 1, "dataloader": DATA, "block_kind": "head"}, "block_kind"),
        ({"num_blocks_to_remove": 1, "dataloader": DATA, "reconstruct": True}, "does not go with"),
        ({"pruning_percentage": 0.5, "dataloader": DATA}, "no whole block"),
        ({"blocks": ["mlp.1"], "dataloader": DATA}, "only removed"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_changed(asked: Mapping[str, Any], said: str) -> None:
    model = tiny_model("llama")
    with pytest.raises(ArgumentError, match=said):
        plan_pruning(model, "BLOCKS", **asked)
    assert same_tensors(model, tiny_model("llama"))


def test_experts_and_widths_that_no_config_holds_are_no_blocks() -> None:
    mixtral, bloom = tiny_model("mixtral"), tiny_model("bloom")
    with pytest.raises(ArgumentError, match="experts"):
        prune_model(mixtral, "BLOCKS", blocks=["mlp.1"], show_progress=False)
    prune_model(mixtral, "BLOCKS", blocks=["attention.1"], show_progress=False)
    with pytest.raises(UnsupportedModelError, match="no attention or mlp"):
        prune_model(bloom, "BLOCKS", num_blocks_to_remove=1, dataloader=DATA, show_progress=False)


def test_what_the_command_line_fills_in_fits_named_and_chosen_blocks() -> None:
    for target in ({"blocks": ["mlp.1"]}, {"num_blocks_to_remove": 1}):
        asked = {"pruning_type": "BLOCKS", **target}
        chosen = chosen_by_data(asked)
        assert chosen["compensate"] and chosen["calibration"] == "builtin"
        for each in (chosen, *instead_of_data(asked, chosen)):
            check_request(PruneOptions(**each))


def test_options_of_blocks_belong_to_blocks() -> None:
    with pytest.raises(ArgumentError, match="use pruning_type='BLOCKS'"):
        plan_pruning(tiny_model("llama"), "DEPTH", num_layers_to_remove=1, blocks=["mlp.1"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers warns about some of its own toy models
@pytest.mark.parametrize("model_type", [t for t in MODEL_TYPES if t not in UNBUILDABLE])
def test_every_model_type_loses_a_block_right_or_is_refused(model_type: str) -> None:
    skip_without_toy(model_type)
    model = tiny_model(model_type)
    found = [_lose(model, kind) for kind in ("attention", "mlp")]
    if model_type in FAMILIES:
        assert found == [OK, OK]


def _lose(model: Any, kind: str) -> str:
    """Remove the first block of a kind that a model has, and hold it against what it was."""
    victim = copy.deepcopy(model)
    try:
        there = blocks_of(seen_by(describe(model), {"neuron"})) if kind == "mlp" else {}
        named = [f"mlp.{layer}" for layer, _ in there] or [f"{kind}.0"]
        plan = plan_pruning(victim, "BLOCKS", blocks=named[:1])
        apply_plan(victim, plan)
    except (UnsupportedModelError, ArgumentError) as refusal:
        assert same_tensors(victim, model), "a refused call changed the model"
        return str(refusal)
    silent = giving_nothing(model, plan.request["blocks"])
    torch.testing.assert_close(logits(victim), logits(silent), atol=1e-4, rtol=0)
    try:
        reloaded = loaded_again(victim)
    except CheckpointError as refusal:  # the auto class cannot load it, pruned or not
        return str(refusal)
    torch.testing.assert_close(logits(reloaded), logits(victim), atol=1e-5, rtol=0)
    assert generated(victim) == generated(reloaded)
    return OK
