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
from .selection import select_neurons
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
    counts = _kept_counts(view, target)
    norms = None if batches is None else neuron_input_norms(view, batches, show_progress)
    cuts = []
    decided: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {}
    for mlp, kept in track(list(zip(view.mlps, counts, strict=True)), "scoring", show_progress):
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


def _kept_counts(view: ModelView, target: WidthTarget) -> list[int]:
    """How many neurons stay in each MLP, with the warnings that are due."""
    sizes = [(mlp.width, mlp.hidden_size) for mlp in view.mlps]
    exact = [target.exact_kept(*size) for size in sizes]
    if all(kept > width for kept, (width, _) in zip(exact, sizes, strict=True)):
        current = max(mlp.expansion_rate for mlp in view.mlps)
        raise ArgumentError(rate_above(target.expansion_rate or 0.0, current))
    counts = [kept_width(view, mlp, target) for mlp in view.mlps]
    _warn_about(view, target, exact, counts)
    return counts


def kept_width(view: ModelView, mlp: MLPView, target: WidthTarget) -> int:
    """How many neurons of an MLP stay; MLPs that one config field governs are rounded alike."""
    factor = mlp.spec.width_factor
    same = [s.width_multiple for s in view.spec.mlps if s.width_key == mlp.spec.width_key]
    field = int(mlp.width / factor)  # the value of the config field
    return int(factor * target.kept(field, mlp.hidden_size, math.lcm(*same, factor.denominator)))


def _warn_about(view: ModelView, target: WidthTarget, exact: list[int], counts: list[int]) -> None:
    rows = list(zip(view.mlps, exact, counts, strict=True))
    if all(kept == mlp.width for mlp, _, kept in rows):
        _warn("Nothing was removed: the target keeps all neurons. Ask for a smaller width.")
    few = [mlp for mlp, _, kept in rows if kept < mlp.width / 100]
    if few:
        _warn(
            f"Fewer than 1 % of the neurons of {few[0].spec.name} stay; the model will not be of "
            "use without retraining."
        )
    rounded = {
        mlp.spec.name: (kept_exactly, kept, mlp.spec.width_multiple)
        for mlp, kept_exactly, kept in rows
        if target.divisor is None and kept < min(kept_exactly, mlp.width)
    }
    for name, (kept_exactly, kept, multiple) in rounded.items():
        _warn(
            f"The kept width of {name} was rounded from {kept_exactly} down to {kept}: its "
            f"kernels need a multiple of {multiple}."
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
