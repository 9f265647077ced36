"""Decide layer by layer from what flows through them: statistics → kept → compensated → on.

Each layer works on a copy; the live model is as it was until a plan and its replaced tensors are
complete. `surgery.apply_plan` then carries them out at once.

Axes: `I` neurons, `H` hidden, `E` experts, `k` kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...arch.finite import check_finite
from ...arch.slots import read, rows_of
from ...arch.view import LayerView, MLPView, ModelView, find_mlp
from ...distributed import divided, together, world_size
from ...errors import PruningWarning
from ...hooks import evaluating
from ...progress import track
from ..calibration.activations import not_finite_on_data
from ..calibration.holding import Key
from ..calibration.moments import Inputs, MLPInputs, Tokens, collecting
from ..calibration.stream import LIVE, Batches, LayerSource, run_layer
from ..cut.guard import Rewrite
from ..cut.plan import PruningPlan, WidthCut
from ..cut.surgery import adjust_copy, cut_mlp, replaced_in
from ..importance.criteria import MOMENTS, Criterion, Weights
from ..importance.selection import select_neurons, select_units
from ..request.pruning_request import PruningRequest
from .least_squares import Fit, fit_kept

Choose = Callable[[MLPView, int, Inputs, WidthCut], Tensor]  # MLP, expert, inputs, cut → kept (k,)


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

    @classmethod
    def of(cls, request: PruningRequest) -> Recipe:
        """That of a request: a calibrated criterion decides, or the plan did already."""
        criterion = request.criterion
        if isinstance(criterion, Criterion) and criterion.needs_data:
            choose, moments = partial(_best, criterion), criterion.needs == MOMENTS
            return cls(choose, moments, request.compensate, request.sequential)
        return cls(_as_planned, False, request.compensate, request.sequential)


def _best(criterion: Criterion, mlp: MLPView, expert: int, inputs: Inputs, cut: WidthCut) -> Tensor:
    """The neurons that a criterion keeps; those that no token reached go by their weights."""
    weights = _weights(mlp, expert)
    if inputs.tokens == 0:  # an expert that no calibration token was routed to
        return select_neurons(weights.down.norm(dim=1), cut.kept)
    scores = criterion.function(weights, inputs, cut.kept)
    by_unit = scores.to(weights.down.device).view(mlp.width, -1).sum(dim=1)
    return select_units(by_unit, cut.kept, mlp.spec.groups)


def _weights(mlp: MLPView, expert: int) -> Weights:
    roles = ("down",) if mlp.spec.down.rows > 1 or mlp.spec.groups > 1 else ("down", "gate", "up")
    matrices = {role: matrix for role, matrix in mlp.matrices().items() if role in roles}
    return Weights(
        **{role: (m[expert] if mlp.spec.experts else m).float() for role, m in matrices.items()}
    )


def _as_planned(mlp: MLPView, expert: int, inputs: Inputs, cut: WidthCut) -> Tensor:
    return torch.tensor(cut.keep[expert], device=mlp.tensors[mlp.spec.down].device)


def decide_by_layers(
    view: ModelView,
    batches: Batches,
    plan: PruningPlan,
    recipe: Recipe,
    *,
    rewrite: Rewrite | None = None,
    source: LayerSource = LIVE,
    replaced: MutableMapping[Key, Tensor] | None = None,
    show_progress: bool = False,
) -> PruningPlan:
    """Run the calibration batches through the layers and decide each MLP on the way.

    Args:
        view: the model; it is not changed.
        batches: what enters the first layer (`stream.capture`); used up.
        plan: which layers stay and how many neurons.
        recipe: how to decide.
        rewrite: what the modules of cut layers note of their width, None for nothing.
        source: where the layers come from, by default from the model itself.
        replaced: takes the tensors that replace cut ones, beside those that it holds.
        show_progress: whether to show a bar.

    Returns:
        The plan with the neurons that stay, the tensors that replace others, and the errors that
        are left, for the record.

    Raises:
        DataError: activations that are NaN or Inf.
        UnsupportedModelError: weights that are.
    """
    todo = _Pass(plan, batches, recipe, rewrite, source, {} if replaced is None else replaced)
    with evaluating(view.model):
        for layer in track(view.layers, "calibrating", show_progress, unit="layer"):
            if layer.index in plan.keep_layers:
                todo.decide_layer(layer)
    cuts = tuple(todo.cuts[cut.key] for cut in plan.width_cuts)
    record = {"reconstruction_errors": todo.errors} if todo.errors else {}
    return replace(
        plan,
        width_cuts=cuts,
        request={**plan.request, **record},
        replacements=todo.replaced if recipe.compensate else None,
    )


@dataclass
class _Pass:
    """A pass over the layers: what it works with, and what it has decided so far."""

    plan: PruningPlan
    batches: Batches
    recipe: Recipe
    rewrite: Rewrite | None
    source: LayerSource
    replaced: MutableMapping[Key, Tensor]
    cuts: dict[tuple[int, str], WidthCut] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def decide_layer(self, layer: LayerView) -> None:
        """Decide the MLPs of one layer, and let the batches flow on."""
        with together():
            copied = self.source.copied(layer)
        cuts = {cut.mlp: cut for cut in self.plan.width_cuts if cut.layer == layer.index}
        own = [mlp.spec for mlp in layer.mlps if mlp.spec.name in cuts]
        mlps = [mlp for spec in own if (mlp := find_mlp(layer.index, copied, spec)) is not None]
        moments = self.recipe.needs_moments or self.recipe.compensate
        inputs = [
            MLPInputs(
                mlp, moments=moments, constant=self.recipe.compensate and mlp.down_bias is not None
            )
            for mlp in mlps
        ]
        again = bool(mlps) and self.recipe.sequential
        self._run(copied, layer.index, inputs, keep=not again)
        for each in inputs:
            self._decide(each, cuts[each.mlp.spec.name])
        if again:
            cut_copy(mlps, self.cuts, self.replaced)
            if self.rewrite is not None:
                adjust_copy(copied, layer.index, self.plan, self.rewrite)
            self._run(copied, layer.index, [], keep=True)

    def _run(
        self, layer: nn.Module, index: int, inputs: Sequence[MLPInputs], *, keep: bool
    ) -> None:
        """Run all batches through a layer; collect its MLPs' inputs, and keep its outputs."""
        batches, tokens = self.batches, list[Tokens]()
        with together(), collecting(inputs, tokens):
            for number, hidden in enumerate(batches.hidden):
                tokens[:] = [Tokens.of(hidden, batches.masks[number], batches.firsts[number])]
                output = run_layer(layer, hidden, batches.arguments[number][index])
                if keep:
                    batches.hidden[number] = output
        for each in inputs:
            each.sum_over_processes()

    def _decide(self, inputs: MLPInputs, cut: WidthCut) -> None:
        """Choose the neurons of one MLP and fit its new down projection."""
        mlp = inputs.mlp
        if not all(bool(torch.isfinite(part.squares).all()) for part in inputs.parts):
            raise not_finite_on_data(f"activations of {mlp.spec.name} in layer {mlp.layer}")
        check_finite(mlp, {slot.role for slot in mlp.tensors})
        decided = divided(
            lambda expert: _decide_part(inputs, expert, cut, self.recipe), len(inputs.parts)
        )
        self.cuts[cut.key] = cut.keeping(tuple(keep for keep, _ in decided))
        fits = [fit for _, fit in decided if fit is not None]
        if fits:
            for name, tensor in _stored(mlp, [fit.weight for fit in fits]).items():
                self.replaced[mlp.layer, mlp.spec.name, name] = tensor
            self.errors.append(_mean_error(mlp, fits))


def _decide_part(
    inputs: MLPInputs, expert: int, cut: WidthCut, recipe: Recipe
) -> tuple[tuple[int, ...], Fit | None]:
    """The kept neurons of a dense MLP or of one expert, and their new weights."""
    mlp, part = inputs.mlp, inputs.parts[expert]
    keep = recipe.choose(mlp, expert, part, cut)
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


def _mean_error(mlp: MLPView, fits: Sequence[Fit]) -> dict[str, Any]:
    """How far an MLP's outputs are from what they were, on held-back tokens, for the record.

    The squared error over the squared outputs, with the weights that will be written and with the
    neurons only removed; of experts, the mean over those for which some tokens were held back.
    """
    judged = [(fit.error, fit.sliced_error) for fit in fits]
    known = [(new, cut) for new, cut in judged if new is not None and cut is not None]
    if not known:
        warnings.warn(
            f"Too few calibration tokens reached {mlp.spec.name} of layer {mlp.layer} to fit its "
            "weights, so its neurons were only removed. Give more data.",
            PruningWarning,
            stacklevel=2,
        )
    means = [sum(column) / len(known) for column in zip(*known, strict=True)] or [None, None]
    return {
        "layer": mlp.layer, "mlp": mlp.spec.name, "error": means[0], "sliced_error": means[1]
    }  # fmt: skip


def _stored(mlp: MLPView, weights: list[Tensor]) -> dict[str, Tensor]:
    """New down weights, each (H, k), in the form and dtype in which the model holds them.

    Where there is a bias, a last column says what is added to it.
    """
    slot = mlp.spec.down
    old, bias = mlp.tensors[slot], mlp.down_bias
    stacked = torch.stack(weights) if mlp.spec.experts else weights[0]  # neurons last
    if bias is None:
        return {slot.name: stacked.movedim(-1, slot.axis).contiguous().to(old)}
    return {
        slot.name: stacked[..., :-1].movedim(-1, slot.axis).contiguous().to(old),
        mlp.spec.down_bias: (bias.detach().float() + stacked[..., -1].to(bias.device)).to(bias),
    }


def cut_copy(
    mlps: Sequence[MLPView],
    cuts: Mapping[tuple[int, str], WidthCut],
    replaced: Mapping[Key, Tensor],
) -> None:
    """Carry out on MLPs of a layer's copy what was decided for them."""
    done: set[int] = set()
    for mlp in mlps:
        cut_mlp(mlp, cuts[mlp.key], done, replaced_in(mlp, replaced))
