"""Decide layer by layer from what flows through them: statistics → kept → compensated → on.

Each layer works on a copy; the live model is as it was until a plan and its replaced tensors are
complete. `surgery.apply_plan` then carries them out at once.

Axes: `I` neurons, `H` hidden, `E` experts, `k` kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ...arch.slots import read, rows_of
from ...arch.spec import MLPSpec, TensorSlot
from ...arch.view import LayerView, MLPView, ModelView, find_mlp
from ...distributed import divided, together, world_size
from ...errors import DataError, PruningWarning
from ...hooks import evaluating
from ...progress import track
from ..calibration.moments import Inputs, MLPInputs, Tokens, collecting
from ..calibration.stream import LIVE, Batches, LayerSource, run_layer
from ..cut.plan import PruningPlan, WidthCut
from ..cut.surgery import cut_mlp, replaced_in
from .least_squares import Fit, fit_kept

Key = tuple[int, str]  # layer, MLP
Choose = Callable[[MLPView, int, Inputs, int], Tensor]  # MLP, expert, inputs, count → kept (k,)


@dataclass(frozen=True)
class LayerError:
    """How far an MLP's outputs are from what they were, on held-back tokens.

    Attributes:
        layer, mlp: which.
        error: squared error over squared outputs, with the weights that will be written.
        sliced_error: the same if neurons were only removed.
        shrinkage: of the compensation; None where there was none.
    """

    layer: int
    mlp: str
    error: float | None
    sliced_error: float | None
    shrinkage: float | None


@dataclass
class Calibrated:
    """What a pass over the layers decided.

    Attributes:
        cuts: which neurons stay.
        replacements: tensors that take the place of the cut ones.
        errors: for each MLP.
    """

    cuts: list[WidthCut] = field(default_factory=list)
    replacements: MutableMapping[tuple[int, str, str], Tensor] = field(default_factory=dict)
    errors: list[LayerError] = field(default_factory=list)


@dataclass(frozen=True)
class Recipe:
    """How to decide.

    Attributes:
        choose: which neurons of an MLP stay.
        needs_moments: whether `choose` reads second moments, or only norms.
        compensate: whether the kept neurons make up for the lost ones.
        sequential: whether a layer sees the outputs of the pruned layers before it, or those of
            the layers as they were.
    """

    choose: Choose
    needs_moments: bool
    compensate: bool
    sequential: bool


def decide_by_layers(
    view: ModelView,
    batches: Batches,
    counts: Mapping[Key, int],
    recipe: Recipe,
    *,
    adjust: Callable[[int, nn.Module], None] = lambda index, layer: None,
    layers: Sequence[int] | None = None,
    source: LayerSource = LIVE,
    replaced: MutableMapping[tuple[int, str, str], Tensor] | None = None,
    show_progress: bool = False,
) -> Calibrated:
    """Run the calibration batches through the layers and decide each MLP on the way.

    Args:
        view: the model; it is not changed.
        batches: what enters the first layer (`stream.capture`); used up.
        counts: (layer, MLP) → how many neurons stay; others stay whole.
        recipe: how to decide.
        adjust: sets the module attributes of a cut layer's copy that follow its width.
        layers: those that stay, the others are passed over; None for all.
        source: where the layers come from, by default from the model itself.
        replaced: takes the tensors that replace cut ones.
        show_progress: whether to show a bar.

    Raises:
        DataError: activations that are NaN or Inf.
    """
    found = Calibrated(replacements={} if replaced is None else replaced)
    stay = set(range(len(view.layers)) if layers is None else layers)
    with evaluating(view.model):
        for layer in track(view.layers, "calibrating", show_progress, unit="layer"):
            if layer.index in stay:
                own = {mlp.spec: counts.get((layer.index, mlp.spec.name)) for mlp in layer.mlps}
                widths = {spec: width for spec, width in own.items() if width is not None}
                _decide_layer(layer, source, batches, widths, recipe, adjust, found)
    return found


def _decide_layer(
    layer: LayerView,
    source: LayerSource,
    batches: Batches,
    widths: Mapping[MLPSpec, int],
    recipe: Recipe,
    adjust: Callable[[int, nn.Module], None],
    found: Calibrated,
) -> None:
    """Decide the MLPs of one layer, and let the batches flow on."""
    with together():
        copied = source.copied(layer)
    views = [find_mlp(layer.index, copied, spec) for spec in widths]
    mlps = [mlp for mlp in views if mlp is not None and widths[mlp.spec] < mlp.width]
    moments = recipe.needs_moments or recipe.compensate
    inputs = [
        MLPInputs(mlp, moments=moments, constant=recipe.compensate and mlp.down_bias is not None)
        for mlp in mlps
    ]
    again = bool(mlps) and recipe.sequential
    _run(copied, layer.index, batches, inputs, keep=not again)
    for each in inputs:
        _decide(each, widths[each.mlp.spec], recipe, found)
    if again:
        cut_copy(mlps, found, layer.index)
        adjust(layer.index, copied)
        _run(copied, layer.index, batches, [], keep=True)


def _run(
    layer: nn.Module, index: int, batches: Batches, inputs: Sequence[MLPInputs], *, keep: bool
) -> None:
    """Run all batches through a layer; collect its MLPs' inputs, and keep its outputs."""
    tokens: list[Tokens] = []
    with together(), collecting(inputs, tokens):
        for number, hidden in enumerate(batches.hidden):
            tokens[:] = [Tokens.of(hidden, batches.masks[number], batches.firsts[number])]
            output = run_layer(layer, hidden, batches.arguments[number][index])
            if keep:
                batches.hidden[number] = output
    for each in inputs:
        each.sum_over_processes()


def _decide(inputs: MLPInputs, count: int, recipe: Recipe, found: Calibrated) -> None:
    """Choose the neurons of one MLP and fit its new down projection."""
    mlp = inputs.mlp
    if not all(bool(torch.isfinite(part.squares).all()) for part in inputs.parts):
        raise DataError(
            f"The activations of {mlp.spec.name} in layer {mlp.layer} are NaN or Inf on the "
            "calibration data. Try a wider dtype (bfloat16 or float32)."
        )
    decided = divided(lambda expert: _decide_part(inputs, expert, count, recipe), len(inputs.parts))
    cut = tuple(keep for keep, _ in decided)
    found.cuts.append(WidthCut(mlp.layer, mlp.spec.name, mlp.width, cut))
    fits = [fit for _, fit in decided if fit is not None]
    if fits:
        for name, tensor in _stored(mlp, [fit.weight for fit in fits]).items():
            found.replacements[mlp.layer, mlp.spec.name, name] = tensor
        found.errors.append(_mean_error(mlp, fits))


def _decide_part(
    inputs: MLPInputs, expert: int, count: int, recipe: Recipe
) -> tuple[tuple[int, ...], Fit | None]:
    """The kept neurons of a dense MLP or of one expert, and their new weights."""
    mlp, part = inputs.mlp, inputs.parts[expert]
    keep = recipe.choose(mlp, expert, part, count)
    kept = tuple(keep.tolist())
    if not recipe.compensate:
        return kept, None
    down = read(mlp.tensors[mlp.spec.down].detach(), mlp.spec.down)["down"]  # (I, H) or (E, I, H)
    matrix = down[expert] if mlp.spec.experts else down
    columns = rows_of(keep, mlp.spec.down.rows)
    weight = matrix.T.float()
    if part.constant:  # one more input, whose weights are what is added to the bias
        columns = torch.cat([columns, columns.new_tensor([weight.shape[1]])])
        weight = nn.functional.pad(weight, (0, 1))
    fit = fit_kept(weight, columns, *part.split())
    if world_size() > 1:  # it is sent to the others, which have devices of their own
        fit = replace(fit, weight=fit.weight.cpu())
    return kept, fit


def _mean_error(mlp: MLPView, fits: Sequence[Fit]) -> LayerError:
    """The mean over the experts for which some tokens were held back."""
    judged = [fit for fit in fits if fit.error is not None and fit.sliced_error is not None]
    if not judged:
        warnings.warn(
            f"Too few calibration tokens reached {mlp.spec.name} of layer {mlp.layer} to fit its "
            "weights, so its neurons were only removed. Give more data.",
            PruningWarning,
            stacklevel=2,
        )
        return LayerError(mlp.layer, mlp.spec.name, None, None, None)
    count = len(judged)
    return LayerError(
        mlp.layer,
        mlp.spec.name,
        sum(fit.error or 0.0 for fit in judged) / count,
        sum(fit.sliced_error or 0.0 for fit in judged) / count,
        sum(fit.shrinkage for fit in judged) / count,
    )


def _stored(mlp: MLPView, weights: list[Tensor]) -> dict[str, Tensor]:
    """New down weights, each (H, k), in the form and dtype in which the model holds them.

    Where there is a bias, a last column says what is added to it.
    """
    slot: TensorSlot = mlp.spec.down
    old, bias = mlp.tensors[slot], mlp.down_bias
    stacked = torch.stack(weights) if mlp.spec.experts else weights[0]  # neurons last
    if bias is None:
        return {slot.name: stacked.movedim(-1, slot.axis).contiguous().to(old)}
    return {
        slot.name: stacked[..., :-1].movedim(-1, slot.axis).contiguous().to(old),
        mlp.spec.down_bias: (bias.detach().float() + stacked[..., -1].to(bias.device)).to(bias),
    }


def cut_copy(mlps: Sequence[MLPView], found: Calibrated, layer: int) -> None:
    """Carry out on the layer's copy what was decided for it."""
    cuts = {cut.mlp: cut for cut in found.cuts if cut.layer == layer}
    done: set[int] = set()
    for mlp in mlps:
        cut_mlp(mlp, cuts[mlp.spec.name], done, replaced_in(mlp, found.replacements))


def with_cuts(plan: PruningPlan, found: Calibrated) -> PruningPlan:
    """The plan with the neurons that were decided, and the errors that are left, for the record."""
    order = {(cut.layer, cut.mlp): cut for cut in found.cuts}
    cuts = tuple(order[cut.layer, cut.mlp] for cut in plan.width_cuts)
    record = dict(plan.request)
    if found.errors:
        record["reconstruction_errors"] = [
            {"layer": e.layer, "mlp": e.mlp, "error": e.error, "sliced_error": e.sliced_error}
            for e in found.errors
        ]
    return replace(plan, width_cuts=cuts, request=record)
