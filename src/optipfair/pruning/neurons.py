"""Neurons by hand: their scores, one MLP module pruned into new layers, chosen ones set to zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..arch.families import BARE_GATED
from ..arch.slots import take
from ..arch.view import MLPView, ModelView, check_finite, describe, find_mlp
from ..checking import read_scores, whole_number
from ..errors import ArgumentError, UnsupportedModelError
from ..progress import track
from .calibration.activations import own_batches
from .cut.checks import check_cuttable
from .cut.surgery import zero_mlp
from .importance.criteria import CRITERIA, compute_neuron_pair_importance_maw
from .importance.given_scores import only_mlp
from .importance.mlp_scores import score_mlp_with_data
from .importance.selection import select_neurons
from .options.prune_options import PruneOptions
from .planning import scorer
from .request.pruning_request import check_request
from .request.shares import check_percentage
from .request.width_targets import width_target

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ImportanceFunction = Callable[[Tensor, Tensor], Tensor]


def neuron_importance_scores(
    model: PreTrainedModel,
    neuron_selection_method: str = "MAW",
    dataloader: Iterable[Any] | None = None,
    *,
    seed: int = 0,
    show_progress: bool = False,
) -> dict[int, Tensor]:
    """Score the neurons of every layer as `prune_model` would, without pruning.

    Args:
        model: a transformers model of a supported family; it is only read.
        neuron_selection_method: `"MAW"` (alias `"PPM"`), `"VOW"`, `"PON"`, `"L2"` or `"RANDOM"`.
        dataloader: calibration batches for the data-driven form of `"MAW"`.
        seed: of `"RANDOM"`.
        show_progress: whether to show bars.

    Returns:
        Layer index → (I,), or (E, I) for experts, float32 on the CPU; higher stays. Layers without
        an MLP are not in it.

    Raises:
        ArgumentError: an unknown method, one that decides while it prunes, or data that the method
            does not read.
        UnsupportedModelError: a layer has several MLPs, or its weights hold NaN or Inf.
        DataError: the calibration data cannot be used.

    Example:
        >>> from optipfair.testing import tiny_model
        >>> scores = neuron_importance_scores(tiny_model("llama"))
        >>> list(scores), tuple(scores[0].shape)
        ([0, 1, 2, 3], (40,))
    """
    if CRITERIA[neuron_selection_method].needs_data:
        raise ArgumentError(
            f"neuron_selection_method={neuron_selection_method!r} has no scores beforehand: it "
            "decides each layer by what the pruned layers before it give. Use 'MAW' with a "
            "dataloader, or a static method."
        )
    options = PruneOptions(
        neuron_selection_method=neuron_selection_method, pruning_percentage=0, seed=seed
    )
    request = check_request(options, dataloader)
    view = describe(model)
    check_cuttable(view)
    mlps = [mlp for mlp in map(only_mlp, view.layers) if mlp is not None]
    if not mlps:
        raise UnsupportedModelError("The model has no MLP of a known form, so there is no score.")
    batches = None if dataloader is None else own_batches(dataloader)
    score = scorer(view, request, batches, show_progress)
    shown = track(mlps, "scoring", show_progress, unit="MLP")
    return {mlp.layer: score(mlp).float().cpu() for mlp in shown}


def prune_neuron_pairs(
    mlp: nn.Module,
    prune_percentage: float,
    importance_fn: ImportanceFunction = compute_neuron_pair_importance_maw,
    *,
    custom_importance_scores: Any = None,
    activation_norms: Any = None,
    layer_idx: int | None = None,
    expansion_divisor: int | None = None,
) -> tuple[nn.Linear, nn.Linear, nn.Linear, int]:
    """Prune one gated MLP into three new layers; `mlp` itself stays as it is.

    Args:
        mlp: module with linear layers `gate_proj`, `up_proj` (I, H) and `down_proj` (H, I).
        prune_percentage: share of neurons to remove, [0, 100).
        importance_fn: called as `importance_fn(gate_weight, up_weight)` with the two (I, H)
            weights; returns (I,) scores, higher stays.
        custom_importance_scores: (I,) scores in its place, higher stays.
        activation_norms: (I,) norms of what the neurons give on calibration data, or layer index →
            (I,) (`get_activation_norms`): the data-driven form of `"MAW"` takes its place.
        layer_idx: which layer's norms are meant.
        expansion_divisor: round the kept number down to a multiple of 32, 64, 128 or 256.

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
    target = width_target(percentage, None, expansion_divisor)
    view = find_mlp(0, mlp, BARE_GATED) if isinstance(mlp, nn.Module) else None
    if view is None:
        raise ArgumentError(
            f"{type(mlp).__name__} has no gate_proj, up_proj and down_proj with weights. Give a "
            "gated MLP module, for example model.model.layers[0].mlp."
        )
    kept = target.kept(view.width, view.hidden_size)
    check_finite(view, {"gate", "up", "down", "bias"})
    scores = _scores_by(view, importance_fn, custom_importance_scores, activation_norms, layer_idx)
    keep = select_neurons(scores, kept)
    gate, up, down = (
        _cut_linear(view, name, keep) for name in ("gate_proj", "up_proj", "down_proj")
    )
    return gate, up, down, kept


def _scores_by(
    view: MLPView, function: ImportanceFunction, custom: Any, norms: Any, layer: int | None
) -> Tensor:
    """The scores of one MLP's neurons, (I,), by whichever is given."""
    given = {
        "importance_fn": function is not compute_neuron_pair_importance_maw,
        "custom_importance_scores": custom is not None,
        "activation_norms": norms is not None,
    }
    named = [name for name, there in given.items() if there]
    if len(named) > 1:
        raise ArgumentError(f"{' and '.join(named)} are mutually exclusive. Give one of them.")
    if custom is not None:
        return _one_for_each(view, "custom_importance_scores", custom)
    if norms is None:
        matrices = view.matrices()
        return _check_scores(function(matrices["gate"], matrices["up"]), view.width)
    if isinstance(norms, Mapping):
        if layer not in norms:
            raise ArgumentError(
                f"layer_idx={layer!r} has no activation_norms; they are of the layers "
                f"{list(norms)}. Give one of these."
            )
        norms = norms[layer]
    return score_mlp_with_data(view, _one_for_each(view, "activation_norms", norms))


def _one_for_each(view: MLPView, name: str, given: object) -> Tensor:
    """Numbers of a layer's neurons, (I,), where the MLP is."""
    values = read_scores(name, {0: given}, "give one for each neuron")[0]
    if tuple(values.shape) != (view.width,):
        raise ArgumentError(
            f"{name} has shape {tuple(values.shape)}; the MLP has {view.width} neurons. Give one "
            "number for each."
        )
    device = view.tensors[view.spec.down].device
    return values.to(device)


def zero_neurons_mlp(
    model: PreTrainedModel,
    neuron_indices: Mapping[int, Sequence[int]],
    show_progress: bool = True,
) -> PreTrainedModel:
    """Set the rows and columns of chosen MLP neurons to zero, in place.

    The shapes stay; the outputs are those of a model without these neurons.

    Args:
        model: a model of a supported family.
        neuron_indices: layer index → neuron indices; in a layer of experts, of every expert.
        show_progress: whether to show a bar.

    Returns:
        The same model object.

    Raises:
        ArgumentError: an unknown layer or neuron.
        UnsupportedModelError: a layer has no MLP, or several.

    Example:
        >>> from optipfair.testing import tiny_model
        >>> model = zero_neurons_mlp(tiny_model("llama"), {0: [3]}, show_progress=False)
        >>> model.model.layers[0].mlp.up_proj.weight[3].abs().sum().item()
        0.0
    """
    if not isinstance(neuron_indices, Mapping):
        raise ArgumentError(
            f"neuron_indices is a {type(neuron_indices).__name__}. Give a mapping of layer index "
            "to neuron indices, for example {0: [3, 17]}."
        )
    view = describe(model)
    chosen = [_chosen_neurons(view, layer, indices) for layer, indices in neuron_indices.items()]
    for mlp, indices in track(chosen, "zeroing", show_progress, unit="MLP"):
        zero_mlp(mlp, torch.tensor(indices, dtype=torch.int64))
    return model


def _chosen_neurons(
    view: ModelView, layer: object, neurons: Sequence[int]
) -> tuple[MLPView, list[int]]:
    number = whole_number(layer)
    if number is None or not 0 <= number < len(view.layers):
        raise ArgumentError(
            f"neuron_indices names layer {layer!r}; the model has layers 0 to "
            f"{len(view.layers) - 1}."
        )
    mlps = view.layers[number].mlps
    if len(mlps) != 1:
        names = ", ".join(mlp.spec.name for mlp in mlps) or "none"
        raise UnsupportedModelError(
            f"Layer {number} has not one MLP but: {names}. Its neurons have no single numbering."
        )
    if isinstance(neurons, str | bytes) or not isinstance(neurons, Iterable):
        raise ArgumentError(
            f"neuron_indices[{number}]={neurons!r} is no sequence of neuron indices."
        )
    indices: list[int] = []
    for given in neurons:
        index = whole_number(given)
        if index is None or not 0 <= index < mlps[0].width:
            raise ArgumentError(
                f"neuron_indices[{number}] holds {given!r}; the layer has neurons 0 to "
                f"{mlps[0].width - 1}."
            )
        indices.append(index)
    return mlps[0], indices


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
