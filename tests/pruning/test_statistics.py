"""Sizes before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from optipfair import (
    count_parameters,
    get_pruning_statistics,
    prune_model,
    summarize,
)
from optipfair.testing import tiny_model

PRUNE: dict[str, Any] = {"show_progress": False, "return_stats": True}


def total(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_width_statistics_are_exact() -> None:
    model = tiny_model("llama")
    before = total(model)
    pruned, found = prune_model(model, pruning_percentage=20, **PRUNE)
    assert pruned is model
    # 4 layers lose 8 neurons of three vectors of 16 each.
    assert found["reduction"] == 4 * 8 * 3 * 16 == before - total(model)
    assert (found["original_parameters"], found["pruned_parameters"]) == (before, total(model))
    assert found["percentage_reduction"] == pytest.approx(100 * 1536 / before)
    assert found["expansion_rate"] == 200.0  # 32 of 16
    assert found["original_bytes"] - found["pruned_bytes"] == 1536 * 4
    assert (found["layers_removed"], found["layer_reduction_percentage"]) == (0, 0.0)


def test_depth_statistics_are_exact() -> None:
    model = tiny_model("llama")
    layer = total(model.model.layers[3])
    _, found = prune_model(model, "DEPTH", num_layers_to_remove=1, **PRUNE)
    assert found["reduction"] == layer
    assert found["original_layer_count"] == 4
    assert found["final_layer_count"] == 3
    assert found["layers_removed"] == 1
    assert found["layer_reduction_percentage"] == 25.0
    assert found["expansion_rate"] == 250.0


@pytest.mark.parametrize("family", ["mixtral", "gpt2", "bloom"])
def test_every_family_has_the_same_keys_and_experts_their_number(family: str) -> None:
    _, found = prune_model(tiny_model(family), "DEPTH", num_layers_to_remove=1, **PRUNE)
    _, expected = prune_model(tiny_model("llama"), pruning_percentage=20, **PRUNE)
    of_experts = {"original_experts", "pruned_experts"} if family == "mixtral" else set()
    assert found.keys() == expected.keys() | of_experts


def test_models_and_summaries_give_the_same_statistics() -> None:
    original, model = tiny_model("llama"), tiny_model("llama")
    before = summarize(model)
    prune_model(model, pruning_percentage=20, show_progress=False)
    expected = get_pruning_statistics(before, summarize(model))
    assert get_pruning_statistics(original, model) == expected
    assert get_pruning_statistics(before, model) == expected


def test_frozen_weights_count_in_statistics_but_not_as_trainable() -> None:
    model = tiny_model("llama").requires_grad_(False)
    model.lm_head.weight.requires_grad = True
    assert count_parameters(model) == model.lm_head.weight.numel()
    assert summarize(model).parameters == total(model)
    _, found = prune_model(model, pruning_percentage=20, **PRUNE)
    assert found["reduction"] == 1536


def test_shared_weights_count_once() -> None:
    tied = tiny_model("llama", tie_word_embeddings=True)
    free = tiny_model("llama", tie_word_embeddings=False)
    assert count_parameters(free) - count_parameters(tied) == 272 * 16
    assert summarize(free).parameters - summarize(tied).parameters == 272 * 16


def test_bytes_follow_the_dtype() -> None:
    model = tiny_model("llama")
    before = summarize(model)
    assert before.bytes == 4 * before.parameters
    assert summarize(model.half()).bytes == 2 * before.parameters


def test_any_module_can_be_counted() -> None:
    assert count_parameters(nn.Linear(3, 2)) == 8
    found = get_pruning_statistics(nn.Linear(3, 2), nn.Linear(2, 2))
    assert (found["reduction"], found["percentage_reduction"]) == (2, 25.0)
    assert found["expansion_rate"] is None
    assert "layers_removed" not in found


def test_a_module_without_parameters_divides_by_nothing() -> None:
    assert get_pruning_statistics(nn.ReLU(), nn.ReLU())["percentage_reduction"] == 0.0


def test_summarizing_leaves_the_model_alone(unchanged: Callable[..., Any]) -> None:
    model = tiny_model("qwen2_moe")
    with unchanged(model):
        assert summarize(model).widths == {
            "experts": [24] * 3,
            "shared_expert": [32] * 3,
            "mlp": [40],
        }
