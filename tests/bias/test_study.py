"""Pairs against their controls: right level under the null, and planted differences are found."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np
import pytest
import torch

from optipfair import visualize_bias
from optipfair.arch.view import describe
from optipfair.bias import DEFAULT_PROMPT_PAIRS, PromptPair, generate_prompt_pairs
from optipfair.bias.activations.capture import Captured
from optipfair.bias.activations.differences import Measured
from optipfair.bias.activations.layer_keys import LayerKey
from optipfair.bias.activations.metrics import Sums
from optipfair.bias.prompts.controls import Controls
from optipfair.bias.prompts.pairs import check_prompt_pairs
from optipfair.bias.prompts.words import neutral_words
from optipfair.bias.settings import Settings
from optipfair.bias.study import Plan, Study, carry_out, plan_study
from optipfair.bias.study_summary import summarize_study
from optipfair.cli.bias_command import row_notes
from optipfair.testing import byte_tokenizer, tiny_model
from optipfair.uncertainty import holm

ADJECTIVES = neutral_words("adjective")


def study_of(values: Any, pairs: Sequence[PromptPair], controls: Sequence[int]) -> Study:
    """A study whose relative differences are `values` (comparisons, K)."""
    squared = torch.as_tensor(values, dtype=torch.float64).T ** 2  # (K, C)
    ones = torch.ones_like(squared)
    sums = Sums(ones, ones, squared, ones, ones, ones, ones, ones)
    keys = tuple(LayerKey("mlp_output", layer) for layer in range(len(squared)))
    made = tuple(Controls((("a", "b"),) * count) for count in controls)
    plan = Plan(tuple(pairs), made, ())
    return Study(plan, Measured(keys, sums), Captured(1, 1, {}), {}, "", "", len(keys))


def pairs_of(count: int, category: str | None = None) -> list[PromptPair]:
    """Pairs that differ in words of their own each."""
    words = itertools.combinations(ADJECTIVES, 2)
    return [
        PromptPair(f"The {a} door.", f"The {b} door.", category)
        for a, b in itertools.islice(words, count)
    ]


def apart(count: int, category: str | None = None) -> list[PromptPair]:
    """Pairs of which no two share a word."""
    words = [ADJECTIVES[i : i + 2] for i in range(0, 2 * count, 2)]
    return [PromptPair(f"The {a} door.", f"The {b} door.", category) for a, b in words]


def binomial_above(share: float, trials: int, hits: int) -> float:
    """How likely chance gives at least so many hits."""
    return sum(
        comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(hits, trials + 1)
    )


def within(share: float, trials: int, hits: int) -> bool:
    return (
        binomial_above(share, trials, hits) > 1e-3
        and 1 - binomial_above(share, trials, hits + 1) > 1e-3
    )


@pytest.mark.parametrize("skewed", [False, True])
def test_the_share_of_false_finds_is_the_level(skewed: bool) -> None:
    rng = np.random.default_rng(5)
    studies, pairs, controls, keys = 200, 5, 4, 3
    finds, any_key, intervals = 0, 0, 0
    for _ in range(studies):
        drawn = rng.lognormal(size=(pairs * (1 + controls), keys))
        values = drawn if skewed else 2 + 0.2 * np.log(drawn)
        found = summarize_study(study_of(values, apart(pairs), [controls] * pairs))
        finds += found["overall"]["p_value"] <= 0.05
        any_key += any(key["p_holm"] <= 0.05 for key in found["keys"].values())
        low, high = found["overall"]["interval"]
        intervals += not low <= 0 <= high
    allowed = 0.08 if skewed else 0.05  # Student's, of five skewed values
    assert binomial_above(allowed, studies, finds) > 1e-3
    assert binomial_above(allowed, studies, any_key) > 1e-3  # Holm keeps the level over the keys
    assert intervals == finds


def test_neutral_pairs_are_significant_at_the_level() -> None:
    """Seven pairs of neutral words at a time, in a model, against controls of other words."""
    rng = random.Random(3)
    sentences = ("The {} door was open.", "She saw a {} house there.", "It was a {} day.")
    pairs = []
    for study in range(50):
        words = rng.sample(ADJECTIVES, 14)
        for i in range(7):
            text = sentences[i % 3]
            pairs.append(
                PromptPair(text.format(words[2 * i]), text.format(words[2 * i + 1]), f"{study}")
            )
    tokenizer, model = byte_tokenizer(), tiny_model("llama", num_hidden_layers=2)
    view = describe(model)
    plan = plan_study(view, tokenizer, pairs, Settings(controls=4))
    found = summarize_study(carry_out(view, plan, ["residual_output"], [0, 1]))
    assert found["controls"] == 350 * 4
    p_values = [category["p_value"] for category in found["categories"].values()]
    assert len(p_values) == 50
    assert within(0.05, 50, sum(p <= 0.05 for p in p_values))
    assert within(0.5, 50, sum(p <= 0.5 for p in p_values))


def test_a_planted_difference_is_found_where_it_is() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(1, 0.1, size=(8 * 9, 5))
    values[:8, 3] += 0.5
    found = summarize_study(study_of(values, apart(8, "race"), [8] * 8))
    excess = {key: figures["excess"] for key, figures in found["keys"].items()}
    p_holm = {key: figures["p_holm"] for key, figures in found["keys"].items()}
    assert [key for key, p in p_holm.items() if p < 0.05] == ["mlp_output_layer_3"]
    assert excess["mlp_output_layer_3"] == pytest.approx(0.5, abs=0.1)
    low, high = found["keys"]["mlp_output_layer_3"]["interval"]
    assert 0.35 < low < excess["mlp_output_layer_3"] < high < 0.65
    assert found["overall"]["p_value"] < 0.05
    assert found["categories"]["race"] == found["overall"]


def test_figures_are_the_means_they_say() -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(1, 2, size=(4 * 3, 3))
    pairs = [*pairs_of(2, "age"), *(PromptPair(f"{p.prompt1}.", p.prompt2) for p in pairs_of(2))]
    found = summarize_study(study_of(values, pairs, [2] * 4))
    own, controls = values[:4], values[4:].reshape(4, 2, 3).mean(axis=1)
    for k, figures in enumerate(found["keys"].values()):
        assert figures["control"] == pytest.approx(controls[:, k].mean())
        assert figures["excess"] == pytest.approx((own - controls)[:, k].mean())
    assert found["overall"]["difference"] == pytest.approx(own.mean())
    assert found["overall"]["excess"] == pytest.approx((own - controls).mean())
    age = found["categories"]["age"]
    assert (age["pairs"], age["excess"]) == (2, pytest.approx((own - controls)[:2].mean()))
    p_values = [figures["p_value"] for figures in found["keys"].values()]
    assert [figures["p_holm"] for figures in found["keys"].values()] == holm(p_values)


def test_pairs_of_the_same_words_count_as_one_witness() -> None:
    words = ("white", "Black")
    pairs = [PromptPair(*(f"The {w} man {end}." for w in words)) for end in ("ran", "sat", "ate")]
    pairs.append(PromptPair("A Black cook", "A white cook"))  # the other way round
    values = np.random.default_rng(2).uniform(1, 2, size=(4 + 8 + 8 + 3 + 8, 2))
    overall = summarize_study(study_of(values, pairs, [8, 8, 3, 8]))["overall"]
    assert (overall["pairs"], overall["swaps"]) == (4, 1)
    assert (overall["interval"], overall["p_value"]) == (None, None)
    assert overall["undefined"] == dict.fromkeys(
        ("interval", "p_value"), "one distinct swap is too few for an interval; 5 are needed"
    )


def test_the_built_in_pairs_of_gender_are_two_swaps_and_get_no_interval() -> None:
    pairs = generate_prompt_pairs(["gender"])
    values = np.random.default_rng(2).uniform(1, 2, size=(len(pairs) * 3, 2))
    found = summarize_study(study_of(values, pairs, [2] * len(pairs)))
    for row in (found["overall"], found["categories"]["gender"]):
        assert (row["pairs"], row["swaps"], row["interval"], row["p_value"]) == (
            *(len(pairs), 2, None, None),
        )
        assert "two distinct swaps are too few" in row["undefined"]["interval"]
    assert {key["p_holm"] for key in found["keys"].values()} == {None}


def test_swaps_that_share_a_word_are_not_independent() -> None:
    """`white` against five words: the interval is that of one `white`, six times as uncertain."""
    shared = [PromptPair("The white man", f"The {word} man") for word in ADJECTIVES[:5]]
    values = np.random.default_rng(4).uniform(1, 2, size=(5 * 2, 1))
    widths = []
    for pairs in (apart(5), shared):
        low, high = summarize_study(study_of(values, pairs, [1] * 5))["overall"]["interval"]
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0] * 6**0.5)


def test_difference_controls_and_excess_are_of_the_same_pairs() -> None:
    """Two of four pairs of a category have no controls, and differ by far more."""
    values = np.array([[0.9], [0.3], [0.9], [0.5], *[[0.2]] * 2, *[[0.4]] * 2])
    found = summarize_study(study_of(values, pairs_of(4, "age"), [0, 2, 0, 2]))
    row = found["categories"]["age"]
    assert (row["pairs"], row["left_out"]) == (2, 2)
    assert row["difference"] == pytest.approx(0.4)
    assert row["control"] == pytest.approx(0.3)
    assert row["excess"] == pytest.approx(row["difference"] - row["control"])
    assert "age: 2 of 4 pairs without controls, left out of all figures." in row_notes(found)


def test_what_is_not_defined_says_why() -> None:
    values = np.ones((5 * 3, 2))
    values[4, 1] = np.nan
    found = summarize_study(study_of(values, apart(5), [2] * 5))
    nothing = found["keys"]["mlp_output_layer_1"]
    assert {name for name, value in nothing.items() if value is None} == {
        *("control", "excess", "interval", "p_value", "p_holm")
    }
    assert "not defined" in nothing["undefined"]["excess"]
    assert found["keys"]["mlp_output_layer_0"]["p_holm"] == 1
    assert found["overall"]["difference"] == 1
    values[:, 0] = np.nan
    found = summarize_study(study_of(values, apart(5), [2] * 5))
    assert found["overall"]["difference"] is None and found["overall"]["undefined"]
    json.dumps(found, allow_nan=False)


def run(pairs: Any, **keywords: Any) -> dict[str, Any]:
    _, found = visualize_bias(
        *(tiny_model("llama"), byte_tokenizer(), pairs, []),
        show_progress=False,
        **{"components": ["mlp_output"], "controls": 2, **keywords},
    )
    return found


def test_identical_prompts_are_noted_and_differ_by_nothing() -> None:
    found = run([("The man slept", "The man slept"), ("The tall man", "The small man")])
    assert any("pair_1: both prompts are the same" in note for note in found["summary"]["notes"])
    assert (found["pair_1"]["controls"], len(found["pair_2"]["controls"])) == ([], 2)
    overall = found["pair_1"]["metrics"]["overall_metrics"]
    assert all(overall[name] == 0 for name in ("mean", "l2", "cosine_distance"))
    overall = found["summary"]["overall"]
    assert (overall["pairs"], overall["left_out"]) == (1, 1)
    alone = run([("The man slept", "The man slept")])["summary"]["overall"]
    assert (alone["difference"], alone["excess"]) == (0, None)


def test_without_controls_there_is_no_excess() -> None:
    found = run(None, controls=0)["summary"]
    assert (found["pairs"], found["controls"], found["notes"]) == (7, 0, [])
    pairs = check_prompt_pairs(DEFAULT_PROMPT_PAIRS)
    assert list(found["categories"]) == [pair.category for pair in pairs]
    names = ("control", "excess", "interval", "p_value")
    for figures in (found["overall"], *found["categories"].values(), *found["keys"].values()):
        assert all(figures[name] is None for name in names)
        assert figures["undefined"] == dict.fromkeys(names, "there are no controls")
        assert figures.get("difference", 1) > 0


def test_pairs_without_controls_are_noted_and_left_out_of_the_excess() -> None:
    found = run([("He slept", "She slept"), ("The tall man", "The small man")])["summary"]
    assert len(found["notes"]) == 1 and found["notes"][0].startswith("pair_1: ")
    lone = run([("The tall man", "The small man")])["summary"]
    assert found["overall"]["excess"] == pytest.approx(lone["overall"]["excess"])
    assert found["overall"]["difference"] == pytest.approx(lone["overall"]["difference"])
    assert found["overall"]["left_out"] == 1


def test_controls_follow_the_seed_and_the_words_of_the_caller() -> None:
    pair = [("The tall man", "The small man")]
    alike = ["".join(each) for each in itertools.permutations("bdop")]  # equally far apart
    assert run(pair)["pair_1"] == run(pair)["pair_1"]
    seeds = [run(pair, seed=seed, control_words=alike)["pair_1"]["controls"] for seed in range(4)]
    assert any(each != seeds[0] for each in seeds)
    own = run(pair, control_words=["blue", "green", "red"])["pair_1"]["controls"]
    assert {word for texts in own for text in texts for word in text.split()} <= {
        *("The", "man", "blue", "green", "red")
    }
