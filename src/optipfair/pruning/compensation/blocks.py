"""What the layer before a removed block does for it: a least-squares map in its down projection.

Layers run on copies; the live model is only read.

Axes: `T` real tokens, `H` hidden, `I` neurons.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...arch.slots import read
from ...arch.view import LayerView, MLPView, ModelView
from ...distributed import in_first, sum_, together, total
from ...errors import PruningWarning
from ...hooks import evaluating
from ...progress import track
from ..calibration.activations import not_finite_on_data, real_tokens
from ..calibration.holding import HiddenStates, Key, Replacements
from ..calibration.moments import HELD_BACK, Moments, token_roles
from ..calibration.stream import LIVE, Batches, LayerSource, run_layer
from ..cut.surgery import own_mlp
from .anchors import Anchor, find_anchors, run_seeing
from .least_squares import fit_kept


def replace_blocks(
    view: ModelView,
    stream: Batches,
    drop: Sequence[int],
    *,
    replaced: MutableMapping[Key, Tensor],
    source: LayerSource = LIVE,
    refuse: bool = True,
    show_progress: bool = False,
) -> list[dict[str, Any]]:
    """Fit the layer before each removed block to what the block would have given.

    The layer gives x = r + s W m, with m what enters its down projection W, and the block turns x
    into y. Wanted is W' m = W m + (y - x) / s over the real tokens: ridge regression on m that
    shrinks towards W, plain removal (`compensation.fit_kept`). Blocks are fitted front to back,
    each on what flows when those before it are replaced.

    `stream` is what enters the first layer (`stream.capture`), and is used up; `replaced` takes
    the new down projections; `refuse` is that of `find_anchors`.

    Returns:
        For each block that has a layer before it, for the record: both, how far that layer's
        outputs are from the block's on held-back tokens (squared error over the squared outputs
        that the down projection should give, None where too few tokens were held back), and how
        far they were if the block were only removed.
    """
    errors: list[dict[str, Any]] = []
    with evaluating(view.model):
        anchors = find_anchors(view, stream, drop, source, refuse=refuse)
        layers = view.layers[: max(anchors, default=-1) + 1]
        for layer in track(layers, "replacing layers", show_progress, unit="layer"):
            if layer.index in set(drop):
                continue
            with together():
                copied = source.copied(layer)
            if layer.index in anchors:
                anchor = anchors[layer.index]
                errors.append(_fit(view, anchor, copied, stream, source, replaced))
            with together():
                for number, hidden in enumerate(stream.hidden):
                    arguments = stream.arguments[number][layer.index]
                    stream.hidden[number] = run_layer(copied, hidden, arguments)
    return errors


def with_replaced(source: LayerSource, replaced: Replacements) -> LayerSource:
    """The same layers with the tensors that are in `replaced` when a layer is asked for."""

    def copied(layer: LayerView) -> nn.Module:
        module = source.copied(layer)
        for mlp in (own_mlp(each, module) for each in layer.mlps):
            for slot, tensor in mlp.tensors.items():
                key = (*mlp.key, slot.name)
                if key in replaced:
                    tensor.data = replaced[key].to(tensor)
        return module

    return replace(source, copied=copied)


def _fit(
    view: ModelView,
    anchor: Anchor,
    layer: nn.Module,
    stream: Batches,
    source: LayerSource,
    replaced: MutableMapping[Key, Tensor],
) -> dict[str, Any]:
    """Find the new down projection, set it in the layer's copy, and say how well it does."""
    mlp = own_mlp(anchor.mlp, layer)
    weight = mlp.tensors[mlp.spec.down]
    old = read(weight, mlp.spec.down)["down"].T.float()  # (H, I)
    with together():
        onward = _behind_block(view, anchor, layer, stream, source)
    moments = _block_moments(anchor, mlp, layer, stream, onward, old)
    every = torch.arange(old.shape[1], device=old.device)
    fit = in_first(lambda: fit_kept(old, every, *moments).to_be_sent())
    if fit.error is None:
        warnings.warn(
            f"Too few calibration tokens to fit layer {mlp.layer} to layers {anchor.first} to "
            f"{anchor.last}, so these were only removed. Give more data.",
            PruningWarning,
            stacklevel=2,
        )
    if fit.shrinkage != float("inf"):
        new = fit.weight.movedim(-1, mlp.spec.down.axis).contiguous().to(weight)
        replaced[*mlp.key, mlp.spec.down.name] = new
        weight.data = new
    return {
        "layer": mlp.layer,
        "mlp": mlp.spec.name,
        "first": anchor.first,
        "last": anchor.last,
        "error": fit.error,
        "removed_error": fit.sliced_error,
    }


def _behind_block(
    view: ModelView, anchor: Anchor, layer: nn.Module, stream: Batches, source: LayerSource
) -> HiddenStates:
    """What the block gives for each batch, (B, S, H)."""
    found = stream.hidden.others()
    for number, hidden in enumerate(stream.hidden):
        found.append(run_layer(layer, hidden, stream.arguments[number][anchor.mlp.layer]))
    for index in range(anchor.first, anchor.last + 1):
        module = source.lent(view.layers[index])
        for number, hidden in enumerate(found):
            found[number] = run_layer(module, hidden, stream.arguments[number][index])
        del module  # before the next one comes
    return found


def _block_moments(
    anchor: Anchor,
    mlp: MLPView,
    layer: nn.Module,
    stream: Batches,
    onward: HiddenStates,
    weight: Tensor,
) -> tuple[Moments, Moments]:
    """Moments to fit on and to judge by: inputs m, targets W m + (y - x) / s."""
    sums = [_moments(*(weight.new_empty(0, n) for n in weight.shape[::-1])) for _ in range(2)]
    with together():
        for number, hidden in enumerate(stream.hidden):
            arguments, mask = stream.arguments[number], stream.masks[number]
            inputs, output = run_seeing(mlp, layer, hidden, arguments[mlp.layer], mask)
            gap = real_tokens(onward[number], mask).to(weight.device) - output  # (T, H)
            targets = inputs @ weight.T + gap / anchor.scale
            held = token_roles(mask, stream.firsts[number])[mask].to(inputs.device) == HELD_BACK
            for place, chosen in enumerate((~held, held)):
                sums[place] += _moments(inputs[chosen], targets[chosen])
    sums = [_over_processes(moments) for moments in sums]
    if not all(math.isfinite(moments.power or 0.0) for moments in sums):
        raise not_finite_on_data(f"activations of layers {mlp.layer} to {anchor.last}")
    return sums[0], sums[1]


def _over_processes(moments: Moments) -> Moments:
    assert moments.targets is not None
    sum_(moments.inputs, moments.targets)
    power, tokens = total(moments.power or 0.0, moments.tokens)
    return replace(moments, power=power, tokens=int(tokens))


def _moments(inputs: Tensor, targets: Tensor) -> Moments:
    return Moments(
        (inputs.T @ inputs).double(),
        (targets.T @ inputs).double(),
        float(targets.double().square().sum()),
        len(inputs),
    )
