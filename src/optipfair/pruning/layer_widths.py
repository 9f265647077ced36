"""Widths that differ by layer: a layer that is missed more loses fewer neurons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from torch import nn

from ..arch.view import LayerView, ModelView
from .calibration.stream import capture, copied_layer
from .compensation.by_layers import decide_by_layers
from .cut.guard import Rewrite, prove
from .cut.plan import PruningPlan, WidthCut
from .cut.surgery import cut_copy
from .layers.removal_loss import TextLoss
from .request.pruning_request import PruningRequest
from .request.widths import Share, allocate, width_multiple


def widths_by_loss(
    view: ModelView,
    request: PruningRequest,
    plan: PruningPlan,
    batches: Iterable[object],
    choose: Callable[[PruningPlan], PruningPlan],
    show_progress: bool,
) -> PruningPlan:
    """Share the neurons that go out among the layers, by what each layer's alone cost.

    `plan` says how many stay where all layers lose the same share; `choose` gives such a plan its
    neurons, unless the pass over the layers decides them.
    """
    shares = [_share(view, request, cut) for cut in plan.width_cuts]
    prove(view, _with_kept(plan, [s.kept_at(1 + s.layer % 2 / 2) for s in shares]))  # may differ?
    rewrite = prove(view, plan)
    alone = replace(request, sequential=False)
    alike = decide_by_layers(
        view, capture(view, batches), choose(plan), alone, rewrite, show_progress=show_progress
    )
    losses = layer_losses(TextLoss(view, batches, show_progress), alike, rewrite)
    record = {
        "layer_widths": request.layer_widths,
        "layer_losses": [[layer, loss] for layer, loss in losses.items()],
    }
    allocated = _with_kept(plan, allocate(shares, losses))
    return replace(allocated, request={**plan.request, **record})


def _share(view: ModelView, request: PruningRequest, cut: WidthCut) -> Share:
    mlp = next(m for m in view.layers[cut.layer].mlps if m.spec.name == cut.mlp)
    divisor = (request.width and request.width.divisor) or 1
    multiple = math.lcm(divisor, width_multiple(view.spec, mlp.spec))
    size = sum(tensor.numel() for tensor in mlp.tensors.values()) // cut.width
    return Share(cut.layer, cut.width, cut.kept, int(multiple * mlp.spec.width_factor), size)


def _with_kept(plan: PruningPlan, kept: Sequence[int]) -> PruningPlan:
    """The plan with other numbers of neurons; which ones is decided later."""
    pairs = zip(plan.width_cuts, kept, strict=True)
    return replace(
        plan, width_cuts=tuple(replace(cut, count=n) for cut, n in pairs if n < cut.width)
    )


def layer_losses(text: TextLoss, plan: PruningPlan, rewrite: Rewrite) -> dict[int, float]:
    """By how much the loss of a token rises if one layer is as planned, the others whole."""

    def pruned(layer: LayerView) -> nn.Module:
        copied = copied_layer(layer.module)
        cut_copy(layer, copied, plan, rewrite)
        return copied

    return text.rises({cut.layer for cut in plan.width_cuts}, pruned)
