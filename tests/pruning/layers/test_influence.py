"""Which layers matter, on data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from optipfair import analyze_layer_importance, plan_pruning, prune_model
from optipfair.arch.families import FAMILIES
from optipfair.errors import ArgumentError, DataError, UnknownNameError
from optipfair.pruning.layers.influence import by_influence
from optipfair.testing import tiny_model

IDS = torch.arange(24).view(2, 12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_that_passes_its_input_on_has_no_influence(
    family: str, unchanged: Callable[..., Any]
) -> None:
    model: Any = tiny_model(family)
    layer = model.base_model.get_submodule(FAMILIES[family].layers)[1]
    run = layer.forward

    def idle(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        output = run(*args, **kwargs)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    layer.forward = idle
    scores = analyze_layer_importance(model, [IDS])
    assert scores[1] == pytest.approx(0, abs=1e-6)
    assert all(0 <= score <= 2 for score in scores.values())
    assert min(scores, key=lambda index: scores[index]) == 1


def test_the_score_is_one_minus_the_cosine_of_input_and_output() -> None:
    model: Any = tiny_model("llama")
    with torch.no_grad():
        states = model(input_ids=IDS, output_hidden_states=True).hidden_states
    scores = analyze_layer_importance(model, [IDS])
    for index in range(3):  # the last state is normalized
        cosine = torch.cosine_similarity(states[index], states[index + 1], dim=-1)
        assert scores[index] == pytest.approx(float((1 - cosine).mean()), abs=1e-6)


def test_padding_and_batch_size_do_not_matter() -> None:
    model = tiny_model("llama")
    rows = [IDS[0], IDS[1, :5]]
    alone = analyze_layer_importance(model, [row[None] for row in rows])
    ids, mask = torch.zeros(2, 12, dtype=torch.int64), torch.zeros(2, 12, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, -len(row) :], mask[index, -len(row) :] = row, 1
    together = analyze_layer_importance(model, [{"input_ids": ids, "attention_mask": mask}])
    assert together == pytest.approx(alone, abs=1e-6)


def test_the_layers_with_least_influence_go() -> None:
    model = tiny_model("llama")
    chosen = by_influence(analyze_layer_importance(model, [IDS]))
    plan = plan_pruning(
        model,
        "DEPTH",
        num_layers_to_remove=2,
        layer_selection_method="block_influence",
        dataloader=[IDS],
    )
    assert plan.drop_layers == chosen(2)


def test_ties_go_by_the_lower_index() -> None:
    assert [by_influence({0: 0.5, 1: 0.1, 2: 0.1})(count) for count in (1, 2)] == [(1,), (1, 2)]


def test_a_budget_removes_layers_in_that_order() -> None:
    model = tiny_model("llama")
    chosen = by_influence(analyze_layer_importance(model, [IDS]))
    total = sum(parameter.numel() for parameter in model.parameters())
    plan = plan_pruning(
        model,
        "DEPTH",
        target_params=total - 1,
        layer_selection_method="block_influence",
        dataloader=[IDS],
    )
    assert plan.drop_layers == chosen(1)


def test_without_data_it_is_refused(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with refused(model, "needs calibration data", ArgumentError):
        prune_model(
            model, "DEPTH", num_layers_to_remove=1, layer_selection_method="block_influence"
        )


def test_a_typo_is_answered_with_the_name(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with refused(model, "Did you mean 'block_influence'", UnknownNameError):
        prune_model(model, "DEPTH", num_layers_to_remove=1, layer_selection_method="block_influnce")


def test_no_batch_is_refused(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with refused(model, "no batch", DataError):
        analyze_layer_importance(model, [])


def test_layers_are_found_by_a_path_too() -> None:
    model = tiny_model("llama")
    found = analyze_layer_importance(model, [IDS], show_progress=False)
    assert analyze_layer_importance(model, [IDS], "model.layers", False) == found
    unlisted: Any = tiny_model("llama")
    unlisted.config.model_type = "unheard_of"
    assert analyze_layer_importance(unlisted, [IDS], layers_path="model.layers") == found


@pytest.mark.parametrize("path", ["model.layer", "model", "", "lm_head"])
def test_a_path_to_no_layers_is_refused_with_those_there_are(path: str) -> None:
    with pytest.raises(ArgumentError, match=r"layers_path=.* It has: model.layers \(4\)"):
        analyze_layer_importance(tiny_model("llama"), [IDS], path)
