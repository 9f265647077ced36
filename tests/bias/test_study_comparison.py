"""Two models on the same pairs, against figures worked out in plain loops."""

from __future__ import annotations

import json
from itertools import product
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
from optipfair.cli.bias_command import comparison_table
from optipfair.testing import byte_tokenizer, tiny_model
from optipfair.uncertainty import holm

COMPONENTS = ("mlp_output", "attention_output", "residual_output")
# The last two change the same words in other sentences.
PAIRS = [
    *DEFAULT_PROMPT_PAIRS[:3],
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
    a, b = (np.array([excess_of(s, i, components) for i in range(5)]) for s in (deep, shallow))
    assert row["a"]["excess"] == pytest.approx(a.mean())
    assert row["b"]["excess"] == pytest.approx(b.mean())
    assert row["paired"]["difference"] == pytest.approx((b - a).mean())
    low, high = row["paired"]["interval"]
    assert low <= (b - a).mean() <= high
    assert min(b - a) - 1e-12 <= low < high <= max(b - a) + 1e-12
    for side in ("a", "b"):
        assert row[side]["difference"] - row[side]["control"] == pytest.approx(row[side]["excess"])


def test_the_p_value_counts_the_signs_that_do_as_well(deep: Study, shallow: Study) -> None:
    """The pairs that change the same words change sign together."""
    found = compare_studies(deep, shallow)
    paired = np.array(
        [excess_of(shallow, i, COMPONENTS) - excess_of(deep, i, COMPONENTS) for i in range(5)]
    )
    sums = [*paired[:3], paired[3] + paired[4]]
    reached = [
        abs(np.dot(signs, sums)) >= abs(sum(sums)) - 1e-12 for signs in product((1, -1), repeat=4)
    ]
    assert found["overall"]["paired"]["p_value"] == pytest.approx(sum(reached) / 16)
    rows = [row["paired"] for row in found["components"].values()]
    assert [row["p_holm"] for row in rows] == holm([row["p_value"] for row in rows])
    assert "p_holm" not in found["overall"]["paired"]


def test_changing_places_changes_the_sign_alone(deep: Study, shallow: Study) -> None:
    one, other = compare_studies(deep, shallow), compare_studies(shallow, deep)
    assert one["models"]["a"] == other["models"]["b"] != one["models"]["b"]
    for name in COMPONENTS:
        row, turned = one["components"][name], other["components"][name]
        assert row["a"] == turned["b"]
        assert row["paired"]["difference"] == -turned["paired"]["difference"]
        assert row["paired"]["p_value"] == turned["paired"]["p_value"]


def test_a_model_does_not_differ_from_itself(deep: Study) -> None:
    found = compare_studies(deep, deep)
    for row in (found["overall"], *found["components"].values()):
        assert row["a"] == row["b"]
        assert row["paired"]["difference"] == 0
        assert row["paired"]["interval"] == [0, 0]
        assert row["paired"]["p_value"] == 1


def test_pairs_and_components_of_one_alone_are_counted(deep: Study) -> None:
    """Pairs are matched by their prompts, whatever their place."""
    fewer = [("Equal prompts", "Equal prompts"), *PAIRS[2:0:-1]]
    one = study(tiny_model("llama"), fewer, ("mlp_output", "input_norm"))
    found = compare_studies(deep, one)
    assert found["pairs"] == {"compared": 2, "without_controls": 0, "in_one_only": 4}
    assert list(found["components"]) == ["mlp_output"]
    assert found["in_one_only"] == ["attention_output", "input_norm", "residual_output"]
    assert found["overall"]["paired"]["difference"] == pytest.approx(0, abs=1e-6)


def test_without_controls_nothing_is_compared(deep: Study) -> None:
    found = compare_studies(deep, study(tiny_model("llama"), controls=0))
    assert found["pairs"] == {"compared": 0, "without_controls": 5, "in_one_only": 0}
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
