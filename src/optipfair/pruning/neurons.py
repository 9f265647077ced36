"""Neurons by hand: prune one MLP module into new layers, or set chosen neurons to zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..arch.families import BARE_GATED
from ..arch.finite import check_finite
from ..arch.slots import take
from ..arch.view import MLPView, ModelView, describe, find_mlp
from ..checking import whole_number
from ..errors import ArgumentError, UnsupportedModelError
from .cut.surgery import zero_mlp
from .importance.criteria import compute_neuron_pair_importance_maw
from .importance.selection import select_neurons
from .request.targets import check_percentage, removed_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ImportanceFunction = Callable[[Tensor, Tensor], Tensor]


def prune_neuron_pairs(
    mlp: nn.Module,
    prune_percentage: float,
    importance_fn: ImportanceFunction = compute_neuron_pair_importance_maw,
) -> tuple[nn.Linear, nn.Linear, nn.Linear, int]:
    """Prune one gated MLP into three new layers; `mlp` itself stays as it is.

    Args:
        mlp: module with linear layers `gate_proj`, `up_proj` (I, H) and `down_proj` (H, I).
        prune_percentage: share of neurons to remove, [0, 100).
        importance_fn: called as `importance_fn(gate_weight, up_weight)` with the two (I, H)
            weights; returns (I,) scores, higher stays.

    Returns:
        New `gate_proj`, `up_proj`, `down_proj`, and the number k of neurons that stay.

    Raises:
        ArgumentError: no such layers, a percentage out of range, or scores of a wrong shape.

    Example:
        >>> from optipfair.testing import tiny_model
        >>> mlp = tiny_model("llama").model.layers[0].mlp
        >>> gate, up, down, k = prune_neuron_pairs(mlp, 25)
        >>> k, tuple(down.weight.shape)
        (30, (16, 30))
    """
    percentage = check_percentage("prune_percentage", prune_percentage)
    view = find_mlp(0, mlp, BARE_GATED) if isinstance(mlp, nn.Module) else None
    if view is None:
        raise ArgumentError(
            f"{type(mlp).__name__} has no gate_proj, up_proj and down_proj with weights. Give a "
            "gated MLP module, for example model.model.layers[0].mlp."
        )
    kept = max(view.width - removed_count(view.width, percentage), 1)
    check_finite(view, {"gate", "up", "down", "bias"})
    matrices = view.matrices()
    scores = _check_scores(importance_fn(matrices["gate"], matrices["up"]), view.width)
    keep = select_neurons(scores, kept)
    gate, up, down = (
        _cut_linear(view, name, keep) for name in ("gate_proj", "up_proj", "down_proj")
    )
    return gate, up, down, kept


def zero_neurons_mlp(
    model: PreTrainedModel, neurons: Mapping[int, Sequence[int]]
) -> PreTrainedModel:
    """Set the rows and columns of chosen MLP neurons to zero, in place.

    The shapes stay; the outputs are those of a model without these neurons.

    Args:
        model: a model of a supported family.
        neurons: layer index → neuron indices; in a layer of experts, of every expert.

    Returns:
        The same model object.

    Raises:
        ArgumentError: an unknown layer or neuron.
        UnsupportedModelError: a layer has no MLP, or several.

    Example:
        >>> from optipfair.testing import tiny_model
        >>> model = zero_neurons_mlp(tiny_model("llama"), {0: [3]})
        >>> model.model.layers[0].mlp.up_proj.weight[3].abs().sum().item()
        0.0
    """
    if not isinstance(neurons, Mapping):
        raise ArgumentError(
            f"neurons is a {type(neurons).__name__}. Give a mapping of layer index to neuron "
            "indices, for example {0: [3, 17]}."
        )
    view = describe(model)
    chosen = [_chosen_neurons(view, layer, indices) for layer, indices in neurons.items()]
    for mlp, indices in chosen:
        zero_mlp(mlp, torch.tensor(indices, dtype=torch.int64))
    return model


def _chosen_neurons(
    view: ModelView, layer: object, neurons: Sequence[int]
) -> tuple[MLPView, list[int]]:
    number = whole_number(layer)
    if number is None or not 0 <= number < len(view.layers):
        raise ArgumentError(
            f"neurons names layer {layer!r}; the model has layers 0 to {len(view.layers) - 1}."
        )
    mlps = view.layers[number].mlps
    if len(mlps) != 1:
        names = ", ".join(mlp.spec.name for mlp in mlps) or "none"
        raise UnsupportedModelError(
            f"Layer {number} has not one MLP but: {names}. Its neurons have no single numbering."
        )
    if isinstance(neurons, str | bytes) or not isinstance(neurons, Iterable):
        raise ArgumentError(f"neurons[{number}]={neurons!r} is no sequence of neuron indices.")
    given_neurons = list(neurons)
    indices = [whole_number(neuron) for neuron in given_neurons]
    for given, index in zip(given_neurons, indices, strict=True):
        if index is None or not 0 <= index < mlps[0].width:
            raise ArgumentError(
                f"neurons[{number}] holds {given!r}; the layer has neurons 0 to "
                f"{mlps[0].width - 1}."
            )
    return mlps[0], [index for index in indices if index is not None]


def _check_scores(scores: object, width: int) -> Tensor:
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (width,):
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ArgumentError(
            f"importance_fn returned {got}; a tensor of shape ({width},) is needed."
        )
    if not bool(torch.isfinite(scores).all()):
        raise UnsupportedModelError(
            "importance_fn returned NaN or Inf, so the neurons cannot be ranked."
        )
    return scores


def _cut_linear(view: MLPView, name: str, keep: Tensor) -> nn.Linear:
    """A new linear layer with the kept neurons; made on `meta`, so no random number is drawn."""
    old = view.owner.get_submodule(name)
    slots = {slot.name.rpartition(".")[2]: slot for slot in view.tensors if slot.module == name}
    new = {
        key: take(parameter.detach(), slots[key], keep)
        if key in slots
        else parameter.detach().clone()
        for key, parameter in old.named_parameters(recurse=False)
    }
    out_features, in_features = new["weight"].shape
    layer = nn.Linear(in_features, out_features, bias="bias" in new, device="meta")
    for key, tensor in new.items():
        grad = old.get_parameter(key).requires_grad
        layer.register_parameter(key, nn.Parameter(tensor, requires_grad=grad))
    return layer.train(old.training)
