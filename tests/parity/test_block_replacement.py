"""What the layer before a removed block does for it, family by family."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optipfair import PruningWarning, UnsupportedModelError, get_model_layers, prune_model
from optipfair.arch.view import describe
from optipfair.errors import ArgumentError, DataError
from optipfair.pruning.calibration.stream import capture
from optipfair.pruning.compensation.blocks import additive_scale
from optipfair.pruning.cut.plan import PruningPlan
from optipfair.pruning.cut.surgery import apply_plan
from optipfair.pruning.decision import decide
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.pruning.request.pruning_request import check_request
from optipfair.testing import TINY_FAMILIES, tiny_model

REFUSED = {
    "gemma2": "a norm",
    "gemma3_text": "a norm",
    "mixtral": "no dense MLP",
    "qwen2_moe": "a norm or a gate",
}
SERVED = [family for family in TINY_FAMILIES if family not in REFUSED]


def data(rows: int = 64, length: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 256, (rows, length), generator=generator)
    return list(ids.split(16))


DATA = data()


def decided(model: Any, drop: list[int], batches: Any = DATA) -> PruningPlan:
    request = check_request(PruneOptions("DEPTH", layer_indices=drop, compensate=True), batches)
    return decide(describe(model), request, batches)[0]


def blocks(found: PruningPlan) -> list[dict[str, Any]]:
    return list(found.request["replaced_blocks"])


def states(model: Any, batches: list[Tensor] = DATA) -> list[Tensor]:
    """What leaves each layer, (T, H)."""
    outputs: list[list[Tensor]] = [[] for _ in get_model_layers(model)]
    handles = [
        layer.register_forward_hook(
            lambda _m, _a, out, kept=kept: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer, kept in zip(get_model_layers(model), outputs, strict=True)
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    return [torch.cat([part.flatten(0, 1) for part in kept]).double() for kept in outputs]


@pytest.mark.parametrize("family", SERVED)
def test_the_layer_before_makes_up_for_a_block(
    family: str, unchanged: Callable[..., Any], reloaded: Callable[[Any], Any], token_ids: Tensor
) -> None:
    model: Any = tiny_model(family)
    with unchanged(model):
        found = decided(model, [1, 2])
    whole, removed = states(model)[2], copy.deepcopy(model)
    apply_plan(removed, found, {})
    apply_plan(model, found)
    gap, left = (float((states(m)[0] - whole).square().sum()) for m in (removed, model))
    (block,) = blocks(found)
    assert (block["first"], block["last"], block["layer"]) == (1, 2, 0)
    assert block["error"] < block["removed_error"]
    assert left < gap
    with torch.no_grad():
        assert torch.equal(reloaded(model)(token_ids).logits, model(token_ids).logits)


def test_the_map_is_the_ridge_solution() -> None:
    model: Any = tiny_model("llama")
    layer = get_model_layers(model)[0]
    seen: list[Tensor] = []
    handle = layer.mlp.down_proj.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    flow = states(model)
    handle.remove()
    inputs = torch.cat([part.flatten(0, 1) for part in seen]).double()  # (T, I)
    gap = flow[2] - flow[0]
    (new,) = decided(model, [1, 2]).replacements.values()
    weight = layer.mlp.down_proj.weight.detach().double()
    gram = inputs.T @ inputs
    held = torch.arange(len(inputs)) // 16 % 5 == 4
    best: tuple[float, Tensor] = (float(gap[held].square().sum()), weight)
    for shrinkage in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        x, y = inputs[~held], gap[~held]
        amount = shrinkage * (x.T @ x).diagonal().mean() * torch.eye(len(gram))
        change = torch.linalg.solve(x.T @ x + amount, x.T @ y)
        error = float((inputs[held] @ change - gap[held]).square().sum())
        if error < best[0]:
            amount = shrinkage * gram.diagonal().mean() * torch.eye(len(gram))
            best = (error, weight + torch.linalg.solve(gram + amount, inputs.T @ gap).T)
    torch.testing.assert_close(new.double(), best[1], atol=1e-4, rtol=1e-3)
    assert not torch.equal(best[1], weight)


def test_later_blocks_are_fitted_on_what_flows_after_the_earlier_ones() -> None:
    model: Any = tiny_model("qwen2")
    both = decided(model, [1, 3]).replacements
    first = decided(model, [1]).replacements
    apply_plan(model, decided(model, [1]), first)
    second = decided(model, [2]).replacements  # layer 3 before
    assert torch.equal(both[0, "mlp", "mlp.down_proj.weight"], *first.values())
    torch.testing.assert_close(both[2, "mlp", "mlp.down_proj.weight"], *second.values())


@pytest.mark.parametrize(("family", "why"), REFUSED.items())
def test_what_cannot_be_made_up_for_is_refused(
    family: str, why: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model(family)
    with refused(model, f"{why}.*compensate=False", UnsupportedModelError):
        prune_model(
            model,
            "DEPTH",
            layer_indices=[1],
            dataloader=DATA,
            compensate=True,
            show_progress=False,
        )


def test_a_norm_behind_the_mlp_is_refused(refused: Callable[..., Any]) -> None:
    model = tiny_model("opt", do_layer_norm_before=False)
    with refused(model, "a norm", UnsupportedModelError):
        decided(model, [1])


@pytest.mark.parametrize("family", ["granite", "minicpm3"])
def test_scaled_mlp_outputs_are_allowed_for(family: str) -> None:
    """These multiply what an MLP gives before they add it."""
    scaling = {"residual_multiplier": 0.3} if family == "granite" else {}
    model: Any = tiny_model(family, **scaling)
    whole = states(model)[1]
    found = decided(model, [1])
    (block,) = blocks(found)
    assert block["error"] < block["removed_error"]
    removed = copy.deepcopy(model)
    apply_plan(removed, found, {})
    apply_plan(model, found)
    gap, left = (float((states(m)[0] - whole).square().sum()) for m in (removed, model))
    assert left / gap < 1.1 * block["error"] / block["removed_error"]


def test_nothing_stands_before_the_first_layer() -> None:
    model: Any = tiny_model("llama")
    with pytest.warns(PruningWarning, match="Before layers 0 to 1 there is no layer"):
        found = decided(model, [0, 1])
    assert not found.replacements
    assert blocks(found) == []


def test_too_few_tokens_only_remove() -> None:
    model: Any = tiny_model("llama")
    with pytest.warns(PruningWarning, match="Too few calibration tokens"):
        found = decided(model, [1], [torch.arange(8)[None]])
    assert not found.replacements
    assert blocks(found)[0]["error"] is None


@pytest.mark.parametrize("size", [1, 7])
def test_batch_size_does_not_matter(size: int) -> None:
    model = tiny_model("llama")
    (expected,) = decided(model, [1, 2]).replacements.values()
    (found,) = decided(model, [1, 2], list(torch.cat(DATA).split(size))).replacements.values()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_padding_does_not_count() -> None:
    model = tiny_model("llama")
    ids = torch.cat(DATA)
    padded = {
        "input_ids": torch.cat([torch.full((64, 5), 9), ids], dim=1),
        "attention_mask": torch.cat([torch.zeros(64, 5).long(), torch.ones(64, 16).long()], dim=1),
    }
    (expected,) = decided(model, [2]).replacements.values()
    (found,) = decided(model, [2], [padded]).replacements.values()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_half_precision_keeps_its_type() -> None:
    model: Any = tiny_model("llama").to(torch.bfloat16)
    found = decided(model, [1, 2])
    (new,) = found.replacements.values()
    assert new.dtype == torch.bfloat16
    apply_plan(model, found)
    assert torch.equal(get_model_layers(model)[0].mlp.down_proj.weight, new)


@pytest.mark.parametrize("layer", [0, 1])
def test_nan_activations_are_refused(layer: int, refused: Callable[..., Any]) -> None:
    model: Any = tiny_model("llama")
    with torch.no_grad():
        get_model_layers(model)[layer].input_layernorm.weight[0] = torch.nan
    with refused(model, "NaN or Inf", DataError):
        prune_model(
            model, "DEPTH", layer_indices=[1], dataloader=DATA, compensate=True, show_progress=False
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda key, tensor: {(3, *key[1:]): tensor},
        lambda key, tensor: {(*key[:2], "mlp.gone.weight"): tensor},
        lambda key, tensor: {key: tensor[:, 1:]},
    ],
    ids=["of a layer that goes", "of an unknown tensor", "of another shape"],
)
def test_a_replacement_for_another_model_is_refused(
    change: Callable[..., Any], refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    found = decided(model, [3])
    ((key, tensor),) = found.replacements.items()
    with refused(model, "replacement", ArgumentError):
        apply_plan(model, found, change(key, tensor))


@pytest.mark.parametrize("data_given", [True, False])
def test_compensation_needs_data_and_is_off_by_default(
    data_given: bool, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    asked: Any = (
        {"dataloader": DATA} if data_given else {"compensate": True}
    )  # data without a use for them, and the other way round
    with refused(model, "dataloader" if data_given else "needs calibration data", ArgumentError):
        prune_model(model, "DEPTH", num_layers_to_remove=1, show_progress=False, **asked)


def test_the_probe_tells_a_factor_from_a_norm() -> None:
    for family, additive in (("llama", True), ("gemma2", False)):
        view = describe(tiny_model(family))
        scale = additive_scale(capture(view, DATA), view.layers[0].mlps[0])
        assert (scale == pytest.approx(1, abs=1e-4)) if additive else scale is None
