"""Whether dropped experts should be averaged into kept ones, on the model of `experts.py`.

The kept experts are those that REAP keeps. Each dropped one goes to the kept one that it is most
like (the mean of the cosine of their outputs, weighted by gates, and of their router logits, over
calibration tokens); a group's weights are averaged by REAP score, after each member's neurons have
been put into the order that fits the kept one's best. After REAM (arXiv 2604.04356), of which the
layer-by-layer order of merging is left out. Beside it: the same without putting neurons in order,
and REAP alone.

    python benchmarks/merging.py --model FOLDER
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from experts import CONTEXT, held_back, perplexities, ratio
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from optipfair import apply_plan, calibration_loader, plan_pruning
from optipfair.loading.models import load_model
from optipfair.loading.tokenizers import load_tokenizer
from optipfair.noted import unheard

SEEN = 2048  # tokens on which experts are compared


def seen_by_layer(model: Any, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What enters each layer's experts (T, H), and its router's logits (T, E)."""
    found: list[tuple[Tensor, Tensor]] = []

    def note(module: Any, args: tuple[Any, ...], _output: Any) -> None:
        hidden = args[0].reshape(-1, args[0].shape[-1])
        found.append((hidden, hidden @ module.weight.T))

    hooks = [layer.mlp.gate.register_forward_hook(note) for layer in model.model.layers]
    with torch.no_grad():
        model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return found


def outputs(experts: Any, hidden: Tensor) -> Tensor:
    """What each expert gives for each token, (E, T, H)."""
    count = len(experts.down_proj)
    ones = torch.ones(len(hidden), 1)
    with torch.no_grad():
        return torch.stack(
            [experts(hidden, torch.full((len(hidden), 1), e), ones) for e in range(count)]
        )


def likeness(experts: Any, hidden: Tensor, logits: Tensor) -> Tensor:
    """How much experts are alike, (E, E)."""
    gated = outputs(experts, hidden) * logits.softmax(dim=-1).T[:, :, None]
    alike = []
    for vectors in (gated.flatten(1), logits.T):
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        alike.append(unit @ unit.T)
    return (alike[0] + alike[1]) / 2


def in_order(experts: Any, member: int, like: int) -> Tensor:
    """The neurons of one expert in the order that fits another's best."""

    def rows(expert: int) -> Tensor:
        gate, up = experts.gate_up_proj[expert].detach().chunk(2)
        down = experts.down_proj[expert].detach().T
        parts = [torch.nn.functional.normalize(each, dim=-1) for each in (gate, up, down)]
        return torch.cat(parts, dim=-1)

    _, order = linear_sum_assignment((rows(like) @ rows(member).T).numpy(), maximize=True)
    return torch.from_numpy(order)


def merged(model: Any, plan: Any, ids: Tensor, scores: Mapping[int, Tensor], sort: bool) -> Any:
    """A copy of the model, merged and cut."""
    replacements: dict[tuple[int, str, str], Tensor] = {}
    seen = seen_by_layer(model, ids)
    for cut in plan.width_cuts:
        experts = model.model.layers[cut.layer].mlp.experts
        kept = list(cut.keep[0])
        alike = likeness(experts, *seen[cut.layer])
        groups = {expert: [expert] for expert in kept}
        for expert in set(range(cut.width)) - set(kept):
            groups[max(kept, key=lambda other, e=expert: float(alike[e, other]))].append(expert)
        gate_up, down = [], []
        for expert in kept:
            weights = scores[cut.layer][groups[expert]].float().clamp_min(1e-9)
            into, out = torch.zeros_like(experts.gate_up_proj[0]), None
            out = torch.zeros_like(experts.down_proj[0])
            for member, weight in zip(groups[expert], weights / weights.sum(), strict=True):
                order = torch.arange(experts.down_proj.shape[-1])
                if sort and member != expert:
                    order = in_order(experts, member, expert)
                both = torch.cat([order, order + len(order)])
                into += weight * experts.gate_up_proj[member].detach()[both]
                out += weight * experts.down_proj[member].detach()[:, order]
            gate_up.append(into)
            down.append(out)
        path = "mlp.experts"
        replacements[cut.layer, cut.mlp, f"{path}.gate_up_proj"] = torch.stack(gate_up)
        replacements[cut.layer, cut.mlp, f"{path}.down_proj"] = torch.stack(down)
    return apply_plan(copy.deepcopy(model), plan, replacements)


def main() -> None:
    from optipfair.arch.units.experts import by_experts
    from optipfair.arch.view import describe
    from optipfair.pruning.calibration.routing import routing_of_model

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    asked = parser.parse_args()
    tokenizer: Any = load_tokenizer(asked.model)
    model: Any = load_model(asked.model, dtype="float32")
    texts = held_back(tokenizer)
    dense = perplexities(model, texts)
    data = list(calibration_loader("builtin", tokenizer, samples=256, length=CONTEXT, seed=0))
    ids = torch.cat([batch["input_ids"] for batch in data])[: SEEN // CONTEXT]
    with unheard():
        found = routing_of_model(by_experts(describe(model)), data)
    scores = {layer: each.added / each.tokens.clamp_min(1) for (layer, _), each in found.items()}
    total = int(model.config.num_experts)
    for kept in (total * 7 // 8, total * 3 // 4, total // 2):
        with unheard():
            plan = plan_pruning(model, "EXPERTS", experts_to_keep=kept, dataloader=data)
        rows = {
            "REAP": lambda plan=plan: apply_plan(copy.deepcopy(model), plan),
            "merged": lambda plan=plan: merged(model, plan, ids, scores, True),
            "merged, not in order": lambda plan=plan: merged(model, plan, ids, scores, False),
        }
        print(f"{kept} of {total} experts")
        for name, make in rows.items():
            print(f"  {name:24}{ratio(perplexities(make(), texts), dense):9.4f}", flush=True)


if __name__ == "__main__":
    main()
