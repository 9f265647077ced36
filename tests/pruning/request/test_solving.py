"""Budgets on models: the result is within the budget, and the next larger one is not.

What the toy Llama weighs (H=16, I=40, 4 layers, 272 tokens, head not tied):
    embeddings and head 2 * 272 * 16, last norm 16:                                    8720
    a layer without its MLP: q and o 2 * 16 * 16, k and v 2 * 16 * 8, two norms 32:      800
    a neuron: a row of gate, a row of up, a column of down, 3 * 16:                       48
so a layer has 800 + 40 * 48 = 2720 and the model 8720 + 4 * 2720 = 19600 parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optipfair import (
    ArgumentError,
    PruningWarning,
    UnsupportedModelError,
    apply_plan,
    plan_pruning,
    prune_model,
)
from optipfair.arch.twin import build_on_meta
from optipfair.arch.view import describe
from optipfair.testing import tiny_config, tiny_model

# Experts are kept in multiples of 8, with a warning.
pytestmark = pytest.mark.filterwarnings("ignore:The kept width of")

LLAMA, LAYER, NEURON = 19600, 2720, 48
# family → the config of the model that `step` of `steps` neurons of the widest MLP leave
SHRUNK: dict[str, tuple[int, Callable[[int], dict[str, int]]]] = {
    "llama": (40, lambda step: {"intermediate_size": step}),
    "phi3": (40, lambda step: {"intermediate_size": step}),
    "gpt2": (64, lambda step: {"n_inner": step}),
    "mixtral": (40, lambda step: {"intermediate_size": eights(step)}),
    "qwen2_moe": (
        40,
        lambda step: {
            "intermediate_size": step,
            "shared_expert_intermediate_size": max(32 * step // 40, 1),
            "moe_intermediate_size": eights(24 * step // 40),
        },
    ),
}


def eights(width: int) -> int:
    return max(width // 8, 1) * 8


def parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def quietly(model: Any, *args: Any, **kwargs: Any) -> Any:
    return prune_model(model, *args, **kwargs, show_progress=False)


def widths(model: Any) -> list[int]:
    return [mlp.width for mlp in describe(model).mlps]


@cache
def sizes_by_step(family: str) -> list[int]:
    """Parameters of the models that transformers builds at every width, narrowest first."""
    steps, fields = SHRUNK[family]
    return [
        parameters(build_on_meta(tiny_config(family, **fields(step))))
        for step in range(1, steps + 1)
    ]


def test_the_figures_above_are_right() -> None:
    model: Any = tiny_model("llama")
    assert parameters(model) == LLAMA
    assert parameters(model.model.layers[0]) == LAYER
    assert sizes_by_step("llama")[-1] - sizes_by_step("llama")[-2] == 4 * NEURON


@pytest.mark.filterwarnings("ignore:Nothing was removed")
@pytest.mark.parametrize("family", SHRUNK)
@given(data=st.data())
@settings(max_examples=12)
def test_width_is_the_largest_that_fits(family: str, data: st.DataObject) -> None:
    sizes = sizes_by_step(family)
    target = data.draw(st.integers(sizes[0], sizes[-1]))
    result = parameters(quietly(tiny_model(family), target_params=target))
    assert result == max(size for size in sizes if size <= target)


@pytest.mark.parametrize("family", SHRUNK)
def test_a_budget_of_exactly_a_width_is_met_exactly(family: str) -> None:
    sizes = sizes_by_step(family)
    middle = sizes[len(sizes) // 2]
    assert parameters(quietly(tiny_model(family), target_params=middle)) == middle
    below = parameters(quietly(tiny_model(family), target_params=middle - 1))
    assert below == max(size for size in sizes if size < middle)


def test_a_size_is_of_the_weights_as_they_are() -> None:
    # 6 neurons of 4 layers go: 19600 - 6 * 4 * 48 = 18448 parameters of 2 or 4 bytes.
    for dtype, item in ((torch.bfloat16, 2), (torch.float32, 4)):
        for spare, width in ((0, 34), (-1, 33)):
            model = tiny_model("llama").to(dtype)
            quietly(model, target_size=18448 * item + spare)
            assert set(widths(model)) == {width}


def test_text_and_numbers_mean_the_same() -> None:
    one, other = (plan_pruning(tiny_model("llama"), target_params=t) for t in (15_000, "15.0K"))
    assert one == other
    assert plan_pruning(tiny_model("llama"), target_size="60KB") == plan_pruning(
        tiny_model("llama"), target_size=60_000
    )


def test_the_plan_records_the_budget() -> None:
    plan = plan_pruning(tiny_model("llama"), target_params="15K")
    assert plan.request["budget"] == "15,000 parameters"
    assert plan.request["pruning_type"] == "MLP_GLU"


def test_the_neurons_are_those_of_the_same_width_by_rate() -> None:
    by_budget = plan_pruning(tiny_model("llama"), "MLP_GLU", "VOW", target_params=LLAMA - 8 * 192)
    by_rate = plan_pruning(tiny_model("llama"), "MLP_GLU", "VOW", expansion_rate=200)
    assert by_budget.width_cuts == by_rate.width_cuts


def test_data_decide_under_a_budget_too(token_ids: Tensor) -> None:
    with_data = plan_pruning(tiny_model("llama"), target_params=15_000, dataloader=[token_ids])
    without = plan_pruning(tiny_model("llama"), target_params=15_000)
    kept = [{cut.kept for cut in plan.width_cuts} for plan in (with_data, without)]
    assert kept[0] == kept[1]
    assert with_data.width_cuts != without.width_cuts


def test_a_divisor_rounds_further_down() -> None:
    model = tiny_model("llama", intermediate_size=96)
    room = parameters(model) - 4 * NEURON  # for 95 neurons
    assert set(widths(quietly(model, target_params=room, expansion_divisor=32))) == {64}


@pytest.mark.parametrize(("spare", "width"), [(0, 33), (-1, 32), (95, 33), (96, 34)])
def test_chosen_layers_alone_meet_the_budget(spare: int, width: int) -> None:
    """A neuron of two layers is 96 parameters; 7 of them go."""
    model = tiny_model("llama")
    quietly(model, layer_indices=[1, 3], target_params=LLAMA - 7 * 96 + spare)
    assert widths(model) == [40, width, 40, width]


@pytest.mark.parametrize("method", ["last", "first"])
@pytest.mark.parametrize(
    ("target", "count"),
    [(LLAMA - 1, 1), (LLAMA - LAYER, 1), (LLAMA - LAYER - 1, 2), (LLAMA - 3 * LAYER, 3)],
)
def test_no_more_layers_go_than_must(method: str, target: int, count: int) -> None:
    plan = plan_pruning(
        tiny_model("llama"), "DEPTH", target_params=target, layer_selection_method=method
    )
    expected = range(count) if method == "first" else range(4 - count, 4)
    assert plan.drop_layers == tuple(expected)
    assert not plan.width_cuts


def test_layers_that_differ_in_size_are_weighed_as_they_are() -> None:
    """Layer 2 of this model is dense and smaller than the others."""
    model: Any = tiny_model("qwen2_moe")
    total, layers = parameters(model), [parameters(layer) for layer in model.model.layers]
    assert layers[2] < layers[3]
    for method, target, drop in [
        ("last", total - layers[3], (3,)),
        ("last", total - layers[3] - layers[2], (2, 3)),
        ("last", total - layers[3] - layers[2] - 1, (1, 2, 3)),
        ("first", total - 2 * layers[0], (0, 1)),
        ("first", total - 2 * layers[0] - layers[2], (0, 1, 2)),
    ]:
        plan = plan_pruning(model, "DEPTH", target_params=target, layer_selection_method=method)
        assert plan.drop_layers == drop


@pytest.mark.parametrize(
    "layers",
    [{"layer_indices": [1]}, {"num_layers_to_remove": 1}, {"depth_pruning_percentage": 25}],
    ids=str,
)
def test_width_is_solved_after_the_layers_that_are_asked_for(layers: dict[str, Any]) -> None:
    # 3 layers stay, so a neuron is 144: 5 of them go from 19600 - 2720 = 16880.
    for spare, width in ((0, 35), (-1, 34), (143, 35), (144, 36)):
        model = tiny_model("llama")
        quietly(model, "BOTH", target_params=16880 - 5 * 144 + spare, **layers)
        assert widths(model) == [width] * 3


@pytest.mark.parametrize(("method", "dropped"), [("last", (3,)), ("first", (0,))])
def test_layers_and_neurons_go_in_about_the_same_share(
    method: str, dropped: tuple[int, ...]
) -> None:
    """14000 parameters leave 5280 for layers of 800 + 48 w.

    0 layers go: w = 10, 75 % of the neurons, 75 apart.   1 goes: w = 20, 50 %, 25 apart.
    2 go: w = 38, 5 %, 45 apart.                          3 go: w = 40, 0 %, 75 apart.
    """
    model = tiny_model("llama")
    plan = plan_pruning(model, "BOTH", target_params=14_000, layer_selection_method=method)
    assert plan.drop_layers == dropped
    assert parameters(apply_plan(model, plan)) == 14_000
    assert widths(model) == [20] * 3


@pytest.mark.filterwarnings("ignore:Nothing was removed")
@pytest.mark.parametrize("family", SHRUNK)
@given(data=st.data())
@settings(max_examples=8)
def test_both_together_stay_within_the_budget(family: str, data: st.DataObject) -> None:
    """And no neuron goes from layers that would fit as they are."""
    target = data.draw(st.integers(sizes_by_step(family)[0], sizes_by_step(family)[-1]))
    plan = plan_pruning(tiny_model(family), "BOTH", target_params=target)
    assert parameters(apply_plan(tiny_model(family), plan)) <= target
    if plan.width_cuts:
        layers_only = apply_plan(tiny_model(family), replace(plan, width_cuts=()))
        assert parameters(layers_only) > target


LARGEST_CUTS: list[tuple[dict[str, Any], int]] = [
    ({}, 8720 + 4 * 848),  # one neuron in each layer
    ({"layer_indices": [0, 2]}, 8720 + 2 * 848 + 2 * LAYER),
    ({"pruning_type": "DEPTH"}, 8720 + LAYER),  # one layer
    ({"pruning_type": "DEPTH", "layer_selection_method": "first"}, 8720 + LAYER),
    ({"pruning_type": "BOTH"}, 8720 + 848),  # one layer with one neuron
    ({"pruning_type": "BOTH", "layer_indices": [1]}, 8720 + 3 * 848),
]


@pytest.mark.parametrize(("way", "smallest"), LARGEST_CUTS, ids=str)
def test_a_budget_out_of_reach_is_refused_saying_the_smallest(
    way: dict[str, Any], smallest: int, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, rf"cannot be reached.*: {smallest:,} parameters would", ArgumentError):
        quietly(model, **way, target_params=smallest - 1)
    with refused(model, rf"{4 * smallest:,} bytes of weights would be left", ArgumentError):
        quietly(model, **way, target_size=4 * smallest - 1)
    assert parameters(quietly(model, **way, target_params=smallest)) == smallest


@pytest.mark.parametrize("pruning_type", ["DEPTH", "BOTH"])
@pytest.mark.parametrize("method", ["last", "first"])
def test_the_smallest_is_said_of_the_layers_that_would_stay(pruning_type: str, method: str) -> None:
    """The last layer of this model is dense and smaller than the first."""

    def plan(target: int) -> Any:
        model = tiny_model("qwen2_moe", mlp_only_layers=[3])
        return plan_pruning(
            model, pruning_type, target_params=target, layer_selection_method=method
        )

    with pytest.raises(ArgumentError, match="cannot be reached") as caught:
        plan(10)
    said = int(str(caught.value).split(": ")[1].split()[0].replace(",", ""))
    assert len(plan(said).keep_layers) == 1
    with pytest.raises(ArgumentError, match=f"{said:,} parameters would be left"):
        plan(said - 1)


@pytest.mark.parametrize("pruning_type", ["MLP_GLU", "DEPTH", "BOTH"])
@pytest.mark.parametrize(
    "budget",
    [{"target_params": LLAMA}, {"target_params": "1B"}, {"target_size": 4 * LLAMA}],
    ids=str,
)
def test_a_budget_that_is_met_removes_nothing_and_warns(
    pruning_type: str, budget: dict[str, Any], unchanged: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with unchanged(model), pytest.warns(PruningWarning, match="Nothing was removed"):
        quietly(model, pruning_type, **budget)


WIDTH_ONLY = [{"pruning_percentage": 20}, {"expansion_rate": 140}]
DEPTH_ONLY: list[dict[str, Any]] = [
    {"pruning_percentage": 20},
    {"num_layers_to_remove": 1},
    {"layer_indices": [1]},
    {"depth_pruning_percentage": 25},
]
BESIDE = [("MLP_GLU", way) for way in WIDTH_ONLY]
BESIDE += [("BOTH", way) for way in WIDTH_ONLY]
BESIDE += [("DEPTH", way) for way in DEPTH_ONLY]


@pytest.mark.parametrize(("pruning_type", "way"), BESIDE, ids=str)
def test_another_target_beside_a_budget_is_refused(
    pruning_type: str, way: dict[str, Any], refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    for budget in ({"target_params": "15K"}, {"target_size": "60KB"}):
        with refused(model, "does not go with a budget of .* Leave one", ArgumentError):
            quietly(model, pruning_type, **way, **budget)


def test_the_untouched_default_of_ten_percent_may_stand_beside_a_budget() -> None:
    assert parameters(quietly(tiny_model("llama"), pruning_percentage=10, target_params="15K"))
    with pytest.raises(ArgumentError, match="pruning_percentage=10 does not go with a budget"):
        plan_pruning(tiny_model("llama"), pruning_percentage=10, target_params="15K")


@pytest.mark.parametrize(
    ("way", "match"),
    [
        ({"target_params": "15K", "target_size": "60KB"}, "are mutually exclusive"),
        ({"target_params": -1}, "target_params=-1 is no amount"),
        ({"target_params": "lots"}, "'lots' is no amount"),
        ({"target_params": True}, "True is no amount"),
        ({"target_size": 1.5}, "target_size=1.5 is no amount"),
        ({"target_params": 100, "layer_indices": [9]}, "layer_indices holds .9., but the model"),
        ({"target_params": "15K", "layer_indices": [4]}, "layer_indices holds .4., but the model"),
        (
            {"target_params": "15K", "pruning_type": "DEPTH", "layer_selection_method": "custom"},
            "needs layer_indices",
        ),
        (
            {"target_params": "15K", "pruning_type": "BOTH", "layer_selection_method": "custom"},
            "needs layer_indices",
        ),
        ({"target_params": "15K", "expansion_divisor": 64}, "multiple of 64"),
    ],
    ids=str,
)
def test_budgets_that_cannot_be_are_refused(
    way: dict[str, Any], match: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, match, ArgumentError):
        quietly(model, **way)


@pytest.mark.parametrize("pruning_type", ["MLP_GLU", "BOTH"])
def test_a_width_that_the_family_cannot_express_is_refused_before_it_is_weighed(
    pruning_type: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model("bloom")
    with refused(model, "no intermediate size", UnsupportedModelError):
        quietly(model, pruning_type, target_params=1)
    assert len(describe(quietly(model, "DEPTH", target_params=parameters(model) - 1)).layers) == 3


FAMILIES = ["llama", "gemma3_text", "phi3", "gpt2", "opt", "mixtral", "qwen2_moe", "qwen3_moe"]


@pytest.mark.parametrize("family", FAMILIES)
def test_both_is_the_same_as_one_after_the_other(
    family: str, logits_of: Callable[[Any], Tensor], reloaded: Callable[[Any], Any]
) -> None:
    both = quietly(tiny_model(family), "BOTH", pruning_percentage=50, layer_indices=[0, 3])
    after_depth, after_width = tiny_model(family), tiny_model(family)
    quietly(after_depth, "DEPTH", layer_indices=[0, 3])
    quietly(after_depth, pruning_percentage=50)
    quietly(after_width, pruning_percentage=50)
    quietly(after_width, "DEPTH", layer_indices=[0, 3])
    for other in (after_depth, after_width):
        assert both.config.to_dict() == other.config.to_dict()
        mine, theirs = both.state_dict(), other.state_dict()
        assert list(mine) == list(theirs)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert torch.equal(logits_of(reloaded(both)), logits_of(both))


def test_both_with_statistics_counts_both() -> None:
    model, statistics = prune_model(
        tiny_model("llama"),
        "BOTH",
        pruning_percentage=50,
        num_layers_to_remove=1,
        show_progress=False,
        return_stats=True,
    )
    assert (statistics["layers_removed"], statistics["expansion_rate"]) == (1, 125)
    assert statistics["pruned_parameters"] == parameters(model) == 8720 + 3 * (800 + 20 * NEURON)


@pytest.mark.parametrize(
    ("way", "match"),
    [
        ({"pruning_percentage": 20}, "No depth target"),
        ({"pruning_percentage": 20, "layer_indices": [4]}, "layer_indices holds"),
        ({"pruning_percentage": 100, "num_layers_to_remove": 1}, "pruning_percentage=100"),
        (
            {"pruning_percentage": 20, "expansion_rate": 140, "num_layers_to_remove": 1},
            "mutually exclusive",
        ),
        ({"pruning_percentage": 20, "num_layers_to_remove": 4}, "1 to 3"),
        ({"expansion_rate": 300, "num_layers_to_remove": 1}, "above the current 250 %"),
        (
            {"pruning_percentage": 20, "num_layers_to_remove": 1, "layer_indices": [1]},
            "are mutually exclusive",
        ),
    ],
    ids=str,
)
def test_both_needs_one_target_of_each_kind(
    way: dict[str, Any], match: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, match, ArgumentError):
        quietly(model, "BOTH", **way)
