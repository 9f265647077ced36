"""Depth through the public functions: what works and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optipfair import (
    ArgumentError,
    PruningWarning,
    get_model_layers,
    plan_pruning,
    prune_model,
    prune_model_depth,
    remove_layers_from_model,
    validate_layer_removal_params,
)
from optipfair.testing import tiny_model


def kept_layers(model: Any, *args: Any, **kwargs: Any) -> list[int]:
    """Prune, and say which of the four layers stay."""
    layers = get_model_layers(model)
    assert prune_model(model, "DEPTH", *args, **kwargs, show_progress=False) is model
    return [layers.index(layer) for layer in get_model_layers(model)]


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ({"num_layers_to_remove": 1}, [0, 1, 2]),
        ({"num_layers_to_remove": 3}, [0]),
        ({"num_layers_to_remove": np.int64(2)}, [0, 1]),
        ({"num_layers_to_remove": 2, "layer_selection_method": "first"}, [2, 3]),
        ({"depth_pruning_percentage": 25}, [0, 1, 2]),
        ({"depth_pruning_percentage": 74.9}, [0, 1]),
        ({"depth_pruning_percentage": 50, "layer_selection_method": "first"}, [2, 3]),
        ({"pruning_percentage": 50}, [0, 1]),
        ({"layer_indices": [1]}, [0, 2, 3]),
        ({"layer_indices": [2, 0]}, [1, 3]),
        ({"layer_indices": (0, 2), "layer_selection_method": "custom"}, [1, 3]),
        ({"layer_indices": range(1, 3)}, [0, 3]),
        ({"layer_indices": np.array([1, 3])}, [0, 2]),
        ({"layer_indices": torch.tensor([1, 3])}, [0, 2]),
    ],
    ids=str,
)
def test_the_asked_for_layers_go(arguments: dict[str, Any], kept: list[int]) -> None:
    model = tiny_model("llama")
    assert kept_layers(model, **arguments) == kept
    assert model.config.num_hidden_layers == len(kept)


def test_the_three_depth_functions_agree(logits_of: Callable[..., Tensor]) -> None:
    models = [tiny_model("llama") for _ in range(3)]
    prune_model(models[0], "DEPTH", layer_indices=[1, 2], show_progress=False)
    assert prune_model_depth(models[1], layer_indices=[1, 2], show_progress=False) is models[1]
    assert remove_layers_from_model(models[2], [1, 2], False) is models[2]
    assert torch.equal(logits_of(models[0]), logits_of(models[1]))
    assert torch.equal(logits_of(models[0]), logits_of(models[2]))


BAD = [
    ({}, "No depth target"),
    ({"num_layers_to_remove": 0}, "num_layers_to_remove=0.*1"),
    ({"num_layers_to_remove": -1}, "num_layers_to_remove=-1"),
    ({"num_layers_to_remove": 4}, "1 to 3"),
    ({"num_layers_to_remove": 5}, "1 to 3"),
    ({"num_layers_to_remove": True}, "True is no whole number"),
    ({"num_layers_to_remove": 2.0}, "2.0 is no whole number"),
    ({"num_layers_to_remove": "2"}, "'2' is no whole number"),
    ({"depth_pruning_percentage": 0}, "smallest that removes one is 25"),
    ({"depth_pruning_percentage": 24.9}, "smallest that removes one is 25"),
    ({"depth_pruning_percentage": 100}, r"outside \[0, 100\)"),
    ({"depth_pruning_percentage": -5}, r"outside \[0, 100\)"),
    ({"depth_pruning_percentage": math.nan}, "no finite number"),
    ({"depth_pruning_percentage": "25"}, "no finite number"),
    ({"depth_pruning_percentage": True}, "no finite number"),
    ({"layer_indices": []}, "empty"),
    ({"layer_indices": [4]}, r"\[4\].*4 layers"),
    ({"layer_indices": [-1]}, r"\[-1\]"),
    ({"layer_indices": [1, 1]}, r"\[1\] more than once"),
    ({"layer_indices": [0, 1, 2, 3]}, "all 4 layers"),
    ({"layer_indices": [True]}, "True, which is no whole number"),
    ({"layer_indices": [1.0]}, "1.0, which is no whole number"),
    ({"layer_indices": "12"}, "no sequence"),
    ({"layer_indices": 1}, "no sequence"),
    ({"layer_indices": torch.tensor(True)}, "which is no whole number"),
    ({"layer_indices": [1], "layer_selection_method": "first"}, "'first'.*one of them"),
    ({"layer_indices": [1], "num_layers_to_remove": 1}, "are mutually exclusive"),
    ({"num_layers_to_remove": 1, "depth_pruning_percentage": 25}, "are mutually exclusive"),
    ({"num_layers_to_remove": 1, "layer_selection_method": "custom"}, "'custom' needs the indices"),
    ({"depth_pruning_percentage": 25, "layer_selection_method": "custom"}, "needs the indices"),
    ({"num_layers_to_remove": 1, "layer_selection_method": "lats"}, "Did you mean 'last'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "match"), BAD, ids=str)
def test_depth_requests_that_do_not_fit_are_refused(
    arguments: dict[str, Any], match: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, match, ArgumentError):
        prune_model_depth(model, **arguments, show_progress=False)
    with refused(model, match, ArgumentError):
        prune_model(model, "DEPTH", **arguments, show_progress=False)
    with refused(model, match, ArgumentError):
        validate_layer_removal_params(model, **arguments)


@pytest.mark.parametrize(
    "indices", [[], [4], [-1], [1, 1], [0, 1, 2, 3], [True], None, "1", 1], ids=str
)
def test_removing_layers_that_are_not_there_is_refused(
    indices: Any, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, "layer", ArgumentError):
        remove_layers_from_model(model, indices, show_progress=False)


@pytest.mark.parametrize(
    ("argument", "match"),
    [
        ({"expansion_rate": 140}, "expansion_rate=140"),
        ({"expansion_divisor": 32}, "expansion_divisor=32"),
        ({"neuron_selection_method": "VOW"}, "neuron_selection_method='VOW'"),
        ({"dataloader": []}, "dataloader does not go with layer_selection_method='last'"),
        ({"expansion_rate": 140, "dataloader": []}, r"expansion_rate=140 does not go"),
        ({"pruning_percentage": 25}, "pruning_percentage"),
    ],
    ids=str,
)
def test_width_arguments_are_refused_naming_them(
    argument: dict[str, Any], match: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, match, ArgumentError):
        prune_model(model, "DEPTH", num_layers_to_remove=1, **argument, show_progress=False)


def test_both_names_of_the_share_of_layers_at_once_are_refused(
    refused: Callable[..., Any],
) -> None:
    model = tiny_model("llama")
    with refused(model, "are mutually exclusive", ArgumentError):
        prune_model(model, "DEPTH", "MAW", 50, depth_pruning_percentage=25, show_progress=False)


def test_the_untouched_percentage_is_no_depth_target(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with refused(model, "No depth target is given", ArgumentError):
        prune_model(model, "DEPTH", show_progress=False)


def test_a_share_that_rounds_to_no_layer_names_the_smallest_that_works(
    refused: Callable[..., Any],
) -> None:
    model = tiny_model("llama", num_hidden_layers=3)
    with refused(model, r"smallest that removes one is 33\.34", ArgumentError):
        prune_model_depth(model, depth_pruning_percentage=33.33, show_progress=False)
    prune_model_depth(model, depth_pruning_percentage=33.34, show_progress=False)
    assert len(get_model_layers(model)) == 2


def test_the_only_layer_cannot_go(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    with refused(model, "one layer", ArgumentError):
        prune_model_depth(model, num_layers_to_remove=1, show_progress=False)


@pytest.mark.parametrize(
    ("arguments", "drop", "method"),
    [
        ({"num_layers_to_remove": 1}, [3], "last"),
        ({"depth_pruning_percentage": 50, "layer_selection_method": "first"}, [0, 1], "first"),
        ({"layer_indices": (2, 0)}, [0, 2], "custom"),
    ],
)
def test_validation_says_what_would_go_without_changing_anything(
    arguments: dict[str, Any], drop: list[int], method: str, unchanged: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with unchanged(model):
        found = validate_layer_removal_params(model, **arguments)
    assert (
        found.items()
        >= {
            "total_layers": 4,
            "num_layers_to_remove": len(drop),
            "layer_indices": drop,
            "layers": drop,
            "layer_selection_method": method,
            "remaining_layers": 4 - len(drop),
        }.items()
    )


def test_planning_depth_changes_nothing(unchanged: Callable[..., Any]) -> None:
    model = tiny_model("qwen2_moe")
    with unchanged(model):
        assert plan_pruning(model, "DEPTH", layer_indices=[0, 2]).drop_layers == (0, 2)


def test_a_percentage_below_one_is_said_to_be_no_fraction(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with refused(model, r"is no whole layer.*is 25\. For 0\.25 of all give 25", ArgumentError):
        prune_model_depth(model, depth_pruning_percentage=0.25, show_progress=False)


@pytest.mark.parametrize("method", ["last", "first"])
def test_layers_that_go_without_data_are_warned_of_in_real_models(method: str) -> None:
    model = tiny_model("llama", intermediate_size=1024)
    with pytest.warns(PruningWarning, match=f"The {method} layers go whatever they do, which ruin"):
        plan_pruning(model, "DEPTH", num_layers_to_remove=1, layer_selection_method=method)
    plan_pruning(model, "DEPTH", layer_indices=[1])  # the caller's choice
    plan_pruning(tiny_model("llama"), "DEPTH", num_layers_to_remove=1)  # a toy
