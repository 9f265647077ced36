"""What routers do with calibration text: which experts get how many tokens, and what these add.

The experts' own forward is asked once more for each place among the chosen, with weights of one, so
nothing of any family's activation or layout is known here.

Axes: `B` batch, `S` sequence, `T` tokens, `K` chosen experts of a token, `E` experts, `H` hidden.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...arch.view import LayerView, MLPView, ModelView, find_mlp
from ...distributed import sum_, together
from ...errors import UnsupportedModelError
from ...hooks import evaluating
from ...noted import warn
from ...progress import track
from .activations import down_module, not_finite_on_data, run_batches, token_mask, updating
from .stream import Batches, run_layer

Key = tuple[int, str]


@dataclass(frozen=True)
class Routing:
    """Sums over the calibration tokens that a layer's router sent to each expert, (E,) float64."""

    tokens: Tensor  # how many
    gates: Tensor  # what their outputs were weighted with
    added: Tensor  # the L2 norms of their outputs, so weighted


class RoutingSums:
    """Running sums of what one layer's router and experts do."""

    def __init__(self, experts: MLPView) -> None:
        self.mlp, self.module = experts, experts_module(experts)
        device = experts.tensors[experts.spec.down].device
        self.sums = torch.zeros(3, experts.width, dtype=torch.float64, device=device)

    def update(self, args: tuple[Any, ...], mask: Tensor) -> None:
        """Add what the experts were given: hidden states, chosen experts and gates, by position.

        `mask` (B, S) says which tokens are real.
        """
        hidden, chosen, gates = args[:3]
        real = token_mask(hidden, mask).to(hidden.device)
        if chosen.shape != gates.shape or chosen.shape[:-1].numel() != real.numel():
            raise _of_its_own(self.mlp, self.module)
        for place in range(chosen.shape[-1]):
            ids, gate = chosen[..., place : place + 1], gates[..., place : place + 1]
            output: Tensor = self.module.forward(
                hidden, ids.contiguous(), torch.ones_like(gate).contiguous()
            )
            norms = output.detach().flatten(0, -2)[real].float().norm(dim=-1)  # (T,)
            expert, weight = ids.flatten()[real], gate.flatten()[real].float()
            known = expert < self.mlp.width  # some routers number an empty expert
            values = torch.stack([torch.ones_like(weight), weight, weight * norms])[:, known]
            self.sums.index_add_(1, expert[known], values.double())

    def routing(self) -> Routing:
        """The sums over the tokens of all processes."""
        sums = self.sums.clone()
        sum_(sums)
        if not bool(torch.isfinite(sums).all()):
            raise not_finite_on_data(f"outputs of the experts in layer {self.mlp.layer}")
        return Routing(*sums)


def routing_of_model(
    view: ModelView, batches: Iterable[object], *, show_progress: bool = False
) -> dict[Key, Routing]:
    """What the routers of a model in memory do; it is left as it was."""
    sums = [RoutingSums(mlp) for mlp in view.mlps]
    run_batches(view, batches, [(each.module, each.update) for each in sums], show_progress)
    return _said({each.mlp.key: each.routing() for each in sums})


def routing_by_layers(
    batches: Batches, wanted: Collection[Key], *, show_progress: bool = False
) -> dict[Key, Routing]:
    """The same of a model whose layers come one at a time; `batches` are used up."""
    for mlp in batches.view.mlps:
        experts_module(mlp)
    last = max((index for index, _ in wanted), default=-1)
    found: dict[Key, Routing] = {}
    with evaluating(batches.view.model):
        for layer in track(batches.view.layers, "calibrating", show_progress, unit="layer"):
            if layer.index <= last:
                found |= _of_layer(layer, batches)
    return _said({key: routing for key, routing in found.items() if key in wanted})


def _of_layer(layer: LayerView, batches: Batches) -> dict[Key, Routing]:
    with together():
        copied = batches.source.copied(layer)
    own = [view for m in layer.mlps if (view := find_mlp(layer.index, copied, m.spec)) is not None]
    sums, mask = [RoutingSums(mlp) for mlp in own], list[Tensor]()
    with together(), updating([(each.module, each.update) for each in sums], mask):
        for number, hidden in enumerate(batches.hidden):
            mask[:] = [batches.masks[number]]
            arguments = batches.arguments[number][layer.index]
            batches.hidden[number] = run_layer(copied, hidden, arguments)
    return {each.mlp.key: each.routing() for each in sums}


def _said(found: dict[Key, Routing]) -> dict[Key, Routing]:
    """The same, with a warning about experts that no token was routed to."""
    idle = {layer: int((routing.tokens == 0).sum()) for (layer, _), routing in found.items()}
    layers = [layer for layer, count in idle.items() if count]
    if layers:
        total = sum(len(routing.tokens) for routing in found.values())
        warn(
            f"No calibration token was routed to {sum(idle.values())} of {total} experts (of "
            f"layers {', '.join(map(str, layers[:8]))}{', ...' if layers[8:] else ''}), so these "
            "score 0 and go first. Give more text, or text of more kinds."
        )
    return found


def experts_module(experts: MLPView) -> nn.Module:
    """The module that takes hidden states, chosen experts and their weights: that which holds the
    tensors, or one around it.
    """
    path = experts.spec.down.module
    while path:
        module = experts.owner.get_submodule(path)
        names = list(inspect.signature(module.forward).parameters)
        if len(names) == 3 and any(word in names[1] for word in ("index", "indices", "experts")):
            return module
        path = path.rpartition(".")[0]
    raise _of_its_own(experts, down_module(experts))


def _of_its_own(experts: MLPView, module: nn.Module) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"The experts of layer {experts.layer} ({type(module).__name__}) do not show what the "
        "router chose, so data cannot score them. Use expert_selection_method='NORM'."
    )
