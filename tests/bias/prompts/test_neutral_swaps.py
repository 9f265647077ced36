"""Neutral swaps are of one field, and as long and as far apart as the pair's words."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from importlib.resources import files
from typing import Any

import pytest
import torch

from optipfair.arch.view import describe
from optipfair.bias import DEFAULT_PROMPT_PAIRS
from optipfair.bias.prompts.controls import control_pairs
from optipfair.bias.prompts.edits import find_edits
from optipfair.bias.prompts.neutral_swaps import Ranked, choose_swaps, target_of
from optipfair.bias.prompts.pairs import PromptPair
from optipfair.bias.prompts.word_vectors import word_measures
from optipfair.bias.prompts.words import WordClass, field_of, neutral_words, split_words
from optipfair.bias.settings import Settings
from optipfair.bias.study import plan_study, swap_of
from optipfair.testing import byte_tokenizer, tiny_model

KINDS: tuple[WordClass, ...] = ("adjective", "person", "thing", "female_name", "male_name")
FIELDS = json.loads(
    files("optipfair.bias.prompts").joinpath("neutral_fields.json").read_text("utf-8")
)
# Places on a line; the distance of two words is that of their places.
PLACES = {"old": 0.0, "young": 3.0, **{f"n{i}": float(i) for i in range(12)}}
WORDS = {f"n{i}": Ranked("even" if i % 2 == 0 else "odd", i / 100) for i in range(12)}


def on_a_line(one: str, two: str) -> float:
    return abs(PLACES[one.strip()] - PLACES[two.strip()])


def chosen(count: int, **keywords: Any) -> list[tuple[str, str]]:
    (edit,) = find_edits(split_words("The old cook"), split_words("The young cook"))
    given = {"length": len, "distance": on_a_line, **keywords}
    found = choose_swaps(target_of(edit, **given), WORDS, count, Counter())
    return [each.words for each in found]


def test_every_neutral_word_is_of_one_field_with_others() -> None:
    for kind in ("adjective", "person", "thing"):
        listed = [word for words in FIELDS[kind].values() for word in words]
        assert sorted(listed) == sorted(neutral_words(kind))  # each once
        assert all(len(words) >= 3 for words in FIELDS[kind].values())
    for kind in KINDS:
        assert len({field_of(word) for word in neutral_words(kind)}) == len(FIELDS.get(kind, "1"))


def test_two_words_of_a_swap_are_of_one_field() -> None:
    for pair in [*DEFAULT_PROMPT_PAIRS, ("The man sat", "The woman sat"), ("a hat", "a turban")]:
        for one, two in control_pairs(pair).words:
            assert field_of(one) == field_of(two)


def test_swaps_are_as_far_apart_as_the_pair() -> None:
    """The pair is 3 apart; words of one field stand 2, 4, ... apart, so 2 and 4 are closest."""
    swaps = chosen(4)
    assert {on_a_line(*swap) for swap in swaps} == {2.0, 4.0}
    assert all(WORDS[one].field == WORDS[two].field for one, two in swaps)
    assert len({word for swap in swaps for word in swap}) == 8  # no word twice, as long as it goes
    far = chosen(1, distance=lambda a, b: 2 * on_a_line(a, b) if "n" in a else on_a_line(a, b))
    assert on_a_line(*far[0]) == 2.0  # 4 apart by this distance, the closest to 3 that there is


def test_length_comes_before_distance_and_distance_before_chance() -> None:
    def length(text: str) -> int:
        return 9 if text.strip() in ("n0", "n10", "old", "young") else 1

    assert set(chosen(1, length=length)[0]) == {"n0", "n10"}  # 10 apart, but as long


def test_without_a_distance_chance_decides_among_equals() -> None:
    # The lowest ranks of one field, of words as long as the pair's: n10 is, as `old` is.
    assert chosen(1, distance=None, length=lambda _: 1) == [("n0", "n2")]
    assert chosen(0) == []


def test_as_many_swaps_come_as_there_are() -> None:
    swaps = chosen(99)
    assert len({frozenset(swap) for swap in swaps}) == len(swaps) == 2 * 15  # of 6 words, twice


def test_the_distance_of_words_is_that_of_their_input_embeddings() -> None:
    model: Any = tiny_model("llama")
    length, distance = word_measures(model, byte_tokenizer())
    ids = [byte_tokenizer()(text)["input_ids"] for text in (" white", " old")]
    with torch.no_grad():
        one, two = (model.get_input_embeddings().weight[each].mean(dim=0) for each in ids)
    expected = 2 * (one - two).norm() / (one.norm() + two.norm())
    assert distance(" white", " old") == pytest.approx(float(expected), rel=1e-5)
    assert (length(" white"), distance(" old", " old")) == (6, pytest.approx(0, abs=1e-6))


def test_a_study_takes_the_swap_that_is_as_far_apart_as_the_pair_in_its_model() -> None:
    length, distance = word_measures(tiny_model("llama"), byte_tokenizer())
    pair = PromptPair("The brave white door", "The brave black door")
    plan = plan_study(describe(tiny_model("llama")), byte_tokenizer(), [pair], Settings(controls=1))
    (controls,) = plan.controls
    own = distance(" white", " black")
    ((one, two),) = controls.words
    assert controls.apart == pytest.approx((own, distance(f" {one}", f" {two}")))
    by_field: dict[str, list[str]] = {}
    for word in neutral_words("adjective"):
        if length(f" {word}") == length(" white") and word != "brave":
            by_field.setdefault(field_of(word), []).append(word)
    apart = [
        distance(f" {a}", f" {b}")
        for words in by_field.values()
        for a, b in itertools.combinations(words, 2)
    ]
    assert len(apart) > 5
    closest = min(abs(each - own) for each in apart)
    assert abs(controls.apart[1] - own) <= closest + 0.05 * own


def test_a_word_that_came_or_went_has_no_distance() -> None:
    controls = control_pairs(("a man", "an old man"), 3, distance=lambda *_: pytest.fail("asked"))
    assert len(controls.pairs) == 3 and controls.apart is None
    assert all(len(words) == 1 for words in controls.words)


def test_a_swap_knows_its_words_and_those_of_its_controls() -> None:
    pair = PromptPair("The white man and the white dog", "The Black man and the Black dog")
    controls = control_pairs(pair, 2, words=["blue", "red", "green"])
    swap = swap_of(pair, controls, 7)
    assert swap.loads["white"] == swap.loads["black"] == 1
    assert sum(swap.loads.values()) == pytest.approx(0)  # what is taken off weighs as much
    back = swap_of(PromptPair("A Black cook", "A white cook"), controls, 8)
    assert back.label == swap.label
    assert swap_of(PromptPair("He said", "She said"), control_pairs(("x y", "x y")), 9).label == 9
