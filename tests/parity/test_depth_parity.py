"""Depth, every family: a removed layer == a skipped layer, in memory and after a reload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optipfair import UnsupportedModelError, get_model_layers, prune_model, prune_model_depth
from optipfair.testing import TINY_FAMILIES, tiny_model
from support.oracles import greedy, plain_attributes, with_skipped_layers
from support.walk import MODEL_TYPES

DROPS = [[3], [2, 3], [1], [0, 2]]


@pytest.mark.parametrize("drop", DROPS, ids=str)
@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_removed_layers_equal_skipped_layers(
    family: str, drop: list[int], logits_of: Callable[..., Tensor]
) -> None:
    model = tiny_model(family)
    skipped = with_skipped_layers(model, drop)
    original = logits_of(model)
    pruned = logits_of(prune_model_depth(model, layer_indices=drop, show_progress=False))
    torch.testing.assert_close(pruned, logits_of(skipped), atol=1e-5, rtol=0)
    assert (pruned - original).abs().max() > 1e-3, "the oracle must see the cut"


@pytest.mark.parametrize("drop", DROPS, ids=str)
@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_shortened_model_loads_in_plain_transformers_and_generates(
    family: str,
    drop: list[int],
    logits_of: Callable[..., Tensor],
    reloaded: Callable[..., Any],
    token_ids: Tensor,
) -> None:
    model = prune_model_depth(tiny_model(family), layer_indices=drop, show_progress=False)
    loaded = reloaded(model)
    assert loaded.config.num_hidden_layers == len(get_model_layers(loaded)) == 4 - len(drop)
    torch.testing.assert_close(logits_of(loaded), logits_of(model), atol=1e-5, rtol=0)
    assert greedy(loaded, token_ids, cache=True) == greedy(model, token_ids, cache=False)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_module_attributes_are_those_of_the_reloaded_model(
    family: str, reloaded: Callable[..., Any]
) -> None:
    model = prune_model_depth(tiny_model(family), layer_indices=[0, 2], show_progress=False)
    expected = dict(reloaded(model).named_modules())
    assert [name for name, _ in model.named_modules()] == list(expected)
    for name, module in model.named_modules():
        if name:  # transformers notes on the model itself that it was loaded
            # (A buffer of a layer type that is gone may stay behind, and is not saved.)
            left = {**plain_attributes(module), **plain_attributes(expected[name])}
            assert left == plain_attributes(module), name


@pytest.mark.parametrize(
    ("family", "drop", "fields"),
    [
        ("qwen2", [1], {"max_window_layers": 1}),
        ("qwen3", [0, 2], {"max_window_layers": 1}),
        ("gemma2", [0, 2], {"layer_types": ["full_attention"] * 2}),
        ("gemma3_text", [0, 3], {"layer_types": ["full_attention", "sliding_attention"]}),
        ("qwen2_moe", [0, 1], {"mlp_only_layers": [0], "decoder_sparse_step": 1}),
        ("qwen3_moe", [1], {"mlp_only_layers": [0, 1], "decoder_sparse_step": 1}),
    ],
)
def test_fields_by_layer_follow_the_kept_layers(
    family: str, drop: list[int], fields: dict[str, object], reloaded: Callable[..., Any]
) -> None:
    model = prune_model_depth(tiny_model(family), layer_indices=drop, show_progress=False)
    loaded = reloaded(model)
    for name, value in fields.items():
        assert getattr(model.config, name) == getattr(loaded.config, name) == value


@pytest.mark.parametrize("family", ["qwen2_moe", "qwen3_moe"])
def test_kept_layers_stay_sparse_or_dense(family: str) -> None:
    model = tiny_model(family)
    kinds = [type(layer.mlp) for layer in get_model_layers(model)]
    prune_model_depth(model, layer_indices=[1], show_progress=False)
    assert [type(layer.mlp) for layer in get_model_layers(model)] == [kinds[i] for i in (0, 2, 3)]


def test_layer_1_of_a_gpt2_that_scales_attention_by_layer_is_refused(
    refused: Callable[..., Any],
) -> None:
    model = tiny_model("gpt2", scale_attn_by_inverse_layer_idx=True)
    with refused(model, "load as another model", UnsupportedModelError):
        prune_model(model, "DEPTH", layer_indices=[1], show_progress=False)


def test_the_last_layer_of_a_gpt2_that_scales_attention_by_layer_goes(
    logits_of: Callable[..., Tensor], reloaded: Callable[..., Any]
) -> None:
    model = tiny_model("gpt2", scale_attn_by_inverse_layer_idx=True)
    skipped = with_skipped_layers(model, [3])
    prune_model(model, "DEPTH", num_layers_to_remove=1, show_progress=False)
    torch.testing.assert_close(logits_of(reloaded(model)), logits_of(skipped), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("drop", [[0], [2]], ids=str)
@pytest.mark.parametrize("family", ["glm_moe_dsa", "hy_v4"])
def test_a_layer_whose_chosen_keys_a_kept_layer_shares_is_refused(
    family: str, drop: list[int]
) -> None:
    if family not in MODEL_TYPES:
        pytest.skip(f"this transformers has no {family}")
    with pytest.raises(UnsupportedModelError):  # `indexer_types` are full, shared, full, shared
        prune_model(tiny_model(family), "DEPTH", layer_indices=drop, show_progress=False)
