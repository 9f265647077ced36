"""Decisions of toy models on a thousand tokens, and what they say."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from optipfair import prune_model
from optipfair.arch.view import describe
from optipfair.pruning.cut.plan import PruningPlan
from optipfair.pruning.decision import decide
from optipfair.pruning.importance.criteria import CRITERIA
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.pruning.request.pruning_request import check_request

NEED_DATA = [name for name in CRITERIA if CRITERIA[name].needs_data]


def texts() -> list[list[int]]:
    """About 1000 tokens: 256 come before the first that are held back, for each expert."""
    draw = random.Random(3)
    return [[draw.randrange(256) for _ in range(draw.randrange(8, 24))] for _ in range(64)]


def batches(size: int, side: str = "right", order: int = 1) -> list[dict[str, Tensor]]:
    rows = texts()[::order]
    return [_padded(rows[start : start + size], side) for start in range(0, len(rows), size)]


def _padded(rows: list[list[int]], side: str) -> dict[str, Tensor]:
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        gap = longest - len(row)
        before, after = (gap, 0) if side == "left" else (0, gap)
        ids.append([7] * before + row + [7] * after)
        mask.append([0] * before + [1] * len(row) + [0] * after)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


DATA = batches(16)


def decision(
    model: Any, method: str = "AUTO", percentage: float = 40, *, data: Any = DATA, **options: Any
) -> PruningPlan:
    request = check_request(
        PruneOptions("MLP_GLU", percentage, neuron_selection_method=method, **options), data
    )
    return decide(describe(model), request, data)[0]


def pruned(
    model: Any, kind: str = "MLP_GLU", method: str = "AUTO", percentage: float = 40, **options: Any
) -> Any:
    return prune_model(
        model, kind, method, percentage, show_progress=False, **{"dataloader": DATA, **options}
    )


def kept(found: PruningPlan) -> list[tuple[tuple[int, ...], ...]]:
    return [cut.keep for cut in found.width_cuts]


def errors(found: PruningPlan) -> list[dict[str, Any]]:
    return list(found.request["reconstruction_errors"])


def errors_of(found: PruningPlan) -> list[tuple[float, float]]:
    """The errors of the compensated and of the sliced weights, which must both be known."""
    pairs = [(each["error"], each["sliced_error"]) for each in errors(found)]
    return [(new, sliced) for new, sliced in pairs if new is not None and sliced is not None]


def assert_same_weights(one: Any, other: Any) -> None:
    expected = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def outputs_of(model: Any, layer: int, name: str) -> Tensor:
    """What the module that holds an MLP's down projection gives for the real tokens."""
    mlp = next(m for m in describe(model).mlps if (m.layer, m.spec.name) == (layer, name))
    seen: list[Tensor] = []
    module = mlp.owner.get_submodule(mlp.spec.down.module)
    handle = module.register_forward_hook(lambda _m, _a, output: seen.append(output))
    rows = []
    with torch.no_grad():
        for batch in DATA:
            model(**batch)
            real = batch["attention_mask"].flatten().bool()
            rows.append(seen.pop().flatten(0, -2)[real])  # (B*S, H)
    handle.remove()
    return torch.cat(rows)
