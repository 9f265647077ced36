"""Widths that differ by layer: a layer that is missed more loses fewer neurons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from ..arch.view import LayerView, ModelView, find_mlp
from ..distributed import together
from ..hooks import evaluating
from ..progress import track
from .calibration.stream import capture, copied_layer, logits_after, run_layer
from .compensation.by_layers import Recipe, cut_copy, decide_by_layers
from .cut.guard import Rewrite, prove
from .cut.plan import PruningPlan, WidthCut
from .cut.surgery import adjust_copy
from .layers.removal_loss import SAMPLE_TOKENS, loss_sum, mean_losses, sampled, through
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

    Args:
        view: the model.
        request: what was asked for.
        plan: how many neurons stay where all layers lose the same share.
        batches: calibration data.
        choose: gives such a plan its neurons, unless the pass over the layers decides them.
        show_progress: whether to show bars.
    """
    shares = [_share(view, request, cut) for cut in plan.width_cuts]
    prove(view, _with_kept(plan, [s.kept_at(1 + s.layer % 2 / 2) for s in shares]))  # may differ?
    rewrite = prove(view, plan)
    alike = decide_by_layers(
        view,
        capture(view, batches),
        choose(plan),
        replace(Recipe.of(request), sequential=False),
        rewrite=rewrite,
        show_progress=show_progress,
    )
    losses = layer_losses(view, batches, alike, rewrite, show_progress=show_progress)
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


def layer_losses(
    view: ModelView,
    batches: Iterable[object],
    plan: PruningPlan,
    rewrite: Rewrite | None = None,
    *,
    show_progress: bool = False,
) -> dict[int, float]:
    """By how much a token's loss rises (nats, mean) if one layer is as planned, the others whole.

    Args:
        view: the model; it is left as it was.
        batches: calibration data, of which about 2048 tokens are used.
        plan: what was decided for each layer on its own.
        rewrite: what the modules of cut layers note of their width, None for nothing.
        show_progress: whether to show a bar.

    Raises:
        DataError: a loss that is NaN or Inf, or no sequence of two tokens.
    """
    cuts = {cut.key: cut for cut in plan.width_cuts}
    layers = sorted({cut.layer for cut in plan.width_cuts})
    sample = sampled(batches, SAMPLE_TOKENS)
    stream = capture(view, sample)
    sums = dict.fromkeys([-1, *layers], 0.0)  # -1: nothing is pruned

    def pruned(layer: LayerView) -> nn.Module:
        copied = copied_layer(layer.module)
        specs = [mlp.spec for mlp in layer.mlps if (layer.index, mlp.spec.name) in cuts]
        mlps = [mlp for spec in specs if (mlp := find_mlp(layer.index, copied, spec)) is not None]
        cut_copy(mlps, cuts, plan.replacements or {})
        if rewrite is not None:
            adjust_copy(copied, layer.index, plan, rewrite)
        return copied

    def add(number: int, index: int, hidden: Tensor) -> None:
        end = through(view, stream, number, range(index + 1, len(view.layers)), hidden)
        logits = logits_after(view, sample[number], end, stream.forms)
        sums[index] += loss_sum(logits, sample[number])

    with together(), evaluating(view.model):
        for number in track(range(len(sample)), "weighing layers", show_progress, "batch"):
            hidden = stream.hidden[number]
            add(number, -1, hidden)
            for layer in view.layers:
                arguments = stream.arguments[number][layer.index]
                if layer.index in sums:
                    add(number, layer.index, run_layer(pruned(layer), hidden, arguments))
                hidden = run_layer(layer.module, hidden, arguments)
    rises = [sums[layer] - sums[-1] for layer in layers]
    return dict(zip(layers, mean_losses(sample, rises), strict=True))
