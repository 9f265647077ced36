"""The pruning functions of the specification: tables of contents over the other modules."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from ..arch.view import ModelView, describe
from ..checking import read_scores
from ..errors import ArgumentError, DataError, UnsupportedModelError
from ..option_fields import checked_keywords, taking
from .cut.plan import PruningPlan
from .cut.surgery import carry_out
from .decision import decide
from .importance.given_scores import NeuronScores
from .options.prune_options import CHOICE, DEFAULT_PERCENTAGE, TARGET, PruneOptions
from .request.depth_targets import depth_request
from .request.pruning_request import PruningRequest, check_request
from .request.shares import explicit_percentage
from .statistics import get_pruning_statistics, summarize

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_OTHER_TARGETS = (
    *("target_params", "target_size", "num_experts_to_remove", "experts_to_keep"),
    *("num_blocks_to_remove", "blocks"),
)


@taking(PruneOptions, TARGET, CHOICE)
def prune_model(
    model: PreTrainedModel,
    pruning_type: str = "MLP_GLU",
    neuron_selection_method: str = "MAW",
    pruning_percentage: float | None = DEFAULT_PERCENTAGE,
    expansion_rate: float | None = None,
    dataloader: Iterable[Any] | None = None,
    show_progress: bool = True,
    return_stats: bool = False,
    num_layers_to_remove: int | None = None,
    layer_indices: Sequence[int] | None = None,
    depth_pruning_percentage: float | None = None,
    layer_selection_method: str = "last",
    *,
    neuron_scores: Mapping[int, Any] | None = None,
    **more: Any,
) -> PreTrainedModel | tuple[PreTrainedModel, dict[str, Any]]:
    """Prune a model in place: neurons of its MLPs, attention heads, or whole decoder layers.

    Args:
        model: a transformers model of a supported family, on any device, in any float dtype.
        dataloader: calibration batches (dicts, tuples or tensors). The result depends on neither
            batch size nor padding; with `compensate` it depends on the order of the sequences,
            since a part of their tokens is held back. Several processes share the batches
            (`docs/criteria.md`).
        show_progress: whether to show progress bars.
        return_stats: whether to return statistics too (`get_pruning_statistics`; where
            `layer_indices` choose layers for their neurons, also `pruned_layers` and
            `total_layers`, two counts).
        neuron_scores: your own scores instead of a criterion's: layer index → (I,), or (E, I) for
            experts, as tensors, arrays or lists of finite numbers; the highest are kept. Every
            layer that is cut needs them. Not with a `neuron_selection_method`, and with a
            dataloader only where that compensates (`compensate=True`) or ranks layers.
        (the options)

    The default of 10 % beside another target counts as absent, since it cannot be told from an
    explicit 10. Layers that differ in width are saved with `per_layer_config`, which `load_model`
    reads.

    Returns:
        The same model object; with `return_stats`, `(model, statistics)`.

    Raises:
        ArgumentError: (a ValueError) wrong or conflicting arguments.
        UnsupportedModelError: (a ValueError) the model cannot be pruned this way.
        DataError: (a ValueError) the calibration data cannot be used.
        After any of them the model is exactly as it was.

    Example:
        >>> from optipfair.testing import tiny_model
        >>> model, stats = prune_model(
        ...     tiny_model("llama"), pruning_percentage=20, show_progress=False, return_stats=True
        ... )
        >>> model.config.intermediate_size, stats["expansion_rate"]
        (32, 200.0)
    """
    checked_keywords(prune_model, more)
    _check_places(dataloader, show_progress=show_progress, return_stats=return_stats)
    targets = (expansion_rate, *(more.get(name) for name in _OTHER_TARGETS))
    options = PruneOptions(
        pruning_type=pruning_type,
        neuron_selection_method=neuron_selection_method,
        pruning_percentage=explicit_percentage(pruning_type, pruning_percentage, *targets),
        expansion_rate=expansion_rate,
        num_layers_to_remove=num_layers_to_remove,
        layer_indices=layer_indices,
        depth_pruning_percentage=depth_pruning_percentage,
        layer_selection_method=layer_selection_method,
        **more,
    )
    request = check_request(options, dataloader, neuron_scores)
    plan, rewrite = decide(describe(model), request, dataloader, show_progress=show_progress)
    before = summarize(model) if return_stats else None
    if rewrite is not None:
        carry_out(plan, rewrite, show_progress=show_progress)
    if before is None:
        return model
    return model, get_pruning_statistics(before, model) | _of_chosen_layers(request, plan)


def _check_places(dataloader: object, **flags: object) -> None:
    """Refuse what stands in the place of another argument."""
    if isinstance(dataloader, numbers.Number):
        raise DataError(
            f"dataloader is a {type(dataloader).__name__}, {dataloader!r}. The sixth argument of "
            "prune_model is a DataLoader or another iterable of batches; name what you mean, for "
            f"example expansion_divisor={dataloader!r}."
        )
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ArgumentError(
                f"{name} is of type {type(value).__name__}, not True or False. After the first "
                "five arguments of prune_model come dataloader, show_progress and return_stats; "
                "name what you mean, for example dataloader=..."
            )


def _of_chosen_layers(request: PruningRequest, plan: PruningPlan) -> dict[str, int]:
    """How many layers were cut, where the caller chose them."""
    if request.width is None or request.width.layers is None:
        return {}
    cut = {each.layer for each in plan.width_cuts}
    return {"pruned_layers": len(cut), "total_layers": plan.num_layers}


@taking(PruneOptions, TARGET, CHOICE)
def plan_pruning(
    model: PreTrainedModel,
    pruning_type: str = "MLP_GLU",
    neuron_selection_method: str = "MAW",
    pruning_percentage: float | None = None,
    expansion_rate: float | None = None,
    *,
    dataloader: Iterable[Any] | None = None,
    show_progress: bool = False,
    neuron_scores: Mapping[int, Any] | None = None,
    **more: Any,
) -> PruningPlan:
    """Decide what `prune_model` would do, without changing the model.

    Arguments and errors are those of `prune_model`, except that `pruning_percentage` has no
    default here: exactly one target must be given. `apply_plan(model, plan)` carries it out, with
    the same result. `plan.save(path)` keeps it, with the tensors with which what stays makes up
    for what goes.

    Example:
        >>> from optipfair.testing import tiny_model
        >>> plan = plan_pruning(tiny_model("llama"), "DEPTH", num_layers_to_remove=1)
        >>> plan.drop_layers
        (3,)
    """
    checked_keywords(plan_pruning, more)
    options = PruneOptions(
        pruning_type=pruning_type,
        neuron_selection_method=neuron_selection_method,
        pruning_percentage=pruning_percentage,
        expansion_rate=expansion_rate,
        **more,
    )
    request = check_request(options, dataloader, neuron_scores)
    return decide(describe(model), request, dataloader, show_progress=show_progress)[0]


def prune_model_mlp_glu(
    model: PreTrainedModel,
    neuron_selection_method: str = "MAW",
    pruning_percentage: float | None = DEFAULT_PERCENTAGE,
    expansion_rate: float | None = None,
    show_progress: bool = True,
    *,
    dataloader: Iterable[Any] | None = None,
    expansion_divisor: int | None = None,
    layer_indices: Sequence[int] | None = None,
    fairness_scores: Mapping[int, Any] | None = None,
) -> PreTrainedModel:
    """Prune the MLP neurons of a model in place and return it (see `prune_model`).

    `layer_indices` are the layers whose neurons go. `fairness_scores`, layer index → (I,), choose
    the neurons in the place of a method, and the highest go (`compute_fairness_pruning_scores`).
    """
    scores = None
    if fairness_scores is not None:
        given = read_scores("fairness_scores", fairness_scores, "higher is removed")
        lowest_go = {layer: -values for layer, values in given.items()}
        scores = NeuronScores(lowest_go, given_as="fairness_scores")
    return prune_model(  # type: ignore[return-value]
        model,
        "MLP_GLU",
        neuron_selection_method,
        pruning_percentage,
        expansion_rate,
        dataloader,
        show_progress,
        layer_indices=layer_indices,
        neuron_scores=scores,  # type: ignore[arg-type]  # read, and named as they were given
        expansion_divisor=expansion_divisor,
    )


def prune_model_depth(
    model: PreTrainedModel,
    num_layers_to_remove: int | None = None,
    layer_indices: Sequence[int] | None = None,
    depth_pruning_percentage: float | None = None,
    layer_selection_method: str = "last",
    show_progress: bool = True,
) -> PreTrainedModel:
    """Remove whole decoder layers in place and return the model (see `prune_model`).

    Exactly one of the count, the indices and the percentage must be given.
    """
    return prune_model(  # type: ignore[return-value]
        model,
        "DEPTH",
        show_progress=show_progress,
        num_layers_to_remove=num_layers_to_remove,
        layer_indices=layer_indices,
        depth_pruning_percentage=depth_pruning_percentage,
        layer_selection_method=layer_selection_method,
    )


def remove_layers_from_model(
    model: PreTrainedModel, layer_indices_to_remove: Sequence[int], show_progress: bool = True
) -> PreTrainedModel:
    """Remove the decoder layers with these indices, in place, and return the model.

    Raises:
        ArgumentError: an index is unknown or repeated, or no layer would stay.
        UnsupportedModelError: the result would not reload as itself.
    """
    return prune_model_depth(
        model, layer_indices=layer_indices_to_remove, show_progress=show_progress
    )


def validate_layer_removal_params(
    model: PreTrainedModel,
    num_layers_to_remove: int | None = None,
    layer_indices: Sequence[int] | None = None,
    depth_pruning_percentage: float | None = None,
    layer_selection_method: str = "last",
) -> dict[str, Any]:
    """Check the arguments of a layer removal against a model, without changing it.

    Returns:
        `total_layers`, `num_layers_to_remove`, `layer_indices` (sorted, the layers that would
        go; also named `layers`), `layer_selection_method` (`"custom"` where indices were given),
        `remaining_layers`.

    Raises:
        ArgumentError: wrong or conflicting arguments.
    """
    request = depth_request(
        num_layers_to_remove, layer_indices, depth_pruning_percentage, layer_selection_method
    )
    total = len(describe(model).layers)
    drop = request.resolve(total)
    return {
        "total_layers": total,
        "num_layers_to_remove": len(drop),
        "layer_indices": list(drop),
        "layers": list(drop),
        "layer_selection_method": request.method,
        "remaining_layers": total - len(drop),
    }


def get_model_layers(model: PreTrainedModel) -> list[Any]:
    """Return the decoder layers of a model, in order; none where they are not found.

    Raises:
        UnsupportedModelError: it is no torch module at all.
    """
    try:
        return [layer.module for layer in describe(model).layers]
    except UnsupportedModelError:
        if isinstance(model, nn.Module):
            return []
        raise


def validate_model_for_glu_pruning(model: PreTrainedModel) -> bool:
    """Whether the model's MLPs are gated (dense, fused or experts) and their width is prunable.

    Plain MLPs (GPT-2, OPT, ...) give False here; `prune_model` prunes them all the same.
    """
    try:
        view: ModelView = describe(model)
    except UnsupportedModelError:
        return False
    return bool(view.mlps) and all(
        mlp.spec.gated and mlp.spec.width_key is not None for mlp in view.mlps
    )
