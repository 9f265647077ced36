"""Width, every family: removed neurons == zeroed neurons, in memory and after a reload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optipfair import UnsupportedModelError, apply_plan, plan_pruning, prune_model
from optipfair.arch.families import FAMILIES
from optipfair.arch.view import describe
from optipfair.testing import TINY_FAMILIES, tiny_model
from support.oracles import greedy, plain_attributes, with_zeroed_neurons

PRUNABLE = [name for name in TINY_FAMILIES if not any(mlp.why_not for mlp in FAMILIES[name].mlps)]

pytestmark = pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")


@pytest.mark.parametrize("method", ["PPM", "PON"])
@pytest.mark.parametrize("family", PRUNABLE)
def test_removed_neurons_equal_zeroed_neurons(
    family: str, method: str, logits_of: Callable[..., Tensor]
) -> None:
    model = tiny_model(family)
    plan = plan_pruning(model, "MLP_GLU", method, 40)
    zeroed = with_zeroed_neurons(model, plan)
    original = logits_of(model)
    pruned = logits_of(apply_plan(model, plan))
    torch.testing.assert_close(pruned, logits_of(zeroed), atol=1e-5, rtol=0)
    assert (pruned - original).abs().max() > 1e-3, "the oracle must see the cut"


@pytest.mark.parametrize("family", PRUNABLE)
def test_a_saved_model_loads_in_plain_transformers_and_generates(
    family: str, logits_of: Callable[..., Tensor], reloaded: Callable[..., Any], token_ids: Tensor
) -> None:
    model = prune_model(tiny_model(family), pruning_percentage=40, show_progress=False)
    loaded = reloaded(model)
    torch.testing.assert_close(logits_of(loaded), logits_of(model), atol=1e-5, rtol=0)
    assert greedy(loaded, token_ids, cache=True) == greedy(model, token_ids, cache=False)


@pytest.mark.parametrize("family", PRUNABLE)
def test_module_attributes_are_those_of_the_reloaded_model(
    family: str, reloaded: Callable[..., Any]
) -> None:
    model = prune_model(tiny_model(family), pruning_percentage=40, show_progress=False)
    expected = dict(reloaded(model).named_modules())
    for name, module in model.named_modules():
        if name:  # transformers notes on the model itself that it was loaded
            assert plain_attributes(module) == plain_attributes(expected[name]), name


@pytest.mark.parametrize("family", PRUNABLE)
def test_an_expansion_rate_gives_its_width_in_every_family(
    family: str, reloaded: Callable[..., Any], logits_of: Callable[..., Tensor]
) -> None:
    model = prune_model(tiny_model(family), expansion_rate=100, show_progress=False)
    assert {mlp.width for mlp in describe(model).mlps} == {16}  # the hidden size
    torch.testing.assert_close(logits_of(reloaded(model)), logits_of(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", PRUNABLE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_models_keep_their_dtype_and_logits(
    family: str, dtype: torch.dtype, logits_of: Callable[..., Tensor]
) -> None:
    model = tiny_model(family).to(dtype)
    plan = plan_pruning(model, pruning_percentage=40)
    zeroed = with_zeroed_neurons(model, plan)
    apply_plan(model, plan)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    torch.testing.assert_close(logits_of(model), logits_of(zeroed), atol=0.05, rtol=0)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_each_expert_keeps_its_own_neurons(family: str) -> None:
    plan = plan_pruning(tiny_model(family), pruning_percentage=40)
    cuts = [cut for cut in plan.width_cuts if cut.mlp == "experts"]
    assert cuts
    assert all(len(cut.keep) == 4 and len(set(cut.keep)) == 4 for cut in cuts)


def test_bloom_width_is_refused_with_the_reason_and_the_way_out(
    refused: Callable[..., Any],
) -> None:
    model = tiny_model("bloom")
    with refused(model, r"bloom.*no intermediate size.*4 x hidden.*DEPTH", UnsupportedModelError):
        prune_model(model, pruning_percentage=20, show_progress=False)


def test_gpt2_without_a_stated_width_gets_one(reloaded: Callable[..., Any]) -> None:
    model = tiny_model("gpt2")
    assert model.config.n_inner is None
    prune_model(model, pruning_percentage=25, show_progress=False)
    assert model.config.n_inner == reloaded(model).config.n_inner == 48  # 64 - 16
