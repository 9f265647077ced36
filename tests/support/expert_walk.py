"""What removing an expert does to one toy model: served right, or refused with the reason."""

from __future__ import annotations

import copy
from typing import Any

import torch

from optipfair import apply_plan, plan_pruning
from optipfair.errors import UnsupportedModelError
from support.oracles import masked_experts
from support.walk import OK, generated, logits, same_tensors, save_and_reload

# Fields without which the toy models of these families have no experts.
SWITCHES: dict[str, dict[str, Any]] = {
    "gemma4_text": {"enable_moe_block": True},
    "doge": {"is_moe": True},
}


def stirred(model: Any) -> Any:
    """The same model without tensors that hold one value only, as some routers and biases do."""
    generator = torch.Generator().manual_seed(1)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.numel() and bool((tensor == tensor.max()).all()):
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model


def served_or_refused(model: Any) -> str:
    """Remove an expert of each layer, save, reload, generate, and compare with the oracle."""
    model = stirred(model)
    victim = copy.deepcopy(model)
    asked = {"expert_selection_method": "NORM", "num_experts_to_remove": 1}
    try:
        plan = plan_pruning(victim, "EXPERTS", **asked)
        apply_plan(victim, plan)
    except UnsupportedModelError as refusal:
        assert same_tensors(victim, model), "a refused call changed the model"
        return str(refusal)
    pruned = logits(victim)
    with masked_experts(model, plan) as masked:
        expected = logits(masked)
    torch.testing.assert_close(pruned, expected, atol=1e-5, rtol=0)
    reloaded = save_and_reload(victim)
    torch.testing.assert_close(logits(reloaded), pruned, atol=1e-5, rtol=0)
    assert generated(victim) == generated(reloaded)
    assert (generated(model) is None) == (generated(victim) is None)
    return OK
