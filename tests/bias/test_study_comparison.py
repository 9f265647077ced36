"""Two models on the same pairs, against figures worked out in plain loops."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from optipfair import prune_model
from optipfair.arch.view import describe
from optipfair.bias.figures.canvas import Style
from optipfair.bias.figures.kinds import comparison_figure
from optipfair.bias.prompts.pairs import DEFAULT_PROMPT_PAIRS, check_prompt_pairs
from optipfair.bias.settings import Settings
from optipfair.bias.study import Study, carry_out, plan_study
from optipfair.bias.study_comparison import compare_studies
from optipfair.cli.bias_command import comparison_notes, comparison_table
from optipfair.testing import byte_tokenizer, tiny_model
from optipfair.uncertainty import holm

COMPONENTS = ("mlp_output", "attention_output", "residual_output")
# The last two change the same words in other sentences.
PAIRS = [
    *DEFAULT_PROMPT_PAIRS,
    ("A tall nurse", "A short nurse"),
    ("The tall cook spoke", "The short cook spoke"),
]


def study(model: Any, pairs: Any = PAIRS, components: Any = COMPONENTS, controls: int = 3) -> Study:
    view = describe(model)
    plan = plan_study(
        view, byte_tokenizer(), check_prompt_pairs(pairs), Settings(controls=controls)
    )
    return carry_out(view, plan, components, range(len(view.layers)))


@pytest.fixture(scope="module")
def deep() -> Study:
    return study(tiny_model("llama"))


@pytest.fixture(scope="module")
def shallow() -> Study:
    model = tiny_model("qwen3")
    prune_model(model, pruning_type="DEPTH", layer_indices=[1], show_progress=False)
    return study(model)


def excess_of(one: Study, pair: int, components: tuple[str, ...]) -> float:
    """In plain loops."""
    places = [i for i, key in enumerate(one.measured.keys) if key.component in components]
    values = {
        c: float(np.mean([one.values[c, i] for i in places])) for c in range(99)[: len(one.values)]
    }
    return values[pair] - float(np.mean([values[c] for c in one.plan.owned[pair]]))


@pytest.mark.parametrize("components", [COMPONENTS, *((name,) for name in COMPONENTS)], ids=str)
def test_figures_are_means_over_layers_and_pairs(
    deep: Study, shallow: Study, components: tuple[str, ...]
) -> None:
    found = compare_studies(deep, shallow)
    row = found["overall"] if components == COMPONENTS else found["components"][components[0]]
    a, b = (np.array([excess_of(s, i, components) for i in range(9)]) for s in (deep, shallow))
    assert row["a"]["excess"] == pytest.approx(a.mean())
    assert row["b"]["excess"] == pytest.approx(b.mean())
    assert row["paired"]["difference"] == pytest.approx((b - a).mean())
    low, high = row["paired"]["interval"]
    assert (low + high) / 2 == pytest.approx((b - a).mean())
    assert (row["paired"]["p_value"] <= 0.05) == (not low <= 0 <= high)
    for side in ("a", "b"):
        assert row[side]["difference"] - row[side]["control"] == pytest.approx(row[side]["excess"])


def test_pairs_of_the_same_words_are_one_swap(deep: Study, shallow: Study) -> None:
    found = compare_studies(deep, shallow)
    assert (found["pairs"]["compared"], found["pairs"]["swaps"]) == (9, 8)
    rows = [row["paired"] for row in found["components"].values()]
    assert [row["p_holm"] for row in rows] == holm([row["p_value"] for row in rows])
    assert "p_holm" not in found["overall"]["paired"]


def test_few_swaps_have_neither_interval_nor_p_value(deep: Study) -> None:
    one = study(prune_model(tiny_model("llama"), pruning_percentage=30, show_progress=False))
    found = compare_studies(deep, one)
    assert found["overall"]["paired"]["p_value"] is not None
    found = compare_studies(deep, study(tiny_model("llama"), PAIRS[-2:]))
    for row in (found["overall"], *found["components"].values()):
        assert (row["paired"]["interval"], row["paired"]["p_value"]) == (None, None)
        assert "one distinct swap is too few" in row["paired"]["undefined"]["p_value"]
    assert {row["paired"]["p_holm"] for row in found["components"].values()} == {None}
    assert comparison_notes(found) == [f"{row['paired']['undefined']['interval']}."]
    _, _, rows = comparison_table(found)
    assert {tuple(row[4:]) for row in rows} == {("-", "-", "-")}


def test_changing_places_changes_the_sign_alone(deep: Study, shallow: Study) -> None:
    one, other = compare_studies(deep, shallow), compare_studies(shallow, deep)
    assert one["models"]["a"] == other["models"]["b"] != one["models"]["b"]
    for name in COMPONENTS:
        row, turned = one["components"][name], other["components"][name]
        assert row["a"] == turned["b"]
        assert row["paired"]["difference"] == pytest.approx(-turned["paired"]["difference"])
        assert row["paired"]["p_value"] == pytest.approx(turned["paired"]["p_value"])


def test_a_model_does_not_differ_from_itself(deep: Study) -> None:
    found = compare_studies(deep, deep)
    for row in (found["overall"], *found["components"].values()):
        assert row["a"] == row["b"]
        assert row["paired"]["difference"] == 0
        assert row["paired"]["interval"] == [0, 0]
        assert row["paired"]["p_value"] == pytest.approx(1)


def test_pairs_and_components_of_one_alone_are_counted(deep: Study) -> None:
    """Pairs are matched by their prompts, whatever their place."""
    fewer = [("Equal prompts", "Equal prompts"), *PAIRS[2:0:-1]]
    one = study(tiny_model("llama"), fewer, ("mlp_output", "input_norm"))
    found = compare_studies(deep, one)
    assert found["pairs"] == {"compared": 2, "swaps": 2, "without_controls": 0, "in_one_only": 8}
    assert list(found["components"]) == ["mlp_output"]
    assert found["in_one_only"] == ["attention_output", "input_norm", "residual_output"]
    assert found["overall"]["paired"]["difference"] == pytest.approx(0, abs=1e-6)


def test_without_controls_nothing_is_compared(deep: Study) -> None:
    found = compare_studies(deep, study(tiny_model("llama"), controls=0))
    assert found["pairs"] == {"compared": 0, "swaps": 0, "without_controls": 9, "in_one_only": 0}
    assert found["overall"] == {"a": None, "b": None, "paired": None}
    _, _, rows = comparison_table(found)
    assert set(rows[0][1:]) == {"-"}
    assert comparison_figure(deep, study(tiny_model("llama"), controls=0), Style()) is None
    json.dumps(found, allow_nan=False)


def test_both_models_are_drawn_from_first_to_last_layer(deep: Study, shallow: Study) -> None:
    figure = comparison_figure(deep, shallow, Style())
    assert figure is not None
    axes = [axis for axis in figure.axes if axis.get_visible()]
    assert sorted(axis.get_title() for axis in axes) == sorted(COMPONENTS)
    for axis in axes:
        one, two = axis.get_lines()[:2]
        assert list(one.get_xdata()) == pytest.approx([0, 1 / 3, 2 / 3, 1])
        assert list(two.get_xdata()) == pytest.approx([0, 1 / 2, 1])
        expected = compare_studies(deep, shallow)["components"][axis.get_title()]
        assert np.mean(one.get_ydata()) == pytest.approx(expected["a"]["excess"])
        assert np.mean(two.get_ydata()) == pytest.approx(expected["b"]["excess"])
