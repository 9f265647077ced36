"""What the command line fills in so that data choose, and what it gives up where they cannot."""

from __future__ import annotations

from typing import Any

import pytest

from optipfair import ArgumentError, UnknownNameError, presets
from optipfair.pruning.options.presets import chosen_by_data, instead_of_data
from optipfair.pruning.options.prune_options import HOW_TO_CHOOSE, PRUNING_TYPES, PruneOptions
from optipfair.pruning.request.pruning_request import check_request

AMOUNT: dict[str, dict[str, Any]] = {
    "MLP_GLU": {"pruning_percentage": 20},
    "ATTENTION": {"pruning_percentage": 50},
    "DEPTH": {"num_layers_to_remove": 2},
    "BOTH": {"pruning_percentage": 20, "num_layers_to_remove": 2},
    "EXPERTS": {"num_experts_to_remove": 2},
    "BLOCKS": {"blocks": ["attention.1", "mlp.2"]},
}
BY_WEIGHTS: list[dict[str, Any]] = [
    {"calibration": "none"},
    {"calibration": None},
    {"neuron_selection_method": "MAW"},
    {"neuron_selection_method": "ppm"},
    {"neuron_selection_method": "RANDOM"},
    {"neuron_selection_method": "PPM", "calibration": "mine.txt"},
    {"pruning_type": "BOTH", "neuron_selection_method": "L2", "num_layers_to_remove": 1},
    {"pruning_type": "DEPTH", "layer_indices": [1], "compensate": False},
    {"pruning_type": "DEPTH", "layer_selection_method": "first", "compensate": False},
    {"pruning_type": "DEPTH", "calibration": "none", "num_layers_to_remove": 1},
]
TRAINED = {"neuron_selection_method": "AUTO", "reconstruct": True}
# What is asked for, and what is filled in.
FILLED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {},
        {**TRAINED, "calibration": "builtin", "nearest_multiple": 32},
    ),
    ({"expansion_divisor": 128}, {**TRAINED, "calibration": "builtin"}),
    (
        {"nearest_multiple": 64, "neuron_selection_method": "OBS", "seed": 3},
        {"calibration": "builtin"},
    ),
    (
        {"calibration": "mine.txt", "target_params": "1B"},
        {**TRAINED, "nearest_multiple": 32},
    ),
    (
        {"compensate": True, "neuron_selection_method": "ACT"},
        {"calibration": "builtin", "nearest_multiple": 32, "reconstruct": True},
    ),
    (
        {"neuron_selection_method": "ACT"},
        {"calibration": "builtin", "nearest_multiple": 32},
    ),
    (
        {"sequential": False},
        {"neuron_selection_method": "AUTO", "calibration": "builtin", "nearest_multiple": 32},
    ),
    (
        {"pruning_type": "attention"},
        {"neuron_selection_method": "AUTO", "calibration": "builtin"},
    ),
    (
        {"pruning_type": "depth"},
        {"layer_selection_method": "auto", "compensate": True, "calibration": "builtin"},
    ),
    (
        {"pruning_type": "DEPTH", "layer_selection_method": "first"},
        {"compensate": True, "calibration": "builtin"},
    ),
    (
        {"pruning_type": "DEPTH", "layer_indices": [3]},
        {"compensate": True, "calibration": "builtin"},
    ),
    (
        {"pruning_type": "DEPTH", "compensate": False},
        {"layer_selection_method": "auto", "calibration": "builtin"},
    ),
    (
        {"pruning_type": "BOTH", "layer_indices": [3]},
        {**TRAINED, "calibration": "builtin", "nearest_multiple": 32},
    ),
    (
        {"pruning_type": "BOTH", "layer_selection_method": "last", "expansion_divisor": 32},
        {**TRAINED, "calibration": "builtin"},
    ),
]


@pytest.mark.parametrize("asked", BY_WEIGHTS, ids=str)
def test_where_weights_alone_are_asked_for_nothing_is_filled_in(asked: dict[str, Any]) -> None:
    assert chosen_by_data(asked) == asked
    assert instead_of_data(asked, asked) == []


@pytest.mark.parametrize(("asked", "filled"), FILLED, ids=str)
def test_only_what_is_missing_is_filled_in(asked: dict[str, Any], filled: dict[str, Any]) -> None:
    assert chosen_by_data(asked) == asked | filled


@pytest.mark.parametrize("kind", list(PRUNING_TYPES))
def test_every_kind_of_pruning_is_then_what_the_preset_asks_for(kind: str) -> None:
    asked = {"pruning_type": kind, **AMOUNT[kind]}
    chosen = chosen_by_data(asked)
    for name, value in presets.quality.by_type[kind].items():
        assert chosen[name] == value
    assert check_request(PruneOptions(**chosen)).by_layers == (kind != "EXPERTS")
    assert chosen.keys() - asked.keys() <= HOW_TO_CHOOSE | {"nearest_multiple"}


def test_layers_with_experts_are_chosen_by_data_and_not_fitted() -> None:
    asked = {"pruning_type": "BOTH", "num_layers_to_remove": 2, "experts_to_keep": 6}
    chosen = chosen_by_data(asked)
    assert chosen == asked | {
        "calibration": "builtin",
        "expert_selection_method": "REAP",
        "layer_selection_method": "auto",
    }
    assert check_request(PruneOptions(**chosen)).unit == "expert"


def test_without_text_experts_are_chosen_by_their_weights() -> None:
    asked = {"pruning_type": "EXPERTS", "experts_to_keep": 6, "calibration": "none"}
    assert chosen_by_data(asked) == asked | {"expert_selection_method": "NORM"}


def test_a_static_score_of_experts_means_no_text() -> None:
    asked = {"pruning_type": "EXPERTS", "experts_to_keep": 6, "expert_selection_method": "NORM"}
    assert chosen_by_data(asked) == asked


@pytest.mark.parametrize("kind", list(PRUNING_TYPES))
def test_where_data_cannot_choose_weights_do(kind: str) -> None:
    asked = {"pruning_type": kind, **AMOUNT[kind]}
    of_text = {"calibration_samples": 8, "calibration_length": 32, "evaluate": False}
    given = asked | of_text
    *before, last = instead_of_data(given, chosen_by_data(given))
    score = {"expert_selection_method": "NORM"} if kind == "EXPERTS" else {}
    assert last == asked | score | {"evaluate": False}
    chosen, by_layers = chosen_by_data(given), {"layer_selection_method": "block_influence"}
    assert before == {
        "DEPTH": [
            chosen | {"compensate": False},
            chosen | by_layers,
            chosen | by_layers | {"compensate": False},
        ],
        "BOTH": [chosen | by_layers],
    }.get(kind, [])
    assert not check_request(PruneOptions(**last)).by_layers


@pytest.mark.parametrize(
    "asked",
    [
        {"neuron_selection_method": "AUTO"},
        {"calibration": "builtin"},
        {"compensate": True},
        {"layer_widths": "by_loss"},
        {"pruning_type": "DEPTH", "layer_selection_method": "auto", "compensate": True},
        {"pruning_type": "BOTH", "layer_selection_method": "angular"},
    ],
    ids=str,
)
def test_what_was_asked_for_is_not_given_up(asked: dict[str, Any]) -> None:
    assert instead_of_data(asked, chosen_by_data(asked)) == []


def test_layers_that_are_named_are_only_removed_where_nothing_can_make_up_for_them() -> None:
    asked = {"pruning_type": "DEPTH", "layer_indices": [1]}
    assert instead_of_data(asked, chosen_by_data(asked)) == [asked]


def test_a_text_of_the_users_own_is_not_given_up_for_weights() -> None:
    asked = {"pruning_type": "DEPTH", "num_layers_to_remove": 1, "calibration": "mine.txt"}
    ways = instead_of_data(asked, chosen_by_data(asked))
    assert {way["calibration"] for way in ways} == {"mine.txt"}
    assert [(way["layer_selection_method"], way["compensate"]) for way in ways] == [
        ("auto", False),
        ("block_influence", True),
        ("block_influence", False),
    ]


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"pruning_type": "DEPHT"}, "Unknown pruning_type 'DEPHT'. Did you mean 'DEPTH'"),
        ({"neuron_selection_method": "ATUO"}, "'ATUO'. Did you mean 'AUTO'"),
    ],
)
def test_unknown_names_are_refused_as_ever(asked: dict[str, Any], match: str) -> None:
    with pytest.raises(UnknownNameError, match=match):
        chosen_by_data(asked)


def test_the_default_of_python_stays() -> None:
    options = PruneOptions()
    assert (options.neuron_selection_method, options.calibration) == ("MAW", None)
    with pytest.raises(ArgumentError, match="needs calibration data"):
        check_request(presets.quality.options(pruning_percentage=20))
