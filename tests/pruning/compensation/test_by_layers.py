"""A pass over the layers: what it keeps, and what it makes up for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optipfair import PruningWarning
from optipfair.arch.families import FAMILIES
from optipfair.arch.slots import read
from optipfair.arch.view import describe
from optipfair.pruning.cut.surgery import apply_plan
from optipfair.testing import TINY_FAMILIES, tiny_model
from support.decisions import (
    DATA,
    NEED_DATA,
    assert_same_weights,
    batches,
    decision,
    errors,
    errors_of,
    kept,
    outputs_of,
    pruned,
    texts,
)

PRUNABLE = [name for name in TINY_FAMILIES if not any(mlp.why_not for mlp in FAMILIES[name].mlps)]
WITH_EXPERTS = ["mixtral", "qwen2_moe", "gpt_oss"]

pytestmark = pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")


# What it keeps.


@pytest.mark.parametrize("family", PRUNABLE)
def test_kept_neurons_make_up_for_lost_ones(
    family: str, unchanged: Callable[..., Any], reloaded: Callable[[Any], Any], token_ids: Tensor
) -> None:
    """In the first layer that is cut, whose inputs are the same in all three models."""
    model = tiny_model(family)
    with unchanged(model):
        found = decision(model, "OBS", compensate=True)
    assert all(new <= sliced for new, sliced in errors_of(found))
    assert len(errors_of(found)) == len(errors(found))
    assert [(e["layer"], e["mlp"]) for e in errors(found)] == [
        (cut.layer, cut.mlp) for cut in found.width_cuts
    ]
    sliced, whole = copy.deepcopy(model), copy.deepcopy(model)
    apply_plan(sliced, found, {})
    apply_plan(model, found)
    first = found.width_cuts[0]
    wanted, cut, better = (
        outputs_of(m, first.layer, first.mlp).double() for m in (whole, sliced, model)
    )
    assert float((better - wanted).norm()) < 0.95 * float((cut - wanted).norm())
    with torch.no_grad():
        assert torch.equal(reloaded(model)(token_ids).logits, model(token_ids).logits)


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neox", "phi"])
def test_a_bias_takes_what_lost_neurons_give_in_the_mean(family: str) -> None:
    """In the first layer, over tokens that count as the hidden states entering it say."""
    whole = tiny_model(family).eval()
    first = describe(whole).layers[0]
    found = decision(whole, "OBS", compensate=True)
    states: list[Tensor] = []
    first.module.register_forward_pre_hook(lambda _m, args: states.append(args[0]))
    wanted = outputs_of(whole, 0, "mlp").double()
    real = zip(states, DATA, strict=True)
    hidden = torch.cat([hidden[batch["attention_mask"].bool()] for hidden, batch in real]).double()
    weights = 1 / (hidden.square().mean(dim=1) + 1e-6)

    def gap(model: Any) -> float:
        """The size of the mean error over the mean size of errors."""
        misses = outputs_of(model, 0, "mlp").double() - wanted
        return float((weights @ misses).norm() / (weights @ misses.norm(dim=1)))

    sliced, fitted = copy.deepcopy(whole), copy.deepcopy(whole)
    apply_plan(sliced, found, {})
    apply_plan(fitted, found)
    assert gap(sliced) > 0.1
    assert gap(fitted) < 1e-3
    assert not torch.equal(*(describe(m).mlps[0].down_bias for m in (whole, fitted)))  # type: ignore[misc]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_end_of_the_model_is_nearer_to_what_it_was(family: str) -> None:
    whole, data = tiny_model(family), torch.tensor([row[:8] for row in texts()])

    def distance(**options: Any) -> float:
        model = pruned(tiny_model(family), **options)
        with torch.no_grad():
            return float((model(data).logits - whole(data).logits).norm())

    assert distance() < distance(compensate=False)


@pytest.mark.parametrize(
    ("family", "method"),
    [*(("llama", name) for name in NEED_DATA), ("gpt2", "AUTO"), ("mixtral", "AUTO")],
)
def test_batch_size_and_padding_do_not_matter(family: str, method: str) -> None:
    model = tiny_model(family)
    expected = decision(model, method, data=batches(1), compensate=True)
    assert expected.replacements
    for data in (batches(8), batches(5, "left")):
        found = decision(model, method, data=data, compensate=True)
        assert kept(found) == kept(expected)
        for key, tensor in found.replacements.items():
            before = expected.replacements[key]  # what fits equally well may differ a little
            assert (tensor - before).norm() <= 5e-3 * before.norm()


@pytest.mark.parametrize("method", NEED_DATA)
def test_order_does_not_matter_to_what_is_kept(method: str) -> None:
    model = tiny_model("llama")
    there = decision(model, method, data=batches(4), compensate=False)
    back = decision(model, method, data=batches(4, order=-1), compensate=False)
    assert kept(there) == kept(back)


@pytest.mark.parametrize("method", ["ACT", "WACT", "FLAP"])
def test_scores_are_those_of_what_enters_the_down_projection(method: str) -> None:
    model = tiny_model("llama")
    found = decision(model, method, sequential=False)
    for mlp, cut in zip(describe(model).mlps, found.width_cuts, strict=True):
        down = mlp.owner.get_submodule(mlp.spec.down.module)
        seen: list[Tensor] = []
        handle = down.register_forward_pre_hook(lambda _m, args, s=seen: s.append(args[0][0]))
        with torch.no_grad():
            for row in texts():
                model(torch.tensor([row]))
        handle.remove()
        inputs = torch.cat(seen).double()
        columns = down.weight.detach().double().norm(dim=0)  # type: ignore[operator]
        scores = {
            "ACT": inputs.norm(dim=0),
            "WACT": inputs.norm(dim=0) * columns,
            "FLAP": inputs.var(dim=0, correction=0) * columns**2,
        }[method]
        assert cut.keep == (tuple(sorted(scores.topk(24).indices.tolist())),)


def test_auto_keeps_the_best_by_weights_and_scaled_inputs_and_compensates() -> None:
    """In the first layer, by the definition: a token counts by one over its mean square."""
    model = tiny_model("llama").eval()
    found = decision(model)
    assert found.replacements and not decision(model, "OBS").replacements
    layer = describe(model).layers[0].module
    seen: list[tuple[Tensor, Tensor]] = []
    states: list[Tensor] = []
    layer.register_forward_pre_hook(lambda _m, args: states.append(args[0]))
    layer.mlp.down_proj.register_forward_pre_hook(lambda _m, args: seen.append((states[-1], *args)))
    squares = torch.zeros(40)
    with torch.no_grad():
        for batch in DATA:
            model(**batch)
            real = batch["attention_mask"].bool()
            hidden, inputs = (tensor[real] for tensor in seen.pop())
            squares += (inputs.square() / (hidden.square().mean(1, keepdim=True) + 1e-6)).sum(0)
    gate, up, down = (
        (rows.max(1).values + rows.min(1).values.abs()).detach()
        for rows in (
            layer.mlp.gate_proj.weight,
            layer.mlp.up_proj.weight,
            layer.mlp.down_proj.weight.T,
        )
    )
    scores = (gate / gate.max() + up / up.max() + down / down.max()) * squares.sqrt()
    assert kept(found)[0] == (tuple(sorted(scores.topk(24).indices.tolist())),)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("method", ["MAW", "VOW", "RANDOM"])
def test_compensation_does_not_change_which_neurons_a_method_keeps(
    family: str, method: str
) -> None:
    model = tiny_model(family)
    data = DATA if method == "MAW" else None  # MAW is hybrid with data
    plain = decision(model, method, data=data)
    compensated = decision(model, method, compensate=True)
    assert kept(compensated) == kept(plain)
    assert all(new <= sliced for new, sliced in errors_of(compensated))
    assert any(new < sliced for new, sliced in errors_of(compensated))


# How layers follow each other.


def test_sequential_is_pruning_one_layer_after_the_other() -> None:
    at_once, in_turn = tiny_model("llama"), tiny_model("llama")
    pruned(at_once)
    for layer in range(in_turn.config.num_hidden_layers):
        pruned(in_turn, layer_indices=[layer])
    assert_same_weights(at_once, in_turn)


def test_not_sequential_is_pruning_each_layer_of_the_model_as_it_was() -> None:
    model = tiny_model("llama")
    apart = decision(model, sequential=False)
    for cut in apart.width_cuts:
        alone = decision(model, layer_indices=[cut.layer])
        assert alone.width_cuts == (cut,)
        for key, tensor in alone.replacements.items():
            assert torch.equal(tensor, apart.replacements[key])


def test_sequential_or_not_the_first_layer_is_the_same_and_later_ones_are_not() -> None:
    one, other = (decision(tiny_model("llama"), sequential=flag) for flag in (True, False))
    same = [torch.equal(t, other.replacements[key]) for key, t in one.replacements.items()]
    assert same[0]
    assert not all(same)


def test_only_the_layers_that_are_named_change() -> None:
    model, before = tiny_model("llama"), tiny_model("llama")
    pruned(model, layer_indices=[1, 3])
    assert [mlp.width for mlp in describe(model).mlps] == [40, 24, 40, 24]
    for layer in (0, 2):
        assert_same_weights(model.model.layers[layer], before.model.layers[layer])


# Special data and models.


@pytest.mark.parametrize("family", WITH_EXPERTS)
def test_an_expert_without_tokens_keeps_the_longest_rows_and_its_weights(family: str) -> None:
    """One token reaches two experts of a layer; the others have nothing to go by."""
    model = tiny_model(family)
    with pytest.warns(PruningWarning, match="Too few calibration tokens"):
        found = decision(model, data=[torch.tensor([[5]])], sequential=False)
    assert {error["error"] for error in errors(found)} == {None}
    untouched = 0
    mlps = {(mlp.layer, mlp.spec.name): mlp for mlp in describe(model).mlps}
    for cut in found.width_cuts:
        mlp = mlps[cut.layer, cut.mlp]
        if not mlp.experts:
            continue
        new = found.replacements[cut.layer, cut.mlp, mlp.spec.down.name]
        down = read(mlp.tensors[mlp.spec.down].detach(), mlp.spec.down)["down"]  # (E, I, H)
        for expert, keep in enumerate(cut.keep):
            longest = down[expert].norm(dim=1).topk(cut.kept).indices.sort().values
            untouched += tuple(longest.tolist()) == keep
            small = read(new, mlp.spec.down)["down"][expert]
            assert torch.equal(small, down[expert][list(keep)])
        if mlp.down_bias is not None:
            kept_bias = found.replacements[cut.layer, cut.mlp, mlp.spec.down_bias]
            assert torch.equal(kept_bias, mlp.down_bias)
    assert untouched >= len([mlp for mlp in mlps.values() if mlp.experts]) * 2


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_bfloat16_stays_bfloat16_and_gains_as_much(
    family: str, reloaded: Callable[[Any], Any], logits_of: Callable[..., Tensor]
) -> None:
    found = decision(tiny_model(family).bfloat16())
    assert {tensor.dtype for tensor in found.replacements.values()} == {torch.bfloat16}
    full = errors(decision(tiny_model(family)))
    for low, high in zip(errors(found), full, strict=True):
        assert low["error"] == pytest.approx(high["error"], rel=0.2, abs=0.02)
    model = pruned(tiny_model(family).bfloat16())
    assert torch.equal(logits_of(reloaded(model)), logits_of(model))


def test_frozen_parameters_and_modes_stay() -> None:
    model = tiny_model("llama").train()
    down = model.model.layers[0].mlp.down_proj.weight
    down.requires_grad_(False)
    pruned(model)
    assert model.model.layers[0].mlp.down_proj.weight is down
    assert not down.requires_grad
    assert model.model.layers[1].mlp.down_proj.weight.requires_grad
    assert all(module.training for module in model.modules())


def test_the_record_holds_the_errors_that_are_left() -> None:
    found = decision(tiny_model("llama"))
    record = found.request
    assert (record["compensate"], record["sequential"]) == (True, True)
    assert [entry["error"] for entry in record["reconstruction_errors"]] == [
        entry["error"] for entry in record["reconstruction_errors"]
    ]


def test_a_dataloader_that_can_be_read_once_is_enough() -> None:
    once = decision(tiny_model("llama"), "MAW", data=iter(DATA), compensate=True)
    again = decision(tiny_model("llama"), "MAW", compensate=True)
    assert kept(once) == kept(again)
