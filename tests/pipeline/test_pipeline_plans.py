"""`prune_checkpoint` with budgets, dry runs and plans: what is promised is what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from optipfair import (
    ArgumentError,
    PruningPlan,
    PruningWarning,
    load_model,
    plan_pruning,
    prune_checkpoint,
    prune_model,
)
from optipfair.files.safetensors_reader import SINGLE_FILE, open_checkpoint
from optipfair.files.written_files import FILES
from optipfair.pipeline.prune import PLAN_FILE
from optipfair.testing import tiny_model

Untouched = Callable[[Path], AbstractContextManager[None]]

# Experts are kept in multiples of 8, with a warning.
pytestmark = pytest.mark.filterwarnings("ignore:The kept width of")

DATA = [torch.arange(24).view(2, 12)]
WAYS: list[dict[str, Any]] = [
    {"pruning_percentage": 40},
    {"pruning_type": "DEPTH", "layer_indices": [0, 2]},
    {"pruning_type": "BOTH", "expansion_rate": 120, "num_layers_to_remove": 1},
    {"pruning_type": "BOTH", "target_params": "12K"},
    {"target_size": "60KB", "neuron_selection_method": "L2"},
    {"pruning_percentage": 40, "max_shard_size": "10KB"},
    {"pruning_percentage": 40, "dtype": "bfloat16"},
]


def file_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def parameters(folder: Path) -> int:
    return sum(tensor.numel for tensor in open_checkpoint(folder).tensors.values())


def saved(folder: Path, family: str = "llama", **options: Any) -> Path:
    tiny_model(family, **options).save_pretrained(folder / family)
    return folder / family


def weights_and_config(folder: Path) -> dict[str, bytes]:
    """Every file but the card and the recipe, which say how it was asked for."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name not in ("README.md", "recipe.yaml", FILES)
    }


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("target", [75_000, "65KB", "60KiB", 55_555])
def test_the_file_is_as_large_as_the_budget_allows(
    llama_folder: Path, tmp_path: Path, target: int | str, dtype: str
) -> None:
    if dtype == "bfloat16":
        target = {75_000: 40_000, "65KB": "35KB", "60KiB": "32KiB", 55_555: 29_123}[target]
    result = prune_checkpoint(llama_folder, tmp_path / "out", target_size=target, dtype=dtype)
    assert result.streamed
    limit = {"65KB": 65_000, "60KiB": 61_440, "35KB": 35_000, "32KiB": 32_768}.get(
        str(target), target
    )
    assert file_bytes(tmp_path / "out") <= int(limit)
    width = result.plan.width_cuts[0].kept
    wider = 100 * (width + 1) / 16  # percent of the hidden size
    prune_checkpoint(llama_folder, tmp_path / "wider", expansion_rate=wider, dtype=dtype)
    assert file_bytes(tmp_path / "wider") > int(limit)


@pytest.mark.parametrize("family", ["llama", "mixtral", "qwen2_moe", "gpt2", "phi3"])
@pytest.mark.parametrize("pruning_type", ["MLP_GLU", "DEPTH", "BOTH"])
def test_a_budget_of_parameters_gives_the_same_on_disk_as_in_memory(
    tmp_path: Path, family: str, pruning_type: str
) -> None:
    folder = saved(tmp_path, family)
    target = int(0.8 * sum(parameter.numel() for parameter in tiny_model(family).parameters()))
    result = prune_checkpoint(folder, tmp_path / "out", pruning_type, target_params=target)
    assert result.plan == plan_pruning(tiny_model(family), pruning_type, target_params=target)
    assert result.statistics["pruned_parameters"] <= target
    in_memory = prune_model(
        tiny_model(family), pruning_type, target_params=target, show_progress=False
    )
    mine, theirs = load_model(tmp_path / "out").state_dict(), in_memory.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("family", ["llama", "mixtral", "qwen2_moe", "gpt2"])
@pytest.mark.parametrize("pruning_type", ["MLP_GLU", "DEPTH", "BOTH"])
def test_the_files_of_every_family_stay_within_the_budget(
    tmp_path: Path, family: str, pruning_type: str
) -> None:
    folder = saved(tmp_path, family)
    for share in (0.9, 0.75):
        target, output = int(share * file_bytes(folder)), tmp_path / f"out-{share}"
        prune_checkpoint(folder, output, pruning_type, target_size=target)
        assert file_bytes(output) <= target


def test_tensors_of_several_dtypes_are_weighed_as_they_are_stored(tmp_path: Path) -> None:
    """The MLPs are stored in two bytes, the more numerous other tensors in four."""
    folder = saved(tmp_path)
    tensors = {
        name: tensor.bfloat16() if ".mlp." in name else tensor.contiguous()
        for name, tensor in tiny_model("llama").state_dict().items()
    }
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
    target = file_bytes(folder) - 5000
    for pruning_type, spare in (("MLP_GLU", 4 * 48 * 2), ("DEPTH", 2720 * 4)):
        output = tmp_path / pruning_type
        prune_checkpoint(folder, output, pruning_type, target_size=target)
        assert target - spare < file_bytes(output) <= target


def test_data_decide_under_a_budget_too(llama_folder: Path, tmp_path: Path) -> None:
    result = prune_checkpoint(llama_folder, tmp_path / "out", target_params=15_000, dataloader=DATA)
    assert result.streamed
    # 8720 + 4 * (800 + 48 w): 16 neurons leave 14992.
    assert parameters(tmp_path / "out") == 14_992


def test_a_budget_that_is_met_copies_the_model_with_a_warning(
    llama_folder: Path, tmp_path: Path
) -> None:
    with pytest.warns(PruningWarning, match="Nothing was removed"):
        prune_checkpoint(llama_folder, tmp_path / "out", target_size="1GB")
    assert parameters(tmp_path / "out") == parameters(llama_folder)


@pytest.mark.parametrize(
    ("way", "match"),
    [
        ({"target_params": 100}, "cannot be reached.* 12,112 parameters"),
        ({"target_params": 100, "pruning_type": "DEPTH"}, "cannot be reached.* 11,440 parameters"),
        ({"target_params": 100, "pruning_type": "BOTH"}, "cannot be reached.* 9,568 parameters"),
        ({"target_size": 100}, "cannot be reached.*bytes of weights"),
        ({"target_size": "60KB", "pruning_percentage": 20}, "does not go with a budget"),
        ({"target_size": "60KB", "pruning_percentage": 10}, "does not go with a budget"),
        ({"target_size": "60KB", "target_params": "15K"}, "are mutually exclusive"),
        ({"target_size": "60 apples"}, "is no amount"),
        ({"target_size": True}, "is no amount"),
        ({"max_shard_size": "0GB"}, "max_shard_size='0GB' is no amount"),
        ({"pruning_type": "BOTH"}, "how much to prune"),
        ({"verify": "quick"}, "Unknown verify 'quick'.* fast, full, none"),
        ({"verify": None}, "Unknown verify"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    llama_copy: Path, untouched: Untouched, way: dict[str, Any], match: str
) -> None:
    with untouched(llama_copy.parent), pytest.raises(ArgumentError, match=match):
        prune_checkpoint(llama_copy, llama_copy.parent / "out", **way)


@pytest.mark.parametrize("family", ["llama", "qwen2_moe", "gpt2"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_dry_run_writes_nothing_and_says_the_exact_size(
    tmp_path: Path, untouched: Untouched, family: str, way: dict[str, Any]
) -> None:
    folder = saved(tmp_path, family)
    if "target_params" in way:
        way = {**way, "target_params": 30_000 if family == "qwen2_moe" else 12_000}
    if "target_size" in way:
        way = {**way, "target_size": int(0.9 * file_bytes(folder))}
    with untouched(tmp_path):
        planned = prune_checkpoint(folder, **way, dry_run=True)
        with_output = prune_checkpoint(folder, tmp_path / "out", **way, dry_run=True)
    assert planned.output_path is with_output.output_path is None
    assert planned.verified == "none"
    result = prune_checkpoint(folder, tmp_path / "out", **way)
    assert planned.plan == with_output.plan == result.plan
    assert planned.statistics == result.statistics
    assert planned.statistics["pruned_file_bytes"] == file_bytes(tmp_path / "out")
    assert json.loads(json.dumps(planned.to_dict()))["plan"]["file"] is None


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_saved_plan_gives_the_same_files_as_the_request(
    llama_copy: Path, tmp_path: Path, untouched: Untouched, way: dict[str, Any]
) -> None:
    file = tmp_path / "plans.json"
    with untouched(llama_copy):
        planned = prune_checkpoint(llama_copy, tmp_path / "out", **way, save_plan=file)
    assert planned.output_path is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "plans.json"]
    assert PruningPlan.load(file) == planned.plan
    prune_checkpoint(llama_copy, tmp_path / "direct", **way)
    how = {name: way[name] for name in ("dtype", "max_shard_size") if name in way}
    for number, plan in enumerate([file, str(file), planned.plan, tmp_path / "direct" / PLAN_FILE]):
        output = tmp_path / f"planned-{number}"
        result = prune_checkpoint(llama_copy, output, plan=plan, **how, verify="full")
        assert result.plan == planned.plan
        assert result.logits_difference == 0
        assert weights_and_config(output) == weights_and_config(tmp_path / "direct")


def test_a_plan_that_data_decided_is_carried_out_without_them(
    llama_folder: Path, tmp_path: Path
) -> None:
    decided = prune_checkpoint(
        llama_folder, tmp_path / "decided", pruning_percentage=50, dataloader=DATA
    )
    streamed = prune_checkpoint(llama_folder, tmp_path / "streamed", plan=decided.plan)
    assert decided.streamed and streamed.streamed
    one, other = (load_model(tmp_path / name).state_dict() for name in ("decided", "streamed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_dry_run_may_save_its_plan_and_try_one(llama_copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    planned = prune_checkpoint(llama_copy, save_plan=file, dry_run=True, pruning_percentage=20)
    again = prune_checkpoint(llama_copy, plan=file, dry_run=True)
    assert again.plan == planned.plan
    assert again.statistics == planned.statistics
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "plan.json"]


def test_a_plan_for_another_model_is_refused(llama_copy: Path, untouched: Untouched) -> None:
    others = [
        (plan_pruning(tiny_model("gpt2"), pruning_percentage=20), "for a 'gpt2' of 4 layers"),
        (
            plan_pruning(tiny_model("llama", num_hidden_layers=5), pruning_percentage=20),
            "of 5 layers; this is a 'llama' of 4",
        ),
        (
            plan_pruning(tiny_model("llama", intermediate_size=48), pruning_percentage=20),
            "from 48 neurons; the model has 40",
        ),
    ]
    for plan, match in others:
        with untouched(llama_copy.parent), pytest.raises(ArgumentError, match=match):
            prune_checkpoint(llama_copy, llama_copy.parent / "out", plan=plan)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"request": None},
        {"request": [1]},
        {"num_layers": 4.0},
        {"num_layers": "4"},
        {"keep_layers": ""},
        {"keep_layers": "0-9"},
        {"keep_layers": 3},
        {"width_cuts": None},
        {"width_cuts": [{"layer": [0], "mlp": "mlp", "width": 40, "keep": ["0-3"]}]},
        {"width_cuts": [{"layer": "0", "mlp": "mlp", "width": 40, "keep": ["0-3"]}]},
        {"width_cuts": [{"layer": 0, "mlp": "mlp", "width": 40, "keep": ["0-99"]}]},
        {"width_cuts": [{"layer": 0, "mlp": "mlp", "width": 40, "keep": []}]},
        {"width_cuts": [{"layer": 0, "mlp": "mlp"}]},
    ],
    ids=str,
)
def test_a_plan_file_with_wrong_values_is_refused(
    llama_copy: Path, untouched: Untouched, change: dict[str, Any]
) -> None:
    plan = plan_pruning(tiny_model("llama"), pruning_percentage=20)
    file = llama_copy.parent / "plan.json"
    file.write_text(json.dumps({**json.loads(plan.to_json()), **change}))
    with untouched(llama_copy.parent), pytest.raises(ArgumentError):
        prune_checkpoint(llama_copy, llama_copy.parent / "out", plan=file)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"3", b"not json", b"\xff\xfe", b"null"])
def test_a_file_that_is_no_plan_is_refused(
    llama_copy: Path, untouched: Untouched, content: bytes
) -> None:
    file = llama_copy.parent / "plan.json"
    file.write_bytes(content)
    with untouched(llama_copy.parent), pytest.raises(ArgumentError, match="plan"):
        prune_checkpoint(llama_copy, llama_copy.parent / "out", plan=file)


def test_a_plan_that_is_not_there_is_refused(llama_copy: Path, untouched: Untouched) -> None:
    for missing in (llama_copy / "nothing.json", llama_copy, llama_copy / "config.json" / "x"):
        with (
            untouched(llama_copy.parent),
            pytest.raises(ArgumentError, match="cannot be read"),
        ):
            prune_checkpoint(llama_copy, llama_copy.parent / "out", plan=missing)


@pytest.mark.parametrize(
    "other",
    [
        {"pruning_percentage": 20},
        {"expansion_rate": 140},
        {"expansion_divisor": 32},
        {"num_layers_to_remove": 1},
        {"layer_indices": [0]},
        {"depth_pruning_percentage": 25},
        {"target_params": "1B"},
        {"target_size": "1GB"},
        {"dataloader": DATA},
        {"pruning_type": "DEPTH"},
        {"neuron_selection_method": "VOW"},
        {"layer_selection_method": "first"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_plan_beside_another_target_is_refused(
    llama_copy: Path, untouched: Untouched, other: dict[str, Any]
) -> None:
    plan = plan_pruning(tiny_model("llama"), pruning_percentage=20)
    name = next(iter(other))
    with (
        untouched(llama_copy.parent),
        pytest.raises(ArgumentError, match=rf"^{name}\b.* does not go with a plan"),
    ):
        prune_checkpoint(llama_copy, llama_copy.parent / "out", plan=plan, **other)


def test_what_is_no_plan_at_all_is_refused(llama_copy: Path, untouched: Untouched) -> None:
    for nonsense in (5, {}, ["plan.json"]):
        with untouched(llama_copy.parent), pytest.raises(ArgumentError, match="plan"):
            prune_checkpoint(llama_copy, llama_copy.parent / "out", plan=nonsense)  # type: ignore[arg-type]


def test_an_output_is_needed_to_write(llama_copy: Path, untouched: Untouched) -> None:
    with untouched(llama_copy.parent), pytest.raises(ArgumentError, match="output_path is missing"):
        prune_checkpoint(llama_copy)


@pytest.mark.parametrize("way", [{}, {"dry_run": True}], ids=["writing", "dry run"])
def test_all_weights_are_checked_only_on_request(
    llama_copy: Path, untouched: Untouched, way: dict[str, Any]
) -> None:
    damaged = tiny_model("llama").state_dict()
    damaged["lm_head.weight"][0, 0] = float("nan")  # neither scored nor cut
    save_file(damaged, llama_copy / SINGLE_FILE, metadata={"format": "pt"})
    with (
        untouched(llama_copy.parent),
        pytest.raises(ValueError, match=r"lm_head\.weight"),
    ):
        prune_checkpoint(llama_copy, llama_copy.parent / "out", check_weights=True, **way)
    prune_checkpoint(llama_copy, llama_copy.parent / "out", **way)


def test_a_file_of_the_users_beside_a_plan_stays(llama_copy: Path) -> None:
    """Whatever its name: names prove nothing."""
    theirs = llama_copy.parent / ".plan.json.partial"
    theirs.write_text("mine")
    prune_checkpoint(llama_copy, save_plan=llama_copy.parent / "plan.json", pruning_percentage=40)
    assert theirs.read_text() == "mine"
    assert sorted(path.name for path in llama_copy.parent.iterdir()) == [
        ".plan.json.partial",
        "model",
        "plan.json",
    ]
