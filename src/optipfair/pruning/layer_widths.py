"""Widths that differ by layer: a layer that is missed more loses fewer neurons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from ..arch.view import ModelView
from .calibration.stream import capture
from .compensation.by_layers import decide_by_layers
from .cut.guard import prove
from .cut.plan import PruningPlan, WidthCut
from .layer_decisions import adjust_layer, recipe_of
from .layer_losses import layer_losses
from .planning import choose_again
from .request.allocation import Share, allocate
from .request.pruning_request import PruningRequest
from .request.widths import width_multiple


def widths_by_loss(
    view: ModelView,
    request: PruningRequest,
    plan: PruningPlan,
    batches: Iterable[object],
    show_progress: bool,
) -> PruningPlan:
    """Share the neurons that go out among the layers, by what each layer's alone cost."""
    shares = [_share(view, request, cut) for cut in plan.width_cuts]
    prove(view, _with_kept(plan, [s.kept_at(1 + s.layer % 2 / 2) for s in shares]))  # may differ?
    adjust = partial(adjust_layer, view, plan, prove(view, plan))
    found = decide_by_layers(
        view,
        capture(view, batches),
        {(cut.layer, cut.mlp): cut.kept for cut in plan.width_cuts},
        replace(recipe_of(request, plan), sequential=False),
        adjust=adjust,
        show_progress=show_progress,
    )
    losses = layer_losses(view, batches, found, adjust, show_progress=show_progress)
    record = {"layer_widths": request.layer_widths, "layer_losses": list(losses.items())}
    allocated = _with_kept(plan, allocate(shares, losses))
    allocated = choose_again(view, request, allocated, batches, show_progress=show_progress)
    return replace(allocated, request={**plan.request, **record})


def _share(view: ModelView, request: PruningRequest, cut: WidthCut) -> Share:
    mlp = next(m for m in view.layers[cut.layer].mlps if m.spec.name == cut.mlp)
    divisor = (request.width and request.width.divisor) or 1
    multiple = math.lcm(divisor, width_multiple(view.spec, mlp.spec))
    size = sum(tensor.numel() for tensor in mlp.tensors.values()) // cut.width
    return Share(cut.layer, cut.width, cut.kept, int(multiple * mlp.spec.width_factor), size)


def _with_kept(plan: PruningPlan, kept: Sequence[int]) -> PruningPlan:
    """The plan with other numbers of neurons; which ones is decided later."""
    cuts = zip(plan.width_cuts, kept, strict=True)
    new = [replace(cut, keep=tuple(tuple(range(n)) for _ in cut.keep)) for cut, n in cuts]
    return replace(plan, width_cuts=tuple(cut for cut in new if cut.kept < cut.width))
