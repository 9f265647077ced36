"""The cut itself: what changes on a live model, and what must stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optipfair import (
    ArgumentError,
    PruningPlan,
    WidthCut,
    apply_plan,
    plan_pruning,
    prune_model,
)
from optipfair.arch.slots import take
from optipfair.arch.view import describe
from optipfair.pruning.cut import surgery
from optipfair.testing import TINY_FAMILIES, tiny_model
from support.oracles import with_zeroed_neurons

TIED = ["llama", "qwen3", "gemma2", "gpt2", "opt"]


def prune(model: Any, **kwargs: Any) -> Any:
    return prune_model(model, **kwargs, show_progress=False)


def test_a_plan_can_cut_width_and_depth_at_once(
    logits_of: Callable[..., Tensor], reloaded: Callable[..., Any]
) -> None:
    model, other = tiny_model("llama"), tiny_model("llama")
    width = plan_pruning(model, pruning_percentage=20)
    cuts = tuple(cut for cut in width.width_cuts if cut.layer != 1)
    apply_plan(model, replace(width, keep_layers=(0, 2, 3), width_cuts=cuts))
    prune(other, pruning_percentage=20)
    prune(other, pruning_type="DEPTH", layer_indices=[1])
    assert torch.equal(logits_of(model), logits_of(other))
    assert torch.equal(logits_of(reloaded(model)), logits_of(model))


def test_a_plan_read_from_a_file_does_the_same(logits_of: Callable[..., Tensor]) -> None:
    model, other = tiny_model("mixtral"), tiny_model("mixtral")
    plan = plan_pruning(model, expansion_rate=100)
    apply_plan(other, PruningPlan.from_json(plan.to_json()))
    assert torch.equal(logits_of(apply_plan(model, plan)), logits_of(other))


@pytest.mark.parametrize("plan", [None, 5, {}, "plan.json"], ids=repr)
def test_what_is_no_plan_is_refused(plan: Any, refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with refused(model, "is no PruningPlan. Give what plan_pruning"):
        apply_plan(model, plan)


def test_an_empty_plan_changes_nothing(unchanged: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with unchanged(model):
        assert apply_plan(model, PruningPlan("llama", 4, (0, 1, 2, 3))) is model


@pytest.mark.parametrize("pruning", [{"expansion_rate": 100}, {"pruning_type": "DEPTH",
                                     "layer_indices": [3]}], ids=str)  # fmt: skip
@pytest.mark.parametrize("family", TIED)
def test_tied_embeddings_stay_tied(
    family: str, pruning: dict[str, Any], reloaded: Callable[..., Any]
) -> None:
    model = prune(tiny_model(family, tie_word_embeddings=True), **pruning)
    for each in (model, reloaded(model)):
        assert each.get_input_embeddings().weight is each.get_output_embeddings().weight


@pytest.mark.parametrize("family", ["llama", "phi3", "mixtral", "gpt2", "opt"])
def test_requires_grad_is_kept_tensor_by_tensor(family: str) -> None:
    model = tiny_model(family)
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad = number % 3 > 0
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    prune(model, expansion_rate=100)
    after = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert after == before


@pytest.mark.parametrize("family", ["llama", "phi3", "mixtral", "gpt2", "opt"])
def test_gradients_are_cut_along(family: str, token_ids: Tensor) -> None:
    model = tiny_model(family)
    model(token_ids, labels=token_ids).loss.backward()
    plan = plan_pruning(model, expansion_rate=100)
    keep = {(cut.layer, cut.mlp): cut.keep for cut in plan.width_cuts}
    expected = {}
    for mlp in describe(model).mlps:
        kept = torch.tensor(keep[mlp.layer, mlp.spec.name])
        for slot, parameter in mlp.tensors.items():
            index = kept if mlp.spec.experts else kept[0]
            expected[parameter] = take(parameter.grad, slot, index)
    others = {p: p.grad.clone() for p in model.parameters() if p not in expected}
    apply_plan(model, plan)
    for parameter, gradient in {**expected, **others}.items():
        assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_pruned_model_trains(family: str, token_ids: Tensor) -> None:
    pruning = {"pruning_type": "DEPTH", "layer_indices": [1]}
    if family != "bloom":
        pruning = {"expansion_rate": 100}
    model = prune(tiny_model(family), **pruning).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        loss = model(token_ids, labels=token_ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_hooks_stay_and_fire(logits_of: Callable[..., Tensor]) -> None:
    model = tiny_model("llama")
    seen: list[tuple[int, ...]] = []
    down = model.model.layers[1].mlp.down_proj
    down.register_forward_pre_hook(lambda _module, args: seen.append(tuple(args[0].shape)))
    prune(model, pruning_percentage=20)
    logits_of(model)
    assert seen == [(2, 12, 32)]


class Scaled(nn.Linear):
    """A user's own linear layer."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values) * 0.5


def test_a_subclass_of_linear_is_cut_in_place(logits_of: Callable[..., Tensor]) -> None:
    model = tiny_model("llama")
    own = Scaled(16, 40, bias=False)
    model.model.layers[1].mlp.gate_proj = own
    plan = plan_pruning(model, pruning_percentage=20)
    zeroed = with_zeroed_neurons(model, plan)
    apply_plan(model, plan)
    assert model.model.layers[1].mlp.gate_proj is own
    assert own.out_features == 32
    torch.testing.assert_close(logits_of(model), logits_of(zeroed), atol=1e-5, rtol=0)


@pytest.mark.parametrize("data", [False, True])
def test_an_mlp_that_two_layers_share_is_cut_once(
    data: bool, logits_of: Callable[..., Tensor], token_ids: Tensor
) -> None:
    model = tiny_model("llama")
    layers = model.model.layers
    layers[1].mlp = layers[0].mlp
    plan = plan_pruning(model, pruning_percentage=20, dataloader=[token_ids] if data else None)
    zeroed = with_zeroed_neurons(model, plan)
    apply_plan(model, plan)
    assert layers[1].mlp is layers[0].mlp
    assert layers[0].mlp.up_proj.weight.shape == (32, 16)
    torch.testing.assert_close(logits_of(model), logits_of(zeroed), atol=1e-5, rtol=0)


def test_tied_projections_are_cut_once(logits_of: Callable[..., Tensor]) -> None:
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.up_proj.weight = layer.mlp.gate_proj.weight
    plan = plan_pruning(model, pruning_percentage=20)
    zeroed = with_zeroed_neurons(model, plan)
    apply_plan(model, plan)
    assert all(
        layer.mlp.up_proj.weight is layer.mlp.gate_proj.weight for layer in model.model.layers
    )
    assert model.model.layers[0].mlp.up_proj.weight.shape == (32, 16)
    torch.testing.assert_close(logits_of(model), logits_of(zeroed), atol=1e-5, rtol=0)


def test_a_matrix_that_two_mlps_share_is_cut_alike_in_both_or_refused(
    logits_of: Callable[..., Tensor],
) -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    try:
        plan = plan_pruning(model, pruning_percentage=20)
    except ValueError:
        return
    zeroed = with_zeroed_neurons(model, plan)
    assert plan.width_cuts[0].keep == plan.width_cuts[1].keep
    torch.testing.assert_close(logits_of(apply_plan(model, plan)), logits_of(zeroed))


def test_the_training_mode_is_kept() -> None:
    model = tiny_model("llama").train()
    model.model.layers[2].eval()
    before = {name: module.training for name, module in model.named_modules()}
    prune(model, pruning_percentage=20)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_pruning_draws_no_random_number() -> None:
    for family in TINY_FAMILIES:
        model = tiny_model(family)
        before = torch.get_rng_state()
        prune(model, pruning_type="DEPTH", layer_indices=[3])
        if family != "bloom":
            prune(model, expansion_rate=100)
        assert torch.equal(torch.get_rng_state(), before), family


def test_inference_mode_does_not_stop_pruning(token_ids: Tensor) -> None:
    model = tiny_model("llama")
    with torch.inference_mode():
        prune(model, pruning_percentage=20, dataloader=[token_ids])
    assert model.config.intermediate_size == 32


def test_a_model_loaded_with_a_device_map_is_pruned(
    tmp_path: Any, logits_of: Callable[..., Tensor]
) -> None:
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM

    expected = tiny_model("llama")
    expected.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="cpu")
    prune(expected, pruning_percentage=20)
    assert torch.equal(logits_of(prune(model, pruning_percentage=20)), logits_of(expected))


@pytest.mark.parametrize(
    ("family", "match"),
    [("mistral", "'llama' of 4 layers; this is a 'mistral'"), ("gpt2", "this is a 'gpt2'")],
)
def test_a_plan_for_another_family_is_refused(
    family: str, match: str, refused: Callable[..., Any]
) -> None:
    plan = plan_pruning(tiny_model("llama"), pruning_percentage=20)
    model = tiny_model(family)
    with refused(model, match, ArgumentError):
        apply_plan(model, plan)


@pytest.mark.parametrize(
    ("sizes", "match"),
    [({"num_hidden_layers": 3}, "of 3"), ({"intermediate_size": 48}, "model has 48")],
)
def test_a_plan_for_another_size_is_refused(
    sizes: dict[str, int], match: str, refused: Callable[..., Any]
) -> None:
    plan = plan_pruning(tiny_model("llama"), pruning_percentage=20)
    model = tiny_model("llama", **sizes)
    with refused(model, match, ArgumentError):
        apply_plan(model, plan)


def all_layers(keep: tuple[tuple[int, ...], ...], mlp: str = "mlp") -> PruningPlan:
    cuts = tuple(WidthCut(layer, mlp, 40, keep) for layer in range(4))
    return PruningPlan("llama", 4, (0, 1, 2, 3), cuts)


GOOD = tuple(range(8))
MALFORMED = {
    "neuron out of range": all_layers(((0, 1, 40),)),
    "negative neuron": all_layers(((-1, 0, 1),)),
    "repeated neuron": all_layers(((0, 1, 1),)),
    "unsorted neurons": all_layers(((1, 0, 2),)),
    "no kept set": all_layers(()),
    "two kept sets": all_layers((GOOD, GOOD)),
    "unknown mlp": all_layers((GOOD,), "experts"),
    "cut twice": replace(all_layers((GOOD,)), width_cuts=all_layers((GOOD,)).width_cuts * 2),
    "bad last cut": replace(
        all_layers((GOOD,)),
        width_cuts=(
            *all_layers((GOOD,)).width_cuts[:3],
            WidthCut(3, "mlp", 40, ((*GOOD[:7], 99),)),
        ),
    ),
    "layer out of range": PruningPlan("llama", 4, (0, 4)),
    "negative layer": PruningPlan("llama", 4, (-1, 0)),
    "repeated layer": PruningPlan("llama", 4, (0, 0)),
    "unsorted layers": PruningPlan("llama", 4, (1, 0)),
    "no layer": PruningPlan("llama", 4, ()),
    "cut of a layer that goes": replace(all_layers((GOOD,)), keep_layers=(0, 1)),
    "cut of an unknown layer": replace(
        all_layers((GOOD,)), width_cuts=(WidthCut(7, "mlp", 40, (GOOD,)),)
    ),
}  # fmt: skip


@pytest.mark.parametrize("plan", MALFORMED.values(), ids=list(MALFORMED))
def test_a_malformed_plan_is_refused(plan: PruningPlan, refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with refused(model, "plan", ArgumentError):
        apply_plan(model, plan)


def test_a_plan_with_a_kept_set_missing_for_an_expert_is_refused(
    refused: Callable[..., Any],
) -> None:
    model = tiny_model("mixtral")
    plan = plan_pruning(model, expansion_rate=100)
    cuts = tuple(replace(cut, keep=cut.keep[:3]) for cut in plan.width_cuts)
    with refused(model, "plan", ArgumentError):
        apply_plan(model, replace(plan, width_cuts=cuts))


def failing_at(call: int, error: BaseException) -> Callable[..., Tensor]:
    """The function that makes new tensors, which fails at its nth call."""
    calls = iter(range(1000))

    def make(*args: Any) -> Tensor:
        if next(calls) == call:
            raise error
        return take(*args)

    return make


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError, KeyboardInterrupt])
@pytest.mark.parametrize(("call", "cut"), [(3, "0"), (8, "0 to 1"), (11, "0 to 2")])
def test_a_cut_that_ends_too_soon_says_which_layers_are_cut(
    call: int, cut: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")  # 4 layers, 3 tensors of each are cut: call 3 is of layer 1
    plan = plan_pruning(model, pruning_percentage=20)
    monkeypatch.setattr(surgery, "take", failing_at(call, error()))
    with pytest.raises(error) as caught:
        apply_plan(model, plan)
    (said,) = caught.value.__notes__
    assert re.match(rf"Of the model's 4 layers, layers {cut} are cut .* Load it again\.", said)
    widths = [layer.mlp.down_proj.in_features for layer in model.model.layers]
    shapes = [layer.mlp.down_proj.weight.shape[1] for layer in model.model.layers]
    assert [shape < width for shape, width in zip(shapes, widths, strict=True)] == [
        number <= int(cut[-1]) for number in range(4)
    ]


def test_memory_that_runs_out_before_the_first_cut_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch, unchanged: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    plan = plan_pruning(model, pruning_percentage=20)
    monkeypatch.setattr(surgery, "take", failing_at(2, MemoryError()))
    with unchanged(model), pytest.raises(MemoryError) as caught:
        apply_plan(model, plan)
    assert caught.value.__notes__ == ["No layer is cut yet: the model is as it was."]
