"""Several prunings one after the other still reload as the model in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optipfair import prune_model
from optipfair.arch.view import describe
from optipfair.testing import tiny_model

# One of each kind: gated, layer types by position, fused, experts, mixed, Conv1D, on the layer.
KINDS = ["llama", "qwen3", "gemma3_text", "phi3", "mixtral", "qwen2_moe", "gpt2", "opt"]
WIDTH: dict[str, Any] = {"expansion_rate": 100, "show_progress": False}
DEPTH: dict[str, Any] = {"pruning_type": "DEPTH", "layer_indices": [1], "show_progress": False}


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("steps", [(WIDTH, DEPTH), (DEPTH, WIDTH), (DEPTH, DEPTH)], ids=range(3))
def test_prunings_compose_and_reload(
    family: str,
    steps: tuple[dict[str, Any], ...],
    logits_of: Callable[..., Tensor],
    reloaded: Callable[..., Any],
) -> None:
    model = tiny_model(family)
    for step in steps:
        prune_model(model, **step)
    torch.testing.assert_close(logits_of(reloaded(model)), logits_of(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")
def test_pruning_width_twice_reloads(
    family: str, logits_of: Callable[..., Tensor], reloaded: Callable[..., Any]
) -> None:
    model = tiny_model(family)
    prune_model(model, pruning_percentage=20, show_progress=False)
    between = [mlp.width for mlp in describe(model).mlps]
    prune_model(model, pruning_percentage=40, show_progress=False)
    assert all(mlp.width < width for mlp, width in zip(describe(model).mlps, between, strict=True))
    torch.testing.assert_close(logits_of(reloaded(model)), logits_of(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2_moe"])
def test_width_and_depth_in_either_order_give_the_same_model(
    family: str, logits_of: Callable[..., Tensor]
) -> None:
    one = tiny_model(family)
    other = copy.deepcopy(one)
    for step in (WIDTH, DEPTH):
        prune_model(one, **step)
    for step in (DEPTH, WIDTH):
        prune_model(other, **step)
    assert torch.equal(logits_of(one), logits_of(other))
    assert one.config.to_dict() == other.config.to_dict()
