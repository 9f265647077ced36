"""Scores that weigh what neurons are worth against how much they take part in bias.

Axes: `I` neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...arch.view import describe
from ...checking import read_scores, real_number, split_layer_key
from ...errors import ArgumentError
from .criteria import CRITERIA
from .given_scores import only_mlp
from .mlp_scores import score_mlp

_MEANING = "the highest should go"
_OF_NEURONS = "components that have one unit for each neuron: gate_proj, up_proj, neuron_output"


def combine_bias_and_importance(
    bias_scores: Mapping[int, Any], importance_scores: Mapping[int, Any], bias_weight: float = 0.5
) -> dict[int, Tensor]:
    """Combine what a neuron is worth with how little it takes part in bias, by ranks in its layer.

    (1 - w) * rank of importance + w * (1 - rank of bias), where ranks go from 0 (lowest of the
    layer) to 1 and equal scores share the mean of their ranks. Ranks are compared since the two
    kinds of scores have no common unit.

    Args:
        bias_scores: layer index → (I,), of `neuron_bias_scores`; the highest should go.
        importance_scores: layer index → (I,), of `neuron_importance_scores`; the highest should
            stay.
        bias_weight: w, from 0 (importance alone) to 1 (bias alone).

    Returns:
        Layer index → (I,), float64 from 0 to 1, for `prune_model(neuron_scores=...)`: the highest
        stay.

    Raises:
        ArgumentError: other layers or lengths in one than in the other, NaN or Inf, a weight
            outside [0, 1].

    Example:
        >>> bias, importance = {0: [0.0, 3.0, 1.0]}, {0: [1.0, 2.0, 9.0]}
        >>> combine_bias_and_importance(bias, importance, 0.5)[0].tolist()
        [0.5, 0.25, 0.75]
    """
    weight = _checked_weight(bias_weight)
    bias = read_scores("bias_scores", bias_scores, _MEANING)
    importance = read_scores("importance_scores", importance_scores)
    if bias.keys() != importance.keys():
        only = sorted(bias.keys() ^ importance.keys())
        raise ArgumentError(
            f"Layers {only} are in one of bias_scores and importance_scores only. Take both from "
            "one model."
        )
    for layer, scores in bias.items():
        shapes = tuple(scores.shape), tuple(importance[layer].shape)
        if shapes[0] != shapes[1] or len(shapes[0]) != 1:
            raise ArgumentError(
                f"Layer {layer} has shape {shapes[0]} in bias_scores and {shapes[1]} in "
                "importance_scores. Give one score for each neuron in both, from one model."
            )
    return {
        layer: (1 - weight) * _ranks(importance[layer]) + weight * (1 - _ranks(scores))
        for layer, scores in sorted(bias.items())
    }


def compute_fairness_pruning_scores(
    model: Any, bias_scores: Mapping[Any, Any], bias_weight: float = 0.5
) -> dict[int, Tensor]:
    """Say which neurons to remove: those of little importance that take much part in bias.

    (1 - w) * (1 - rank of importance) + w * rank of bias, in each layer, where the importance is
    that of `"MAW"` by weights. Ranks are as in `combine_bias_and_importance`, of which this is the
    reverse: **the highest go**.

    Args:
        model: a transformers model of a supported family; it is only read.
        bias_scores: key (`gate_proj_layer_5`) → (I,), of `analyze_neuron_bias`, where the
            components of a layer are averaged; or layer index → (I,), of `neuron_bias_scores`.
        bias_weight: w, from 0 (importance alone) to 1 (bias alone).

    Returns:
        Layer index → (I,), float64 from 0 to 1, of the layers in `bias_scores`, for
        `prune_model_mlp_glu(fairness_scores=...)`.

    Raises:
        ArgumentError: no model, scores that are not of its neurons, NaN or Inf, a weight outside
            [0, 1].
        UnsupportedModelError: a layer has several MLPs, or its weights hold NaN or Inf.

    Example:
        >>> from optipfair.testing import tiny_model
        >>> bias = {f"{name}_proj_layer_1": range(40) for name in ("gate", "up")}
        >>> scores = compute_fairness_pruning_scores(tiny_model("llama"), bias, bias_weight=1)
        >>> scores[1].argmax().item()
        39
    """
    if isinstance(model, Mapping):
        raise ArgumentError(
            f"model is a {type(model).__name__}. Give a model; scores of both kinds are combined "
            "by combine_bias_and_importance(bias_scores, importance_scores, bias_weight)."
        )
    bias = _by_layer(bias_scores)
    mlps = {layer.index: only_mlp(layer) for layer in describe(model).layers if layer.index in bias}
    without = [layer for layer in bias if mlps.get(layer) is None]
    if without:
        raise ArgumentError(
            f"bias_scores has layers {without}, where the model has no MLP. Take them from this "
            "model."
        )
    for layer, mlp in mlps.items():
        if mlp is not None and tuple(bias[layer].shape) != (mlp.width,):
            raise ArgumentError(
                f"bias_scores of layer {layer} have shape {tuple(bias[layer].shape)}, but the "
                f"layer has {mlp.width} neurons. Give {_OF_NEURONS}."
            )
    importance = {i: score_mlp(mlp, CRITERIA["MAW"]) for i, mlp in mlps.items() if mlp is not None}
    kept = combine_bias_and_importance(bias, importance, bias_weight)
    return {layer: 1 - scores for layer, scores in kept.items()}


def _by_layer(given: Mapping[Any, Any]) -> dict[int, Tensor]:
    """Scores by layer; those of several components of a layer are averaged."""
    keys = {key: split_layer_key(key) for key in given} if isinstance(given, Mapping) else {}
    if None in keys.values() or not keys:
        return read_scores("bias_scores", given, _MEANING)
    found: dict[int, list[Tensor]] = {}
    for name, key in keys.items():
        assert key is not None
        read = read_scores(f"bias_scores ({key[0]})", {key[1]: given[name]}, _MEANING)
        found.setdefault(key[1], []).append(read[key[1]])
    for layer, scores in found.items():
        shapes = {tuple(each.shape) for each in scores}
        if len(shapes) > 1:
            raise ArgumentError(
                f"bias_scores of layer {layer} have the shapes {sorted(shapes)}. "
                f"Give {_OF_NEURONS}."
            )
    return {layer: torch.stack(scores).mean(dim=0) for layer, scores in found.items()}


def _ranks(scores: Tensor) -> Tensor:
    """Ranks from 0 to 1, (I,); equal scores share their mean rank, a single one has one half."""
    if len(scores) == 1:
        return torch.full_like(scores, 0.5)
    _, places, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    below: Tensor = counts.cumsum(0) - counts
    mean = below.double() + (counts.double() - 1) / 2
    ranks: Tensor = mean[places] / (len(scores) - 1)
    return ranks


def _checked_weight(value: object) -> float:
    weight = real_number(value)
    if weight is None or not 0 <= weight <= 1:
        raise ArgumentError(
            f"bias_weight={value!r} is outside [0, 1]. Give 0 for importance alone, 1 for bias "
            "alone, for example 0.5."
        )
    return weight
