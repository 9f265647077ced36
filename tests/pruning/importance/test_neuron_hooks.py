"""Norms step by step are those that calibration takes at once; padding does not count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from optipfair import ArgumentError, DataError, UnsupportedModelError
from optipfair.arch.view import describe
from optipfair.bias.activations import remove_hooks
from optipfair.pruning import (
    get_activation_norms,
    run_calibration_forward_passes,
    setup_mlp_hooks_for_importance,
)
from optipfair.pruning.calibration import activations
from optipfair.pruning.calibration.activations import neuron_input_norms
from optipfair.testing import tiny_model

IDS = torch.arange(36).reshape(3, 12)
MASK = (torch.arange(12) < torch.tensor([[12], [5], [9]])).long()
BATCHES = [{"input_ids": IDS, "attention_mask": MASK}, IDS[:1]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mixtral"])
def test_norms_are_those_of_calibration(family: str, unchanged: Callable[..., Any]) -> None:
    model: Any = tiny_model(family)
    wanted = neuron_input_norms(describe(model), BATCHES)
    with unchanged(model):
        hooks = setup_mlp_hooks_for_importance(model)
        run_calibration_forward_passes(model, BATCHES, show_progress=False)
        remove_hooks(hooks)
    found = get_activation_norms(hooks)
    assert len(found) == len(wanted)
    for (layer, _), norms in wanted.items():
        torch.testing.assert_close(found[layer], norms.float())


def test_a_forward_of_ones_own_counts_real_tokens_alone() -> None:
    model: Any = tiny_model("llama")
    hooks = setup_mlp_hooks_for_importance(model)
    model(IDS, MASK)
    one = get_activation_norms(hooks)[0]
    model(input_ids=IDS[:1])
    remove_hooks(hooks)
    model(IDS)
    wanted = neuron_input_norms(describe(model), BATCHES)[0, "mlp"]
    torch.testing.assert_close(get_activation_norms(hooks)[0], wanted.float())
    assert bool((one < wanted).all())


def test_norms_of_nothing_are_refused() -> None:
    hooks = setup_mlp_hooks_for_importance(tiny_model("llama"))
    with pytest.raises(DataError, match="Nothing ran yet"):
        get_activation_norms(hooks)
    with pytest.raises(ArgumentError, match="hooks is a list"):
        get_activation_norms([])  # type: ignore[arg-type]


def test_layers_of_several_mlps_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="has 2 MLPs"):
        setup_mlp_hooks_for_importance(tiny_model("qwen2_moe"))


def test_norms_can_be_read_again_where_processes_share_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model: Any = tiny_model("llama")
    hooks = setup_mlp_hooks_for_importance(model)
    run_calibration_forward_passes(model, BATCHES, show_progress=False)
    monkeypatch.setattr(activations, "sum_", lambda total: total.mul_(4))  # four that saw the same
    once, again = get_activation_norms(hooks)[0], get_activation_norms(hooks)[0]
    assert torch.equal(once, again)
