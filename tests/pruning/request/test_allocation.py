"""How neurons are shared out among layers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from optipfair import load_model, prune_model
from optipfair.arch.view import describe
from optipfair.errors import ArgumentError
from optipfair.pruning.calibration.stream import capture, copied_layer
from optipfair.pruning.compensation.by_layers import decide_by_layers
from optipfair.pruning.cut.guard import prove
from optipfair.pruning.cut.plan import PruningPlan, WidthCut
from optipfair.pruning.cut.surgery import cut_copy, zero_mlp
from optipfair.pruning.layers.removal_loss import TextLoss
from optipfair.pruning.request.pruning_request import PruningRequest
from optipfair.pruning.request.solving import Share, allocate
from optipfair.testing import tiny_model

PARAMETERS = 30


def shares(count: int, width: int, kept: int, multiple: int) -> list[Share]:
    return [Share(layer, width, kept, multiple, PARAMETERS) for layer in range(count)]


@given(
    losses=st.lists(st.floats(-1e-3, 10), min_size=1, max_size=12),
    width=st.integers(2, 40),
    percentage=st.integers(1, 99),
    multiple=st.sampled_from([1, 4, 32]),
)
def test_the_budget_is_kept_and_no_layer_loses_too_much(
    losses: list[float], width: int, percentage: int, multiple: int
) -> None:
    size = width * multiple
    uniform = max(size * (100 - percentage) // 100 // multiple, 1) * multiple
    found = allocate(shares(len(losses), size, uniform, multiple), dict(enumerate(losses)))
    assert sum(found) <= len(losses) * uniform
    for kept in found:
        assert kept % multiple == 0 and multiple <= kept <= size
        removed, alike = size - kept, size - uniform
        assert 0.5 * alike <= removed
        assert removed < 1.5 * alike + multiple or kept == multiple


@given(losses=st.lists(st.floats(0.01, 10), min_size=2, max_size=8))
def test_a_layer_that_is_missed_more_loses_less(losses: list[float]) -> None:
    found = allocate(shares(len(losses), 10_000, 8_000, 1), dict(enumerate(losses)))
    ranked = [kept for _, kept in sorted(zip(losses, found, strict=True))]
    assert ranked == sorted(ranked)


def test_by_hand() -> None:
    # 1000 go in each of three uniformly. Twice the loss: half the neurons; 1 : 1/2 of 1500 : 750
    # and the third takes what is left, 750.
    found = allocate(shares(3, 4_000, 3_000, 1), {0: 1.0, 1: 2.0, 2: 2.0})
    assert found == [2_500, 3_250, 3_250]


def test_layers_that_are_missed_alike_lose_alike() -> None:
    assert allocate(shares(4, 100, 80, 1), dict.fromkeys(range(4), 0.2)) == [80] * 4
    assert allocate(shares(4, 100, 80, 1), dict.fromkeys(range(4), 0.0)) == [80] * 4


def test_a_wider_mlp_weighs_by_its_parameters() -> None:
    narrow, wide = Share(0, 100, 50, 1, 10), Share(1, 1_000, 500, 1, 10)
    found = allocate([narrow, wide], {0: 1.0, 1: 1.0})
    assert found == [50, 500]


DATA = [torch.randint(1, 250, (n, 40), generator=torch.Generator().manual_seed(n)) for n in (4, 5)]


def narrowed(family: str = "llama", **options: Any) -> Any:
    options = {"layer_widths": "by_loss", "pruning_percentage": 40} | options
    return prune_model(
        tiny_model(family),
        neuron_selection_method="AUTO",
        dataloader=DATA,
        show_progress=False,
        **options,
    )


def widths(model: Any) -> list[int]:
    return [mlp.width for mlp in describe(model).mlps]


def size(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_widths_by_loss_stay_within_the_uniform_size_and_load_again(
    family: str, tmp_path: Path
) -> None:
    model, uniform = narrowed(family), narrowed(family, layer_widths="uniform")
    assert len(set(widths(model))) > 1
    assert size(model) <= size(uniform)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert widths(loaded) == widths(model)
    with torch.no_grad():
        assert torch.equal(loaded(DATA[0]).logits, model.eval()(DATA[0]).logits)


@pytest.mark.parametrize("rounding", ["expansion_divisor", "nearest_multiple"])
def test_what_widths_are_rounded_to_holds_for_every_layer(rounding: str) -> None:
    model = tiny_model("qwen2", intermediate_size=256)
    prune_model(
        *(model, "MLP_GLU", "AUTO", 40),
        dataloader=DATA,
        layer_widths="by_loss",
        show_progress=False,
        **{rounding: 32},
    )
    assert {width % 32 for width in widths(model)} == {0}
    assert len(set(widths(model))) > 1


def test_layer_losses_are_those_of_models_with_one_layer_pruned() -> None:
    model = tiny_model("llama").eval()
    view = describe(model)
    first = (tuple(range(12)),)
    cuts = [WidthCut(mlp.layer, mlp.spec.name, mlp.width, first) for mlp in view.mlps]
    plan = PruningPlan("llama", 4, (0, 1, 2, 3), tuple(cuts))
    rewrite = prove(view, plan)
    found = decide_by_layers(capture(view, DATA), plan, PruningRequest("MLP_GLU"), rewrite)
    losses = TextLoss(view, DATA).rises(
        range(4), lambda layer: cut_copy(layer, copied_layer(layer.module), found, rewrite)
    )

    def loss(pruned: Any) -> float:
        total, tokens = 0.0, 0
        for ids in DATA:
            logits = pruned(ids).logits[:, :-1].flatten(0, 1)
            total += float(cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum"))
            tokens += ids[:, 1:].numel()
        return total / tokens

    with torch.no_grad():
        whole = loss(model)
        for layer, found_loss in losses.items():
            pruned = copy.deepcopy(model)
            for mlp in describe(pruned).mlps:
                if mlp.layer == layer:
                    zero_mlp(mlp, torch.arange(12, mlp.width))
            assert found_loss == pytest.approx(loss(pruned) - whole, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_widths": "by_los"}, "by_loss"),
        ({"pruning_type": "BOTH", "num_layers_to_remove": 1}, "does not go with"),
    ],
)
def test_what_cannot_have_widths_by_loss_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrowed(**options)


def test_a_static_method_is_refused() -> None:
    with pytest.raises(ArgumentError, match="calibration data"):
        prune_model(tiny_model("llama"), layer_widths="by_loss", show_progress=False)
