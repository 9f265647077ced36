"""Decide layer by layer from what flows through them: statistics → kept → compensated → on.

Each layer works on a copy; the live model is as it was until a plan and its replaced tensors are
complete. `surgery.apply_plan` then carries them out at once.

Axes: `I` neurons, `H` hidden, `E` experts, `k` kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...arch.slots import rows_of
from ...arch.spec import UNITS
from ...arch.view import LayerView, MLPView, check_finite
from ...distributed import divided, together, world_size
from ...hooks import evaluating
from ...noted import warn
from ...progress import track
from ..calibration.activations import not_finite_on_data
from ..calibration.fast_products import fast_products
from ..calibration.holding import Key
from ..calibration.moments import Inputs, MLPInputs, Tokens, collecting
from ..calibration.replaying import BeforeMLPs
from ..calibration.stream import Batches, run_layer
from ..cut.guard import Rewrite
from ..cut.plan import PruningPlan, WidthCut
from ..cut.surgery import cut_copy, own_mlp
from ..importance.criteria import MOMENTS, Criterion, Weights
from ..importance.selection import select_neurons, select_units
from ..layers.block_loss import silenced
from ..request.pruning_request import PruningRequest
from .least_squares import Fit, fit_kept
from .reconstruction import Recorded, reconstructed


def decide_by_layers(
    batches: Batches,
    plan: PruningPlan,
    request: PruningRequest,
    rewrite: Rewrite,
    *,
    replaced: MutableMapping[Key, Tensor] | None = None,
    show_progress: bool = False,
) -> PruningPlan:
    """Run the calibration batches through the layers and decide each MLP on the way.

    `batches` are what enters the first layer (`stream.capture`), and are used up; `plan` says which
    layers stay and how many neurons, or which. `replaced` takes the tensors that replace cut ones,
    beside those that it holds. The plan that is returned holds them, and the errors that are left.
    """
    if request.reconstruct and world_size() > 1:
        warn(
            "Several processes fit the kept neurons and do not train them. With one process more "
            "of the model stays."
        )
    todo = _Pass(plan, batches, request, rewrite, {} if replaced is None else replaced)
    with evaluating(batches.view.model):
        for layer in track(batches.view.layers, "calibrating", show_progress, unit="layer"):
            if layer.index in plan.keep_layers:
                todo.decide_layer(layer)
    record = {"reconstruction_errors": todo.errors} if todo.errors else {}
    return replace(
        plan,
        width_cuts=tuple(todo.cuts[cut.key] for cut in plan.width_cuts),
        request={**plan.request, **record},
        replacements=todo.replaced if request.compensate else None,
    )


@dataclass
class _Pass:
    """A pass over the layers: what it works with, and what it has decided so far."""

    plan: PruningPlan
    batches: Batches
    request: PruningRequest
    rewrite: Rewrite
    replaced: MutableMapping[Key, Tensor]
    cuts: dict[tuple[int, str], WidthCut] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def decide_layer(self, layer: LayerView) -> None:
        """Decide the MLPs of one layer, and let the batches flow on."""
        with together():
            copied = self.batches.source.copied(layer)
        cuts = {cut.key: cut for cut in self.plan.width_cuts if cut.layer == layer.index}
        gone = [key for key, cut in cuts.items() if not cut.kept]
        self.cuts |= {key: cuts[key] for key in gone}
        silent = [own_mlp(m, copied) for m in layer.mlps if m.key in gone]
        todo = [m for m in layer.mlps if m.key in cuts and m.key not in gone]
        with silenced(silent):
            self._decide_rest(layer, copied, todo, cuts)

    def _decide_rest(
        self,
        layer: LayerView,
        copied: nn.Module,
        todo: Sequence[MLPView],
        cuts: Mapping[tuple[int, str], WidthCut],
    ) -> None:
        """Decide the MLPs of a layer that stay in part; those that go are silent."""
        inputs = [self._watched(own_mlp(mlp, copied)) for mlp in todo]
        again = bool(inputs) and self.request.sequential
        watched = inputs if self._trains else []
        whole = [Recorded(each.mlp, self.batches.tokens) for each in watched]
        before = BeforeMLPs(copied, [each.mlp for each in inputs], self.batches.hidden)
        with before.kept() if again else nullcontext():
            self._run(copied, layer.index, inputs, whole, keep=not again)
        for each in inputs:
            self._decide(each, cuts[each.mlp.key])
        if again:
            own = tuple(self.cuts[mlp.key] for mlp in todo)
            decided = replace(self.plan, width_cuts=own, replacements=self.replaced)
            cut_copy(layer, copied, decided, self.rewrite)
            for recorded in whole:
                self._train(own_mlp(recorded.mlp, copied), recorded)
            with before.given():
                self._run(copied, layer.index, [], [], keep=True)

    @property
    def _trains(self) -> bool:
        """Whether kept neurons are trained; several processes would each need all tokens."""
        asked = self.request.reconstruct and self.request.sequential
        return asked and world_size() == 1

    def _watched(self, mlp: MLPView) -> MLPInputs:
        compensate, criterion = self.request.compensate, self.request.criterion
        reads_moments = isinstance(criterion, Criterion) and criterion.needs == MOMENTS
        constant = compensate and mlp.down_bias is not None
        return MLPInputs(mlp, moments=compensate or reads_moments, constant=constant)

    def _run(
        self,
        layer: nn.Module,
        index: int,
        inputs: Sequence[MLPInputs],
        whole: Sequence[Recorded],
        *,
        keep: bool,
    ) -> None:
        """Run all batches through a layer; collect its MLPs' inputs, and keep its outputs."""
        batches, tokens = self.batches, list[Tokens]()
        with ExitStack() as stack:
            stack.enter_context(together())
            stack.enter_context(collecting(inputs, tokens))
            for recorded in whole:
                stack.enter_context(recorded.watching(tokens))
            stack.enter_context(fast_products(batches.view))
            for number, hidden in enumerate(batches.hidden):
                of_batch = Tokens.of(hidden, batches.masks[number], batches.firsts[number])
                tokens[:] = [replace(of_batch, roles=batches.roles(number))]
                output = run_layer(layer, hidden, batches.arguments[number][index])
                if keep:
                    batches.hidden[number] = output
        for each in inputs:
            each.sum_over_processes()

    def _train(self, mlp: MLPView, whole: Recorded) -> None:
        """Train what is kept of an MLP, where that brings it nearer to the whole one."""
        found = reconstructed(mlp, whole, partial(fast_products, self.batches.view))
        if found is None:
            return
        for name, value in found.values.items():
            mlp.owner.get_parameter(name).data = value
            self.replaced[*mlp.key, name] = value
        record = next(each for each in self.errors if (each["layer"], each["mlp"]) == mlp.key)
        record["fitted_error"], record["error"] = found.before, found.error

    def _decide(self, inputs: MLPInputs, cut: WidthCut) -> None:
        """Choose the neurons of one MLP and fit its new down projection."""
        mlp = inputs.mlp
        if not all(bool(torch.isfinite(part.squares).all()) for part in inputs.parts):
            raise not_finite_on_data(f"activations of {mlp.spec.name} in layer {mlp.layer}")
        check_finite(mlp, {slot.role for slot in mlp.tensors})
        decided = divided(
            lambda expert: _decide_part(inputs, expert, cut, self.request), len(inputs.parts)
        )
        self.cuts[cut.key] = cut.keeping(tuple(keep for keep, _ in decided))
        fits = [fit for _, fit in decided if fit is not None]
        if fits:
            for name, tensor in _stored(mlp, [fit.weight for fit in fits]).items():
                self.replaced[*mlp.key, name] = tensor
            self.errors.append(_mean_error(mlp, fits))


def widths_alone(
    batches: Batches,
    widths: Mapping[int, Sequence[int]],
    request: PruningRequest,
    *,
    show_progress: bool = False,
) -> Iterator[tuple[MLPView, int, Tensor, Tensor]]:
    """Each of these widths of a layer's dense MLP, all other layers as they are.

    Gives the MLP, how many neurons stay, which (k,), and the new down projection (H, k). `batches`
    are used up.
    """
    view, tokens = batches.view, list[Tokens]()
    with evaluating(view.model):
        for layer in track(view.layers, "scoring widths", show_progress, unit="layer"):
            mlps = [mlp for mlp in layer.mlps if mlp.spec.name != UNITS["attention"]]
            inputs = [MLPInputs(mlp, moments=True) for mlp in mlps if layer.index in widths]
            with collecting(inputs, tokens), fast_products(view):
                for number, hidden in enumerate(batches.hidden):
                    of_batch = Tokens.of(hidden, batches.masks[number], batches.firsts[number])
                    tokens[:] = [replace(of_batch, roles=batches.roles(number))]
                    arguments = batches.arguments[number][layer.index]
                    batches.hidden[number] = run_layer(layer.module, hidden, arguments)
            for each in inputs:
                each.sum_over_processes()
                for kept in widths[layer.index]:
                    cut = WidthCut(layer.index, each.mlp.spec.name, each.mlp.width, count=kept)
                    keep, fit = _decide_part(each, 0, cut, request)
                    assert fit is not None  # the request compensates
                    yield each.mlp, kept, torch.tensor(keep), fit.weight


def _decide_part(
    inputs: MLPInputs, expert: int, cut: WidthCut, request: PruningRequest
) -> tuple[tuple[int, ...], Fit | None]:
    """The kept neurons of a dense MLP or of one expert, and their new weights."""
    mlp, part = inputs.mlp, inputs.parts[expert]
    keep = _kept(mlp, expert, part, cut, request)
    kept = tuple(keep.tolist())
    if not request.compensate:
        return kept, None
    down = mlp.matrices()["down"]  # (I, H) or (E, I, H)
    weight = (down[expert] if mlp.spec.experts else down).T.float()
    columns = rows_of(keep, mlp.spec.down.rows)
    if part.constant:  # one more input, whose weights are what is added to the bias
        columns = torch.cat([columns, columns.new_tensor([weight.shape[1]])])
        weight = nn.functional.pad(weight, (0, 1))
    return kept, fit_kept(weight, columns, *part.split()).to_be_sent()


def _kept(
    mlp: MLPView, expert: int, inputs: Inputs, cut: WidthCut, request: PruningRequest
) -> Tensor:
    """The neurons that a calibrated criterion keeps, (k,), or those that are planned already."""
    criterion, device = request.criterion, mlp.tensors[mlp.spec.down].device
    if not isinstance(criterion, Criterion) or not criterion.needs_data:
        return torch.tensor(cut.keep[expert], device=device, dtype=torch.long)
    roles = ("down",) if mlp.spec.down.rows > 1 or mlp.spec.groups > 1 else ("down", "gate", "up")
    matrices = {role: matrix for role, matrix in mlp.matrices().items() if role in roles}
    weights = Weights(
        **{role: (m[expert] if mlp.spec.experts else m).float() for role, m in matrices.items()}
    )
    if inputs.tokens == 0:  # an expert that no calibration token was routed to goes by its weights
        return select_neurons(weights.down.norm(dim=1), cut.kept)
    scores = criterion.function(weights, inputs, cut.kept)
    by_unit = scores.to(device).view(mlp.width, -1).sum(dim=1)
    return select_units(by_unit, cut.kept, mlp.spec.groups)


def _mean_error(mlp: MLPView, fits: Sequence[Fit]) -> dict[str, Any]:
    """How far an MLP's outputs are from what they were, on held-back tokens, for the record.

    The squared error over the squared outputs, with the new weights and with the neurons only
    removed; of experts, the mean over those for which some tokens were held back.
    """
    known = [fit for fit in fits if fit.error is not None]
    if not known:
        warn(
            f"Too few calibration tokens reached {mlp.spec.name} of layer {mlp.layer} to fit its "
            "weights, so its neurons were only removed. Give more data.",
        )
    record: dict[str, Any] = {"layer": mlp.layer, "mlp": mlp.spec.name}
    for name in ("error", "sliced_error"):
        record[name] = sum(getattr(fit, name) for fit in known) / len(known) if known else None
    return record


def _stored(mlp: MLPView, weights: list[Tensor]) -> dict[str, Tensor]:
    """New down weights, each (H, k), in the form and dtype in which the model holds them.

    Where there is a bias, a last column says what is added to it.
    """
    slot, bias = mlp.spec.down, mlp.down_bias
    stacked = torch.stack(weights) if mlp.spec.experts else weights[0]  # neurons last
    kept = stacked if bias is None else stacked[..., :-1]
    new = {slot.name: kept.movedim(-1, slot.axis).contiguous().to(mlp.tensors[slot])}
    if bias is not None:
        moved = bias.detach().float() + stacked[..., -1].to(bias.device)
        new[mlp.spec.down_bias] = moved.to(bias)
    return new
