"""Kept neurons that are trained to give what the whole MLP gave."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optipfair import (
    ArgumentError,
    PruningPlan,
    apply_plan,
    load_model,
    plan_pruning,
    prune_checkpoint,
    prune_model,
)
from optipfair.arch.view import describe
from optipfair.pruning.compensation import reconstruction
from optipfair.pruning.compensation.reconstruction import _path
from optipfair.testing import byte_tokenizer, tiny_model

AUTO: dict[str, Any] = {"neuron_selection_method": "AUTO", "pruning_percentage": 50}
TRAINED = ["llama", "gemma2", "phi3", "gpt2", "gpt_neox", "qwen3"]


def data(sequences: int = 64, size: int = 8) -> list[dict[str, Tensor]]:
    """48 tokens each, of which each depends on the one before."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(0, 7, (sequences, 48), generator=generator)
    ids = (steps.cumsum(dim=1) * 3) % 250
    return [{"input_ids": part} for part in ids.split(size)]


def large(family: str) -> Any:
    """A toy whose MLPs do something: its weights are larger than those of a fresh model."""
    model = tiny_model(family)
    with torch.no_grad():
        for layer in describe(model).mlps:
            for parameter in layer.tensors.values():
                parameter.mul_(6)
    return model


def plan_of(model: Any, **more: Any) -> PruningPlan:
    return plan_pruning(model, dataloader=data(), **AUTO, **more)


def errors(plan: PruningPlan) -> list[dict[str, Any]]:
    return list(plan.request["reconstruction_errors"])


def weights(model: Any) -> dict[str, Tensor]:
    return dict(model.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", TRAINED)
def test_trained_neurons_are_nearer_to_the_whole_mlp(family: str) -> None:
    model = large(family)
    found = errors(plan_of(model, reconstruct=True))
    trained = [each for each in found if "fitted_error" in each]
    assert len(trained) >= len(found) / 2
    assert all(each["error"] < each["fitted_error"] for each in trained)


def test_the_error_that_is_said_is_that_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first layer, whose inputs are the same before and after, on the tokens held back."""
    model = large("llama")
    plan = plan_of(model, reconstruct=True)
    seen: list[Tensor] = []
    whole = copy.deepcopy(model)
    hook = whole.model.layers[0].mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for batch in data():
            whole(**batch)
    hook.remove()
    apply_plan(model, plan)
    with torch.no_grad():
        x = torch.cat(seen)
        old, new = whole.model.layers[0].mlp(x), model.model.layers[0].mlp(x)
    error = float((new - old).square().sum() / old.square().sum())
    assert error == pytest.approx(errors(plan)[0]["error"], rel=0.3)  # of all tokens, unscaled


@pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")
@pytest.mark.parametrize("family", ["opt", "mixtral"])
def test_mlps_without_a_module_of_their_own_and_experts_are_fitted_only(family: str) -> None:
    model = large(family)
    one, other = (copy.deepcopy(model) for _ in range(2))
    apply_plan(one, plan_of(model, reconstruct=True))
    apply_plan(other, plan_of(model))
    assert same(weights(one), weights(other))


def test_too_few_tokens_train_nothing() -> None:
    model = large("llama")
    few = {**AUTO, "dataloader": data(8)}
    one, other = (copy.deepcopy(model) for _ in range(2))
    prune_model(one, reconstruct=True, show_progress=False, **few)
    prune_model(other, show_progress=False, **few)
    assert same(weights(one), weights(other))


def test_a_plan_holds_all_that_was_trained(tmp_path: Path) -> None:
    model = large("llama")
    plan = plan_of(model, reconstruct=True)
    assert plan.replacements is not None
    names = {key[2] for key in plan.replacements}
    assert names == {f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    plan.save(tmp_path / "plan.json")
    at_once, loaded = (copy.deepcopy(model) for _ in range(2))
    prune_model(at_once, dataloader=data(), reconstruct=True, show_progress=False, **AUTO)
    apply_plan(loaded, PruningPlan.load(tmp_path / "plan.json"))
    assert same(weights(at_once), weights(loaded))


def test_on_disk_it_is_the_same(tmp_path: Path) -> None:
    model = large("llama")
    model.save_pretrained(tmp_path / "whole")
    byte_tokenizer().save_pretrained(tmp_path / "whole")
    prune_checkpoint(
        tmp_path / "whole", tmp_path / "cut", dataloader=data(), reconstruct=True, **AUTO
    )
    prune_model(model, dataloader=data(), reconstruct=True, show_progress=False, **AUTO)
    assert same(weights(load_model(tmp_path / "cut")), weights(model))


def test_narrow_weights_are_trained_and_stay_narrow() -> None:
    model = large("llama").to(torch.bfloat16)
    found = errors(plan_of(model, reconstruct=True))
    assert any("fitted_error" in each for each in found)
    prune_model(model, dataloader=data(), reconstruct=True, show_progress=False, **AUTO)
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}


def test_what_is_recorded_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "_MOST_BYTES", 2 * 16 * 4 * 3000)  # 3000 tokens of 3072
    recorded: list[int] = []
    joined = reconstruction.Recorded.joined

    def counting(self: Any) -> Any:
        found = joined(self)
        recorded.append(sum(len(part[0]) for part in self.parts))
        return found

    monkeypatch.setattr(reconstruction.Recorded, "joined", counting)
    plan_of(large("llama"), reconstruct=True)
    assert recorded == [1536] * 4


def test_the_module_of_an_mlp_is_found_in_its_layer() -> None:
    paths = {
        family: _path(describe(tiny_model(family)).mlps[0]) for family in ("llama", "gpt2", "opt")
    }
    assert paths == {"llama": "mlp", "gpt2": "mlp", "opt": ""}


@pytest.mark.parametrize(
    "options",
    [
        {"sequential": False},
        {"compensate": False},
        {"neuron_selection_method": "ACT"},
        {"pruning_type": "ATTENTION"},
    ],
    ids=str,
)
def test_what_it_does_not_go_with_is_refused(options: dict[str, Any]) -> None:
    asked = {**AUTO, **options}
    with pytest.raises(ArgumentError, match="reconstruct=True"):
        plan_pruning(tiny_model("llama"), dataloader=data(2), reconstruct=True, **asked)
