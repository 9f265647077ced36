"""From a target and a model to a `PruningPlan`. It only reads the model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..arch.view import MLPView, ModelView
from ..errors import ArgumentError, PruningWarning, UnsupportedModelError
from ..progress import track
from .calibration import neuron_input_norms
from .checks import check_cuttable, check_sharing
from .importance import Criterion
from .plan import PruningPlan, WidthCut
from .scoring import score_mlp, score_mlp_with_data
from .selection import check_layer_indices, select_neurons
from .targets import DepthTarget, WidthTarget, rate_above


def plan_width(
    view: ModelView,
    target: WidthTarget,
    criterion: Criterion,
    *,
    batches: Iterable[object] | None = None,
    show_progress: bool = False,
) -> PruningPlan:
    """Decide which neurons of every MLP stay.

    Args:
        view: the model.
        target: how many stay.
        criterion: what scores them.
        batches: calibration data; with it the criterion's hybrid form scores.
        show_progress: whether to show bars.

    Raises:
        UnsupportedModelError: the width cannot be pruned, or a tensor holds NaN or Inf.
        ArgumentError: the target is out of reach.
        DataError: the calibration data cannot be used.
    """
    check_width_is_prunable(view)
    check_cuttable(view)
    check_sharing(view)
    chosen = _chosen(view, target)
    counts = _kept_counts(view, target, chosen)
    norms = None if batches is None else neuron_input_norms(view, batches, show_progress)
    cuts = []
    decided: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {}
    for mlp, kept in track(list(zip(chosen, counts, strict=True)), "scoring", show_progress):
        if kept == mlp.width:
            continue
        shared = tuple(id(tensor) for tensor in mlp.tensors.values())
        if shared not in decided:  # an MLP that two layers share is decided once
            decided[shared] = _keep(mlp, kept, criterion, norms)
        cuts.append(WidthCut(mlp.layer, mlp.spec.name, mlp.width, decided[shared]))
    layers = range(len(view.layers))
    request = {
        "pruning_type": "MLP_GLU",
        "neuron_selection_method": criterion.name,
        "data_driven": batches is not None,
        "pruning_percentage": target.percentage,
        "expansion_rate": target.expansion_rate,
        "expansion_divisor": target.divisor,
        "layer_indices": None if target.layers is None else list(target.layers),
    }
    return PruningPlan(view.spec.model_type, len(layers), tuple(layers), tuple(cuts), request)


def plan_depth(view: ModelView, target: DepthTarget) -> PruningPlan:
    """Decide which layers stay."""
    check_cuttable(view)
    drop = set(target.drop)
    keep = tuple(i for i in range(target.total_layers) if i not in drop)
    request = {
        "pruning_type": "DEPTH",
        "layer_selection_method": target.method,
        "layer_indices": list(target.drop),
    }
    return PruningPlan(view.spec.model_type, target.total_layers, keep, request=request)


def width_refusal(view: ModelView) -> str:
    """Why the MLP width cannot be pruned; empty where it can."""
    if not view.mlps:
        return "its layers hold no MLP of a known form"
    return next((mlp.spec.why_not for mlp in view.mlps if mlp.spec.why_not), "")


def check_width_is_prunable(view: ModelView) -> None:
    reason = width_refusal(view)
    if reason:
        raise UnsupportedModelError(
            f"Cannot prune the MLP width of {view.spec.model_type!r}: {reason}. "
            'Depth pruning works: pruning_type="DEPTH".'
        )


def _chosen(view: ModelView, target: WidthTarget) -> list[MLPView]:
    """The MLPs of the layers that were asked for."""
    if target.layers is None:
        return view.mlps
    layers = set(check_layer_indices("layer_indices", target.layers, len(view.layers)))
    chosen = [mlp for mlp in view.mlps if mlp.layer in layers]
    without = sorted(layers - {mlp.layer for mlp in chosen})
    if without:
        raise ArgumentError(f"layer_indices names {without}, which have no MLP. Leave them out.")
    return chosen


def _kept_counts(view: ModelView, target: WidthTarget, chosen: list[MLPView]) -> list[int]:
    """How many neurons stay in each chosen MLP, with the warnings that are due."""
    sizes = [(mlp.width, mlp.hidden_size) for mlp in chosen]
    exact = [target.exact_kept(*size) for size in sizes]
    if all(kept > width for kept, (width, _) in zip(exact, sizes, strict=True)):
        current = max(mlp.expansion_rate for mlp in chosen)
        raise ArgumentError(rate_above(target.expansion_rate or 0.0, current))
    counts = [kept_width(view, mlp, target) for mlp in chosen]
    _warn_about(view, target, list(zip(chosen, exact, counts, strict=True)))
    return counts


def kept_width(view: ModelView, mlp: MLPView, target: WidthTarget) -> int:
    """How many neurons of an MLP stay; MLPs that one config field governs are rounded alike."""
    factor = mlp.spec.width_factor
    field = int(mlp.width / factor)  # the value of the config field
    return int(factor * target.kept(field, mlp.hidden_size, width_multiple(view, mlp)))


def width_multiple(view: ModelView, mlp: MLPView) -> int:
    """What the value of the MLP's config field is rounded to."""
    same = [spec.width_multiple for spec in view.spec.mlps if spec.width_key == mlp.spec.width_key]
    return math.lcm(*same, mlp.spec.width_factor.denominator)


def _warn_about(view: ModelView, target: WidthTarget, rows: list[tuple[MLPView, int, int]]) -> None:
    if all(kept == mlp.width for mlp, _, kept in rows):
        _warn("Nothing was removed: the target keeps all neurons. Ask for a smaller width.")
    few = [mlp for mlp, _, kept in rows if kept < mlp.width / 100]
    if few:
        _warn(
            f"Fewer than 1 % of the neurons of {few[0].spec.name} stay; the model will not be of "
            "use without retraining."
        )
    rounded = {
        mlp.spec.name: (kept_exactly, kept, width_multiple(view, mlp))
        for mlp, kept_exactly, kept in rows
        if target.divisor is None and kept < min(kept_exactly, mlp.width)
    }
    for name, (kept_exactly, kept, multiple) in rounded.items():
        _warn(
            f"The kept width of {name} was rounded from {kept_exactly} down to {kept}: the "
            f"kernels of experts need a multiple of {multiple}."
        )


def _warn(message: str) -> None:
    warnings.warn(message, PruningWarning, stacklevel=2)


def _keep(
    mlp: MLPView,
    kept: int,
    criterion: Criterion,
    norms: Mapping[tuple[int, str], Tensor] | None,
) -> tuple[tuple[int, ...], ...]:
    if norms is None:
        scores = score_mlp(mlp, criterion)
    else:
        scores = score_mlp_with_data(mlp, norms[mlp.layer, mlp.spec.name])
    keep = select_neurons(scores, kept).tolist()
    return tuple(map(tuple, keep)) if mlp.spec.experts else (tuple(keep),)
