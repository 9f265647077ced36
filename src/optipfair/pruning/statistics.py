"""What a model weighs: `ModelSummary`, parameter counts, and the difference of two summaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from ..arch.view import describe
from ..errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ModelSummary:
    """Sizes of a model at one moment.

    Attributes:
        parameters: all parameters, shared ones once, trainable or not.
        bytes: what they take in memory.
        layers: number of decoder layers, None where they are not found.
        widths: MLP name → neurons in each layer that has it.
        expansion_rate: width of the first kind of MLP in percent of the hidden size (the mean,
            where layers differ), None without one.
        experts: routed experts of a layer (the most, where layers differ), None without any.
    """

    parameters: int
    bytes: int
    layers: int | None
    widths: dict[str, list[int]]
    expansion_rate: float | None
    experts: int | None = None


def summarize(model: nn.Module) -> ModelSummary:
    """Take a model's sizes, for example before pruning it in place.

    Example:
        >>> from optipfair import get_pruning_statistics, prune_model, summarize
        >>> from optipfair.testing import tiny_model
        >>> model = tiny_model("llama")
        >>> before = summarize(model)
        >>> model = prune_model(model, pruning_percentage=50, show_progress=False)
        >>> get_pruning_statistics(before, model)["expansion_rate"]
        125.0
    """
    parameters = list(model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    try:
        view = describe(model)  # type: ignore[arg-type]
    except UnsupportedModelError:
        return ModelSummary(total, size, None, {}, None)
    widths: dict[str, list[int]] = {}
    for mlp in view.mlps:
        widths.setdefault(mlp.spec.name, []).append(mlp.width)
    first = [mlp for mlp in view.mlps if mlp.spec.name == view.mlps[0].spec.name]
    rate = sum(mlp.expansion_rate for mlp in first) / len(first) if first else None
    experts = max((mlp.experts for mlp in view.mlps if mlp.experts), default=None)
    return ModelSummary(total, size, len(view.layers), widths, rate, experts)


def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters, shared ones once.

    Frozen parameters are left out, as the specification says; `get_pruning_statistics` counts
    all of them.
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def get_pruning_statistics(
    original_model: PreTrainedModel | ModelSummary, pruned_model: PreTrainedModel | ModelSummary
) -> dict[str, Any]:
    """Compare a model before and after pruning.

    Args:
        original_model: the model before, or its summary (`summarize`) taken before.
        pruned_model: the model after, or its summary.

    Returns:
        `original_parameters`, `pruned_parameters` (counts), `reduction` (difference),
        `percentage_reduction`, `expansion_rate` (percent, after; None without an MLP),
        `original_bytes`, `pruned_bytes`, and where the layers are known
        `original_layer_count`, `final_layer_count`, `layers_removed`,
        `layer_reduction_percentage`, and where there are routed experts `original_experts` and
        `pruned_experts`, the number in a layer.
    """
    before, after = (
        model if isinstance(model, ModelSummary) else summarize(model)
        for model in (original_model, pruned_model)
    )
    statistics: dict[str, Any] = {
        "original_parameters": before.parameters,
        "pruned_parameters": after.parameters,
        "reduction": before.parameters - after.parameters,
        "percentage_reduction": _percentage(before.parameters, after.parameters),
        "expansion_rate": after.expansion_rate,
        "original_bytes": before.bytes,
        "pruned_bytes": after.bytes,
    }
    if before.layers is not None and after.layers is not None:
        statistics |= {
            "original_layer_count": before.layers,
            "final_layer_count": after.layers,
            "layers_removed": before.layers - after.layers,
            "layer_reduction_percentage": _percentage(before.layers, after.layers),
        }
    if before.experts is not None and after.experts is not None:
        statistics |= {"original_experts": before.experts, "pruned_experts": after.experts}
    return statistics


def _percentage(before: int, after: int) -> float:
    return 100 * (before - after) / before if before else 0.0
