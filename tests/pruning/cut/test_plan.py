"""A plan is a value: frozen, written and read without loss."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optipfair import ArgumentError, PruningPlan, WidthCut, plan_pruning
from optipfair.pruning.cut.plan import format_ranges, parse_ranges
from optipfair.testing import tiny_model

index_sets = st.sets(st.integers(0, 300)).map(lambda indices: tuple(sorted(indices)))


@st.composite
def plans(draw: st.DrawFn) -> PruningPlan:
    cuts = st.builds(
        WidthCut,
        st.integers(0, 9),
        st.sampled_from(["mlp", "experts"]),
        st.just(301),
        st.lists(index_sets.filter(len), min_size=1, max_size=3).map(tuple),
    )
    values = st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text())
    return PruningPlan(
        draw(st.text()),
        draw(st.integers(1, 10)),
        draw(st.sets(st.integers(0, 9), min_size=1).map(lambda keep: tuple(sorted(keep)))),
        draw(st.lists(cuts, max_size=3).map(tuple)),
        draw(st.dictionaries(st.text(), values, max_size=3)),
    )


@given(index_sets)
def test_ranges_round_trip(indices: tuple[int, ...]) -> None:
    assert parse_ranges(format_ranges(indices)) == indices


def test_ranges_are_written_with_inclusive_ends() -> None:
    assert format_ranges([0, 1, 2, 3, 4, 6, 9, 10, 11]) == "0-4 6 9-11"
    assert format_ranges([]) == ""


@pytest.mark.parametrize("text", ["0-2000000000", f"0-{'9' * 5000}", "5-1", "-3", "a", "1 1-2"])
def test_ranges_that_no_layer_has_are_refused_at_once(text: str) -> None:
    plan = plan_pruning(tiny_model("llama"), pruning_percentage=20)
    written = plan.to_json().replace('"0-3"', json.dumps(text))
    with pytest.raises(ArgumentError, match="plan cannot be read"):
        PruningPlan.from_json(written)


@given(plans())
def test_json_round_trip_is_exact(plan: PruningPlan) -> None:
    again = PruningPlan.from_json(plan.to_json())
    assert again == plan
    assert again.digest == plan.digest


@pytest.mark.parametrize("family", ["llama", "mixtral", "qwen2_moe"])
def test_a_saved_plan_is_the_same_plan(family: str, tmp_path: Path) -> None:
    plan = plan_pruning(tiny_model(family), expansion_rate=100)
    plan.save(tmp_path / "pruning_plan.json")
    assert PruningPlan.load(tmp_path / "pruning_plan.json") == plan


def test_the_dropped_layers_are_those_that_are_not_kept() -> None:
    assert PruningPlan("llama", 5, (0, 2, 4)).drop_layers == (1, 3)


def test_a_plan_that_changes_nothing_is_empty() -> None:
    assert PruningPlan("llama", 2, (0, 1)).empty
    assert not PruningPlan("llama", 2, (0,)).empty
    assert not PruningPlan("llama", 1, (0,), (WidthCut(0, "mlp", 2, ((1,),)),)).empty


def test_a_plan_cannot_be_changed() -> None:
    plan = PruningPlan("llama", 2, (0,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.keep_layers = (1,)  # type: ignore[misc]


VALID = json.loads(PruningPlan("llama", 2, (0,), (WidthCut(0, "mlp", 4, ((1, 2),)),)).to_json())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        json.dumps({**VALID, "version": 99}),
        json.dumps({**VALID, "keep_layers": "a-b"}),
        json.dumps({**VALID, "keep_layers": [0]}),
        json.dumps({**VALID, "width_cuts": [{}]}),
        json.dumps({**VALID, "width_cuts": None}),
        json.dumps({**VALID, "model_type": ["llama"]}),
        json.dumps({**VALID, "width_cuts": [{**VALID["width_cuts"][0], "mlp": ["mlp"]}]}),
        json.dumps({**VALID, "width_cuts": [{**VALID["width_cuts"][0], "keep": [3]}]}),
        json.dumps({**VALID, "request": []}),
        json.dumps({**VALID, "request": {"layer_indices": 3}}),
        json.dumps({**VALID, "request": {"layer_indices": ["a"]}}),
        json.dumps({**VALID, "request": {"neuron_selection_method": {"a": 1}}}),
        json.dumps({key: value for key, value in VALID.items() if key != "num_layers"}),
    ],
)
def test_a_text_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="plan"):
        PruningPlan.from_json(text)


def test_the_request_is_kept_for_the_record() -> None:
    plan = plan_pruning(tiny_model("llama"), "MLP_GLU", "MAW", 20)
    assert plan.request["neuron_selection_method"] == "PPM"
    assert plan.request["pruning_percentage"] == 20
