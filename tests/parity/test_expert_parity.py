"""Experts: removed ones == ones that no router can choose, in memory, on disk, reloaded."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file
from torch import Tensor

from optipfair import PruningPlan, apply_plan, plan_pruning, prune_checkpoint, prune_model
from optipfair.loading.quiet import quiet_transformers
from optipfair.testing import tiny_model
from optipfair.testing.toys import UNBUILDABLE
from support.expert_walk import SWITCHES, served_or_refused
from support.oracles import greedy, masked_experts
from support.walk import IDS, MODEL_TYPES, OK, THIS_RELEASE, same_tensors, skip_without_toy

# Fused and apart on disk; a shared expert, dense layers, biases, sigmoid scores with a bias of
# their own, groups, scales of experts.
FAMILIES = ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v3", "gemma4_text", "olmoe"]
families = pytest.mark.parametrize("family", FAMILIES)
pytestmark = pytest.mark.filterwarnings("ignore:No calibration token was routed")


def toy(family: str) -> Any:
    """A toy of eight experts, two of which serve a token, with weights that differ in size."""
    model = tiny_model(family, **EIGHT.get(family, {"num_experts": 8}))
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "correction_bias" in name:
                tensor.copy_(torch.linspace(-0.1, 0.1, tensor.numel()).view_as(tensor))
            elif "experts" in name and tensor.dim() == 3 and len(tensor) == 8:
                tensor.mul_(torch.linspace(0.5, 2, 8).roll(3)[:, None, None])
    return model


EIGHT: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 8},
    "gpt_oss": {"num_local_experts": 8},
    "gemma4_text": {"num_experts": 8, "enable_moe_block": True},
    "deepseek_v3": {"n_routed_experts": 8, "n_group": 2, "topk_group": 1},
}
DATA = [
    {"input_ids": torch.randint(0, 250, (8, 24), generator=torch.Generator().manual_seed(seed))}
    for seed in range(4)
]


def ask(method: str = "NORM", **more: Any) -> dict[str, Any]:
    data = {"dataloader": DATA} if method in ("REAP", "FREQUENCY", "GATE_SUM") else {}
    target = more or {"num_experts_to_remove": 4}
    return {"pruning_type": "EXPERTS", "expert_selection_method": method, **data, **target}


@pytest.mark.parametrize("method", ["NORM", "REAP", "RANDOM"])
@families
def test_removed_experts_equal_experts_that_no_router_can_choose(
    family: str, method: str, logits_of: Callable[..., Tensor]
) -> None:
    model = toy(family)
    plan = plan_pruning(model, **ask(method))
    with masked_experts(model, plan) as masked:
        expected = logits_of(masked)
    original = logits_of(model)
    pruned = logits_of(apply_plan(model, plan))
    torch.testing.assert_close(pruned, expected, atol=1e-5, rtol=0)
    if method != "REAP":  # which may keep all that any token was sent to
        assert (pruned - original).abs().max() > 1e-3, "the oracle must see the cut"


@families
def test_a_saved_model_loads_in_plain_transformers_bit_for_bit(
    family: str, logits_of: Callable[..., Tensor], reloaded: Callable[..., Any]
) -> None:
    model = prune_model(toy(family), **ask(), show_progress=False)
    loaded = reloaded(model)
    assert same_tensors(loaded, model)
    assert torch.equal(logits_of(loaded), logits_of(model))
    ids = IDS[:1]
    assert greedy(model, ids, cache=True) == greedy(loaded, ids, cache=False)


@pytest.mark.parametrize("method", ["NORM", "REAP", "FREQUENCY", "GATE_SUM", "RANDOM"])
@families
def test_on_disk_it_is_bit_for_bit_as_in_memory(family: str, method: str, tmp_path: Path) -> None:
    model = toy(family)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "model")
    result = prune_checkpoint(tmp_path / "model", tmp_path / "streamed", **ask(method))
    assert result.streamed
    prune_model(model, **ask(method), show_progress=False)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "saved")
    assert_same_files(tmp_path / "streamed", tmp_path / "saved")
    card = (tmp_path / "streamed" / "README.md").read_text()
    assert "Kept 4 of 8 experts" in card and "expert-pruning" in card


def assert_same_files(first: Path, second: Path) -> None:
    found, expected = (load_file(each / "model.safetensors") for each in (first, second))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    configs = [(each / "config.json").read_text() for each in (first, second)]
    assert configs[0] == configs[1]


TABLE = Path(__file__).parents[2] / "docs" / "expert-families.md"
ROWS = re.findall(r"^\| `(\w+)` \| (yes|no) \|", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
DOCUMENTED = dict(ROWS)
# What is served depends on the release; the table is of one.
OF_RELEASE = Version(re.findall(r", transformers ([\d.]+),", TABLE.read_text("utf-8"))[0])


def every_type() -> list[Any]:
    """All model types that transformers builds; slow, since the others stand for them."""
    return [
        pytest.param(name, marks=[pytest.mark.slow])
        for name in MODEL_TYPES
        if name not in UNBUILDABLE
    ]


@pytest.mark.filterwarnings("ignore")  # transformers warns about some of its own toy models
@pytest.mark.parametrize("model_type", every_type())
def test_every_model_type_is_pruned_right_or_refused(model_type: str) -> None:
    skip_without_toy(model_type)
    found = served_or_refused(tiny_model(model_type, **SWITCHES.get(model_type, {})))
    if OF_RELEASE == THIS_RELEASE:
        assert (found == OK) == (DOCUMENTED.get(model_type) == "yes"), found


def test_layers_that_stay_dense_and_shared_experts_are_left_alone() -> None:
    model = toy("qwen2_moe")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prune_model(model, **ask(), show_progress=False)
    after = model.state_dict()
    kept = [n for n in before if "shared_expert" in n or n.startswith("model.layers.2.")]
    assert len(kept) > 20 and all(torch.equal(before[name], after[name]) for name in kept)
    config = model.config
    assert (config.num_experts, config.num_experts_per_tok, config.mlp_only_layers) == (4, 2, [2])


@pytest.mark.parametrize(
    ("family", "target", "kept"),
    [
        ("mixtral", {"experts_to_keep": 5}, 5),
        ("mixtral", {"pruning_percentage": 40}, 5),
        ("mixtral", {"num_experts_to_remove": 3}, 5),
        ("deepseek_v3", {"pruning_percentage": 25}, 6),
        ("deepseek_v3", {"pruning_percentage": 20}, 8),
    ],
)
def test_how_many_stay_follows_from_any_target(
    family: str, target: dict[str, Any], kept: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a target that removes nothing
        plan = plan_pruning(toy(family), **ask("NORM", **target))
    assert {cut.kept for cut in plan.width_cuts} == ({kept} if kept < 8 else set())


def test_the_same_number_stays_in_each_group_of_a_router() -> None:
    plan = plan_pruning(toy("deepseek_v3"), **ask("NORM"))
    for cut in plan.width_cuts:
        assert sorted(expert // 4 for expert in cut.keep[0]) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("family", "target", "reason"),
    [
        ("mixtral", {"num_experts_to_remove": 8}, "=8 is not possible: each layer has 8 experts"),
        ("mixtral", {"num_experts_to_remove": 9}, "so it can be 0 to 7"),
        ("mixtral", {"experts_to_keep": 9}, "so it can be 1 to 8"),
        ("mixtral", {"experts_to_keep": 0}, "so it can be 1 to 8"),
        ("mixtral", {"experts_to_keep": 1}, "each token is routed to 2. Possible are 2 to 7"),
        ("mixtral", {"experts_to_keep": 2.5}, "no number of experts. Give a whole number"),
        ("deepseek_v3", {"experts_to_keep": 5}, "in 2 groups.*Possible are 4 to 6, in steps of 2"),
        ("deepseek_v3", {"experts_to_keep": 2}, "routed to 2 in the 1 of 2 groups"),
        ("mixtral", {"experts_to_keep": 4, "num_experts_to_remove": 4}, "mutually exclusive"),
        ("mixtral", {"experts_to_keep": 4, "pruning_percentage": 20}, "mutually exclusive"),
        ("mixtral", {"experts_to_keep": 4, "expansion_rate": 100}, "does not go with pruning_type"),
        ("mixtral", {"experts_to_keep": 4, "compensate": True}, "does not go with pruning_type"),
        ("mixtral", {"experts_to_keep": 4, "num_layers_to_remove": 1}, "use pruning_type='BOTH'"),
        ("mixtral", {"pruning_percentage": None}, "Nothing says how many experts go"),
        ("llama", {"experts_to_keep": 4}, "it has no routed experts"),
        ("jetmoe", {"experts_to_keep": 3}, "have experts of their own"),
        ("deepseek_v4", {"experts_to_keep": 3}, "tid2eid of layer 0 says by number which experts"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_the_numbers(
    family: str, target: dict[str, Any], reason: str, refused: Callable[..., Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a toy model
        model = toy(family) if family in EIGHT else tiny_model(family)
    with refused(model, reason):
        prune_model(model, **ask("NORM", **target), show_progress=False)


def test_data_are_asked_for_where_they_are_read_and_only_there(refused: Callable[..., Any]) -> None:
    model = toy("mixtral")
    asked = {"pruning_type": "EXPERTS", "experts_to_keep": 4, "show_progress": False}
    with refused(model, "'REAP' needs calibration data.*or use 'NORM'"):
        prune_model(model, **asked)
    with refused(model, "'NORM', which needs none. Choose experts by 'REAP'"):
        prune_model(model, **asked, expert_selection_method="NORM", dataloader=DATA)


def test_layers_and_experts_go_together(logits_of: Callable[..., Tensor]) -> None:
    model = toy("mixtral")
    asked: dict[str, Any] = {"experts_to_keep": 5, "expert_selection_method": "NORM"}
    plan = plan_pruning(model, "BOTH", num_layers_to_remove=1, **asked)
    assert plan.keep_layers == (0, 1, 2) and {c.kept for c in plan.width_cuts} == {5}
    one = apply_plan(copy.deepcopy(model), plan)
    two = prune_model(model, "DEPTH", num_layers_to_remove=1, show_progress=False)
    two = prune_model(two, **ask("NORM", experts_to_keep=5), show_progress=False)
    assert torch.equal(logits_of(one), logits_of(two))


def test_a_config_that_asks_for_router_logits_is_calibrated_on_all_the_same() -> None:
    asked: dict[str, Any] = {"layer_selection_method": "auto"}
    with_logits = toy("mixtral")
    with_logits.config.output_router_logits = True
    plans = [
        plan_pruning(model, "DEPTH", num_layers_to_remove=1, dataloader=DATA, **asked)
        for model in (toy("mixtral"), with_logits)
    ]
    assert plans[0].drop_layers == plans[1].drop_layers


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen2_moe"])
def test_layers_and_experts_go_from_disk_as_in_memory(family: str, tmp_path: Path) -> None:
    model = toy(family)
    asked = {**ask(), "pruning_type": "BOTH", "layer_indices": [1]}
    with quiet_transformers():
        model.save_pretrained(tmp_path / "model")
    result = prune_checkpoint(tmp_path / "model", tmp_path / "streamed", **asked)
    assert result.streamed
    prune_model(model, **asked, show_progress=False)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "saved")
    assert_same_files(tmp_path / "streamed", tmp_path / "saved")


def test_a_budget_keeps_the_most_experts_that_fit() -> None:
    model = toy("qwen3_moe")
    half = prune_model(copy.deepcopy(model), **ask(), show_progress=False)
    limit = sum(parameter.numel() for parameter in half.parameters())
    for target, kept in ((limit, 4), (limit - 1, 3)):
        plan = plan_pruning(model, **ask("NORM", target_params=target))
        assert {(cut.width, cut.kept) for cut in plan.width_cuts} == {(8, kept)}


def test_a_budget_in_bytes_fits_from_disk_too(tmp_path: Path) -> None:
    model = toy("deepseek_v3")  # its routers have a buffer
    with quiet_transformers():
        model.save_pretrained(tmp_path / "model")
    prune_checkpoint(tmp_path / "model", tmp_path / "half", **ask())
    limit = (tmp_path / "half" / "model.safetensors").stat().st_size
    result = prune_checkpoint(
        tmp_path / "model", tmp_path / "fits", **ask("NORM", target_size=limit + 8000)
    )
    assert {cut.kept for cut in result.plan.width_cuts} == {4}
    assert (tmp_path / "fits" / "model.safetensors").stat().st_size <= limit + 8000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda cuts: [{**cut, "keep": ["3"]} for cut in cuts], "each token is routed to 2"),
        (lambda cuts: [{**cuts[0], "keep": ["0-5"]}, *cuts[1:]], "4, 6 experts in different"),
        (lambda cuts: cuts[1:], "4, 8 experts in different layers"),
        (lambda cuts: [{**cut, "width": 16} for cut in cuts], "from 16 experts; the model has 8"),
    ],
)
def test_a_plan_that_no_router_could_follow_is_refused(
    change: Callable[[Any], Any], reason: str, refused: Callable[..., Any]
) -> None:
    model = toy("mixtral")
    written = json.loads(plan_pruning(model, **ask()).to_json())
    plan = PruningPlan.from_json(
        json.dumps({**written, "width_cuts": change(written["width_cuts"])})
    )
    with refused(model, reason):
        apply_plan(model, plan)


def test_a_plan_is_carried_out_once(refused: Callable[..., Any]) -> None:
    model = toy("mixtral")
    plan = plan_pruning(model, **ask())
    apply_plan(model, plan)
    with refused(model, "from 8 experts; the model has 4"):
        apply_plan(model, plan)


def test_a_plan_of_experts_is_carried_out_from_its_file(tmp_path: Path) -> None:
    model = toy("qwen3_moe")
    with quiet_transformers():
        model.save_pretrained(tmp_path / "model")
    plan = plan_pruning(model, **ask("REAP"))
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan
    result = prune_checkpoint(
        tmp_path / "model", tmp_path / "out", plan=tmp_path / "plan.json", verify="full"
    )
    assert result.streamed and result.plan == plan


def test_padding_and_batching_do_not_matter() -> None:
    model = toy("mixtral")
    rows = torch.cat([batch["input_ids"] for batch in DATA])
    padded = torch.nn.functional.pad(rows, (0, 5))
    mask = torch.nn.functional.pad(torch.ones_like(rows), (0, 5))
    ways: list[Any] = [
        [{"input_ids": rows}],
        [{"input_ids": row[None]} for row in rows],
        [{"input_ids": padded, "attention_mask": mask}],
    ]
    asked = {"pruning_type": "EXPERTS", "experts_to_keep": 3}
    plans = [plan_pruning(model, **asked, dataloader=way) for way in ways]
    assert len({plan.to_json() for plan in plans}) == 1


def test_an_expert_that_no_token_is_sent_to_goes_first_and_is_said() -> None:
    model = toy("mixtral")
    data = [{"input_ids": torch.tensor([[7, 8]])}]  # two tokens reach four experts at most
    chosen: list[set[int]] = []

    def note(_module: Any, _args: Any, output: Any) -> None:
        chosen.append(set(output[2].flatten().tolist()))

    hooks = [layer.mlp.gate.register_forward_hook(note) for layer in model.model.layers]
    with torch.no_grad():
        model(**data[0])
    for hook in hooks:
        hook.remove()
    with pytest.warns(UserWarning, match="No calibration token was routed to .* of 32 experts"):
        plan = plan_pruning(model, "EXPERTS", experts_to_keep=4, dataloader=data)
    for cut, used in zip(plan.width_cuts, chosen, strict=True):
        assert used <= set(cut.keep[0])


PREDICTING = {
    # As published: past the last layer (DeepSeek, GLM), or under a head of their own (Qwen3-Next).
    "deepseek_v3": ("model.layers.4.", {"num_nextn_predict_layers": 1}),
    "qwen3_next": ("mtp.layers.0.", {}),
}


@pytest.mark.parametrize("family", PREDICTING)
def test_layers_that_predict_further_tokens_lose_experts_alike(family: str, tmp_path: Path) -> None:
    head, fields = PREDICTING[family]
    model = toy(family)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    last = {n: t for n, t in tensors.items() if n.startswith("model.layers.3.")}
    further = {n.replace("model.layers.3.", head): t * 2 for n, t in last.items()}
    further[f"{head}eh_proj.weight"] = torch.ones(4, 4)
    save_file({**tensors, **further}, file, metadata={"format": "pt"})
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.warns(UserWarning, match="keep as many experts, those of the largest weights"):
        result = prune_checkpoint(tmp_path / "model", tmp_path / "out", **ask())
    assert result.streamed
    written = load_file(tmp_path / "out" / "model.safetensors")
    expected = {n: t for n, t in written.items() if n.startswith("model.layers.3.")}
    for name, tensor in expected.items():  # NORM chose in the layer itself, by the same weights
        assert torch.equal(written[name.replace("model.layers.3.", head)], tensor * 2), name
    assert torch.equal(written[f"{head}eh_proj.weight"], further[f"{head}eh_proj.weight"])
    assert len(written) == len(tensors) + len(further) - sum(
        name not in written for name in (*tensors, *further)
    )
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    assert all(after[name] == value for name, value in fields.items())


def test_how_many_are_chosen_may_be_listed_by_layer() -> None:
    model = tiny_model("hunyuan_v1_moe", num_experts=8, moe_topk=[4, 4, 4, 4])
    with pytest.raises(ValueError, match="each token is routed to 4"):
        plan_pruning(model, **ask(experts_to_keep=3))


def test_groups_of_a_mixer_are_no_groups_of_experts() -> None:
    sizes = {"n_routed_experts": 8, "n_groups": 4, "n_group": 1, "num_experts_per_tok": 2}
    model = tiny_model("nemotron_h", **sizes)
    plan = plan_pruning(model, **ask())
    assert {cut.kept for cut in plan.width_cuts} == {4}
