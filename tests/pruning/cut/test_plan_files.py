"""A plan with its replaced tensors: written beside it, found by its digest, refused without."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from optipfair import ArgumentError, PruningPlan, apply_plan, load_model, prune_checkpoint
from optipfair.loading.quiet import quiet_transformers
from optipfair.pruning.cut.plan_files import side_file
from optipfair.testing import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")

DATA = [torch.randint(0, 250, (24, 12), generator=torch.Generator().manual_seed(3))]
AUTO: dict[str, Any] = {
    "neuron_selection_method": "AUTO", "pruning_percentage": 40, "dataloader": DATA
}  # fmt: skip


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


def values_of(folder: Path) -> dict[str, Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.fixture
def planned(llama_folder: Path, tmp_path: Path) -> Path:
    """A plan in a file, with its tensors beside it."""
    prune_checkpoint(llama_folder, save_plan=tmp_path / "p.json", **AUTO)
    return tmp_path / "p.json"


def test_a_saved_plan_gives_what_pruning_at_once_gives(
    llama_folder: Path, planned: Path, tmp_path: Path
) -> None:
    plan = PruningPlan.load(planned)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"p.{plan.digest}.safetensors", "p.json",
    ]  # fmt: skip
    prune_checkpoint(llama_folder, tmp_path / "at once", **AUTO)
    again = prune_checkpoint(llama_folder, tmp_path / "planned", plan=planned, verify="full")
    assert again.plan == plan
    one, other = values_of(tmp_path / "at once"), values_of(tmp_path / "planned")
    assert sorted(one) == sorted(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    live: Any = apply_plan(load_model(llama_folder), plan)
    assert all(torch.equal(tensor, other[name]) for name, tensor in live.state_dict().items()
               if name in other)  # fmt: skip


def test_replaced_biases_are_kept_with_a_plan(tmp_path: Path) -> None:
    with quiet_transformers():
        tiny_model("gpt2").save_pretrained(tmp_path / "model")
    prune_checkpoint(tmp_path / "model", save_plan=tmp_path / "p", **AUTO)
    prune_checkpoint(tmp_path / "model", tmp_path / "at once", **AUTO)
    prune_checkpoint(tmp_path / "model", tmp_path / "planned", plan=tmp_path / "p", verify="full")
    one, other = values_of(tmp_path / "at once"), values_of(tmp_path / "planned")
    assert all(torch.equal(one[name], other[name]) for name in one)
    before = values_of(tmp_path / "model")
    uncut = [name for name in one if one[name].shape == before[name].shape]
    assert sorted(name for name in uncut if not torch.equal(one[name], before[name])) == [
        f"transformer.h.{layer}.mlp.c_proj.bias" for layer in range(4)
    ]


def test_a_renamed_plan_finds_its_tensors(llama_folder: Path, planned: Path) -> None:
    renamed = planned.rename(planned.with_name("q.json"))
    assert prune_checkpoint(llama_folder, plan=renamed, dry_run=True).streamed


def without(planned: Path, side: Path) -> None:
    side.unlink()


def cut_off(planned: Path, side: Path) -> None:
    side.write_bytes(side.read_bytes()[:-100])


def of_another_plan(planned: Path, side: Path) -> None:
    """The file has the right name, but says that it belongs to another plan."""
    save_file(load_file(side), side, metadata={"plan": "0" * 16})


def lacking_one(planned: Path, side: Path) -> None:
    tensors = dict(list(load_file(side).items())[1:])
    save_file(tensors, side, metadata={"plan": PruningPlan.load(planned).digest})


def with_other_values(planned: Path, side: Path) -> None:
    content = bytearray(side.read_bytes())
    content[-1] ^= 1
    side.write_bytes(content)


def edited(planned: Path, side: Path) -> None:
    """The plan no longer has the digest that its tensors are named by."""
    planned.write_text(planned.read_text().replace('"seed": 0', '"seed": 1').replace(
        '"pruning_percentage": 40', '"pruning_percentage": 41'))  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (without, "not beside it.*save-plan.*is only removed"),
        (cut_off, "does not hold the tensors of a plan"),
        (of_another_plan, "tensors of another plan"),
        (lacking_one, "is not as it was written. Copy it again, or decide anew"),
        (with_other_values, "is not as it was written"),
        (edited, "not beside it"),
    ],
)
def test_a_plan_without_its_own_tensors_is_refused(
    llama_folder: Path, planned: Path, damage: Callable[[Path, Path], None], match: str
) -> None:
    damage(planned, side_file(planned, PruningPlan.load(planned).digest))
    output = planned.parent / "out"
    with pytest.raises(ArgumentError, match=match):
        prune_checkpoint(llama_folder, output, plan=planned)
    assert not output.exists()


def test_tensors_of_another_shape_are_refused(llama_folder: Path, planned: Path) -> None:
    plan = PruningPlan.load(planned)
    side = side_file(planned, plan.digest)
    tensors = {name: tensor[:, :-1].contiguous() for name, tensor in load_file(side).items()}
    content = hashlib.sha256(b"".join(map(bytes_of, tensors.values()))).hexdigest()
    save_file(tensors, side, metadata={"plan": plan.digest, "sha256": content})
    with pytest.raises(ArgumentError, match=r"replacement of .* in layer 0 has shape"):
        prune_checkpoint(llama_folder, plan=planned, dry_run=True)


def test_a_plan_object_holds_its_tensors_or_is_refused(llama_folder: Path, planned: Path) -> None:
    plan = PruningPlan.load(planned)
    assert prune_checkpoint(llama_folder, plan=plan, dry_run=True).streamed
    with pytest.raises(ArgumentError, match=r"Give the file that save_plan wrote"):
        prune_checkpoint(llama_folder, plan=PruningPlan.from_json(plan.to_json()), dry_run=True)


def test_the_plan_of_an_output_folder_is_refused_alone(llama_folder: Path, tmp_path: Path) -> None:
    prune_checkpoint(llama_folder, tmp_path / "out", **AUTO)
    with pytest.raises(ArgumentError, match="decide anew with --save-plan"):
        prune_checkpoint(llama_folder, plan=tmp_path / "out" / "pruning_plan.json", dry_run=True)


def test_a_plan_without_compensation_needs_no_file(llama_folder: Path, tmp_path: Path) -> None:
    way = AUTO | {"compensate": False}
    prune_checkpoint(llama_folder, save_plan=tmp_path / "p.json", **way)
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]
    assert prune_checkpoint(llama_folder, plan=tmp_path / "p.json", dry_run=True).streamed


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("at", [1, 2])
def test_what_is_not_complete_does_not_appear(
    llama_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    untouched: Callable[[Path], AbstractContextManager[None]],
    error: BaseException,
    at: int,
) -> None:
    """The disk is full, or the user stops, while the first or the second file is written."""
    calls: list[int] = []
    flush = os.fsync

    def fail(file: int) -> None:
        calls.append(file)
        if len(calls) == at:
            raise error
        flush(file)

    monkeypatch.setattr(os, "fsync", fail)
    with untouched(tmp_path), pytest.raises(type(error)):
        prune_checkpoint(llama_folder, save_plan=tmp_path / "p.json", **AUTO)


def test_experts_come_back_too(tmp_path: Path) -> None:
    """Apart on disk, fused in memory, and so in the plan's file."""
    from optipfair.testing import tiny_model

    tiny_model("mixtral").save_pretrained(tmp_path / "model")
    way = AUTO | {"pruning_percentage": 50}
    prune_checkpoint(tmp_path / "model", save_plan=tmp_path / "p.json", **way)
    prune_checkpoint(tmp_path / "model", tmp_path / "planned", plan=tmp_path / "p.json")
    prune_checkpoint(tmp_path / "model", tmp_path / "at once", **way)
    one, other = values_of(tmp_path / "at once"), values_of(tmp_path / "planned")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_makes_up_for_removed_layers_comes_back_too(
    llama_folder: Path, tmp_path: Path
) -> None:
    """It replaces tensors of layers that are not cut, on files as in memory."""
    depth: dict[str, Any] = {
        "pruning_type": "DEPTH", "layer_indices": [1, 3], "compensate": True, "dataloader": DATA
    }  # fmt: skip
    prune_checkpoint(llama_folder, save_plan=tmp_path / "p.json", **depth)
    planned = prune_checkpoint(
        llama_folder, tmp_path / "a", plan=tmp_path / "p.json", verify="full"
    )
    assert planned.streamed
    prune_checkpoint(llama_folder, tmp_path / "b", **depth)
    one, other = values_of(tmp_path / "a"), values_of(tmp_path / "b")
    assert sorted(one) == sorted(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    original = values_of(llama_folder)
    changed = [name for name in one if name in original and "layers.0" in name
               and not torch.equal(one[name], original[name])]  # fmt: skip
    assert changed == ["model.layers.0.mlp.down_proj.weight"]
    side_file(tmp_path / "p.json", planned.plan.digest).unlink()
    with pytest.raises(ArgumentError, match="not beside it"):
        prune_checkpoint(llama_folder, plan=tmp_path / "p.json", dry_run=True)


def test_rankings_that_run_the_model_often_load_it(llama_folder: Path) -> None:
    said: list[str] = []
    result = prune_checkpoint(
        llama_folder,
        pruning_type="DEPTH",
        num_layers_to_remove=1,
        layer_selection_method="angular",
        dataloader=DATA,
        dry_run=True,
        say=said.append,
    )
    assert not result.streamed
    assert said == ["The model is loaded into memory: layers are chosen by 'angular'."]
