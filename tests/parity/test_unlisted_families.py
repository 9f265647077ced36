"""Families that are not in the table: served by structure and equal after a reload, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optipfair import UnsupportedModelError, prune_model
from optipfair.testing import TINY_FAMILIES
from support.oracles import model_state

SIZES = {
    "vocab_size": 272,
    "max_position_embeddings": 128,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "n_group": 1,
    "topk_group": 1,
}
SERVED = ["granite", "stablelm", "olmo2", "cohere2", "glm4", "exaone4"]
DOUBTFUL = ["smollm3", "diffllama", "minimax", "glm4_moe", "ernie4_5_moe", "qwen3_next", "phimoe"]
PRUNINGS: list[dict[str, Any]] = [
    {"pruning_percentage": 40},
    {"pruning_type": "DEPTH", "layer_indices": [1]},
    {"pruning_type": "DEPTH", "layer_indices": [0, 2]},
]


def unlisted_model(model_type: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    assert model_type not in TINY_FAMILIES
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **SIZES)
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("pruning", PRUNINGS, ids=str)
@pytest.mark.parametrize("model_type", SERVED)
def test_a_family_built_like_a_listed_one_is_served(
    model_type: str,
    pruning: dict[str, Any],
    logits_of: Callable[..., Tensor],
    reloaded: Callable[..., Any],
) -> None:
    model = prune_model(unlisted_model(model_type), **pruning, show_progress=False)
    torch.testing.assert_close(logits_of(reloaded(model)), logits_of(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pruning", PRUNINGS, ids=str)
@pytest.mark.parametrize("model_type", DOUBTFUL)
@pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")
def test_no_family_reloads_as_another_model(
    model_type: str,
    pruning: dict[str, Any],
    logits_of: Callable[..., Tensor],
    reloaded: Callable[..., Any],
) -> None:
    model = unlisted_model(model_type)
    before = model_state(model)
    try:
        prune_model(model, **pruning, show_progress=False)
    except UnsupportedModelError:
        assert model_state(model) == before
        return
    torch.testing.assert_close(logits_of(reloaded(model)), logits_of(model), atol=1e-5, rtol=0)


def test_a_fixed_rule_by_layer_is_refused_naming_what_would_change(
    refused: Callable[..., Any],
) -> None:
    model = unlisted_model("diffllama")
    with refused(model, "lambda_init would change"):
        prune_model(model, "DEPTH", layer_indices=[1], show_progress=False)


def test_removing_all_attention_layers_of_a_hybrid_model_is_refused(
    refused: Callable[..., Any],
) -> None:
    model = unlisted_model("qwen3_next")
    assert model.config.layer_types.index("full_attention") == 3  # the only one
    with refused(model, "attention"):
        prune_model(model, "DEPTH", layer_indices=[3], show_progress=False)
