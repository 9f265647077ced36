"""Every token of both prompts is compared or left out with a reason, and words stay whole."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optipfair.bias.prompts.tokens import Alignment, Encoded, align, align_lengths, encode
from optipfair.errors import ArgumentError, DataError
from optipfair.testing import byte_tokenizer

WORDS = st.lists(
    st.sampled_from(["a", "ab", "abc", "bc", "cab", "dé", "dè", ",", "12"]), max_size=7
)
PROMPTS = st.builds(lambda words, end: " ".join([*words, end]), WORDS, st.sampled_from("abx"))
FLAGS = st.booleans()


def encoded(text: str, *, begins: bool = False, ends: bool = False, spans: bool = True) -> Encoded:
    """Pieces of up to two letters, with or without special tokens at the ends."""
    pieces = [(m.group(), m.span()) for m in re.finditer(r"\w{1,2}|\W", text)]
    if begins:
        pieces.insert(0, ("", (0, 0)))
    if ends:
        pieces.append(("", (0, 0)))
    ids = tuple(int.from_bytes(piece.encode()) for piece, _ in pieces)
    special = tuple(not piece for piece, _ in pieces)
    return Encoded(text, ids, special, tuple(span for _, span in pieces) if spans else None)


def sides(found: Alignment) -> list[list[int]]:
    return [[i for unit in found.units for i in side(unit)] for side in (first_of, second_of)]


def first_of(unit: Any) -> Any:
    return unit.first


def second_of(unit: Any) -> Any:
    return unit.second


def word_of(prompt: Encoded, token: int) -> tuple[str, list[int]]:
    """The word that a token is of, and all of its tokens, read off the text."""
    assert prompt.spans is not None
    place = prompt.spans[token]
    for match in re.finditer(r"[^\W_]+|.", prompt.text):
        if match.start() <= place[0] < match.end():
            inside = [
                i
                for i, (a, b) in enumerate(prompt.spans)
                if a < b and match.start() <= a < match.end()
            ]
            return match.group(), inside
    raise AssertionError(token)


@given(PROMPTS, PROMPTS, FLAGS, FLAGS, FLAGS, FLAGS, FLAGS)
def test_every_token_is_in_one_unit_or_left_out(
    one: str, two: str, begins: bool, ends: bool, spans: bool, special: bool, first: bool
) -> None:
    pair = [encoded(text, begins=begins, ends=ends, spans=spans) for text in (one, two)]
    found = align(pair[0], pair[1], special=special, first_token=first)
    assert found.units
    coverage: Any = found.coverage()
    for number, (prompt, compared, left) in enumerate(
        zip(pair, sides(found), found.left_out, strict=True), start=1
    ):
        assert sorted([*compared, *left]) == list(range(len(prompt)))
        assert compared == sorted(compared)
        assert set(left.values()) <= {"special", "first token", "no counterpart"}
        assert coverage[f"tokens{number}"] == len(prompt)
        assert coverage[f"left_out{number}"] == len(left)
        pooled = coverage[f"pooled{number}"]
        assert coverage["aligned"] + pooled + len(left) == len(prompt)
    assert coverage["units"] == len(found.units)
    assert sum(coverage["reasons"].values()) == coverage["left_out1"] + coverage["left_out2"]
    for unit in found.units:
        assert unit.first and unit.second
        if not unit.edited:
            assert pair[0].ids[unit.first[0]] == pair[1].ids[unit.second[0]]
            assert (len(unit.first), len(unit.second)) == (1, 1)


@given(PROMPTS, PROMPTS)
def test_words_are_shared_as_a_whole_or_edited_as_a_whole(one: str, two: str) -> None:
    first, second = encoded(one), encoded(two)
    found = align(first, second, special=True, first_token=True)
    owner = {i: unit for unit in found.units for i in unit.first}
    for unit in found.units:
        if not unit.edited:
            word, tokens = word_of(first, unit.first[0])
            other, others = word_of(second, unit.second[0])
            assert word == other and len(tokens) == len(others)
            assert not any(owner[i].edited for i in tokens)
        else:
            for prompt, part in ((first, unit.first), (second, unit.second)):
                assert all(set(word_of(prompt, i)[1]) <= set(part) for i in part)


@given(PROMPTS, FLAGS, FLAGS, FLAGS)
def test_identical_prompts_are_aligned_one_to_one(
    text: str, begins: bool, spans: bool, first: bool
) -> None:
    prompt = encoded(text, begins=begins, spans=spans)
    found = align(prompt, prompt, first_token=first)
    assert all(unit.first == unit.second and not unit.edited for unit in found.units)
    assert found.left_out[0] == found.left_out[1]
    assert "no counterpart" not in found.left_out[0].values()


def shown(first: Encoded, second: Encoded, **keywords: bool) -> list[str]:
    """Each compared unit as `one|two`, or as itself where it is shared."""
    found = align(first, second, **keywords)
    rows = [(first.text_of(unit.first), second.text_of(unit.second)) for unit in found.units]
    edited = [unit.edited for unit in found.units]
    return [f"{a}|{b}" if e else a for (a, b), e in zip(rows, edited, strict=True)]


def test_edited_words_are_pooled_whole() -> None:
    one, two = encoded("no walker sat"), encoded("no wanderer sat")
    assert shown(one, two) == [" ", "walker|wanderer", " ", "sa", "t"]
    # Without places in the text, by ids alone: pieces of the words are shared.
    bare = [replace(each, spans=None) for each in (one, two)]
    assert sum(unit.edited for unit in align(*bare).units) == 1
    assert max(len(unit.first) for unit in align(*bare).units) < 3
    assert shown(encoded("in the end"), encoded("in the spring end"))[-2:] == ["en", "d"]


def test_letters_of_several_bytes_are_compared_whole() -> None:
    tokenizer = byte_tokenizer()
    one, two = (encode(tokenizer, f"un {word} ici", 259) for word in ("été", "ète"))
    assert shown(one, two) == ["n", " ", "été|ète", " ", "i", "c", "i"]


def test_the_first_token_and_special_tokens_are_left_out_unless_asked_for() -> None:
    one, two = encoded("on a", begins=True), encoded("on b", begins=True)
    assert align(one, two).left_out == ({0: "special"}, {0: "special"})
    assert shown(one, two) == ["on", " ", "a|b"]
    assert len(align(one, two, special=True, first_token=True).units) == 4
    assert align(one, two, special=True).left_out[0] == {0: "first token"}
    assert shown(encoded("on a"), encoded("on b")) == [" ", "a|b"]
    # A token whose partner stands first is left out with it.
    assert align(encoded("on a"), encoded("so on a")).left_out[1][2] == "first token"


@pytest.mark.parametrize("begins", [False, True])
def test_prompts_of_one_token_are_compared(begins: bool) -> None:
    one, two = encoded("a", begins=begins), encoded("b", begins=begins)
    assert shown(one, two) == ["a|b"]
    assert shown(one, one) == ["a"]
    assert shown(one, encoded("a b", begins=begins)) == ["a"]


def test_a_fallback_forgets_nothing_that_was_asked_for() -> None:
    one, two = encoded("a", ends=True), encoded("b", ends=True)
    assert len(align(encoded("a"), encoded("b"), special=True).units) == 1
    assert len(align(one, two, special=True).units) == 1
    assert align(one, two).left_out[0] == {1: "special"}


@given(st.integers(1, 40), st.integers(1, 40))
def test_lengths_alone_are_aligned_from_both_ends(first: int, second: int) -> None:
    shorter = min(first, second)
    found = align_lengths(first, second)
    expected = [(i, i) for i in range(shorter // 2)] + [
        (first - k, second - k) for k in range(shorter - shorter // 2, 0, -1)
    ]
    assert [(unit.first[0], unit.second[0]) for unit in found.units] == expected
    assert [len(left) for left in found.left_out] == [first - shorter, second - shorter]
    assert sorted([*sides(found)[0], *found.left_out[0]]) == list(range(first))


def test_a_prompt_is_read_as_the_tokenizer_reads_it() -> None:
    class Slow:
        is_fast = False

        def __call__(self, text: str, **keywords: Any) -> dict[str, list[int]]:
            assert not keywords["return_offsets_mapping"]
            return {"input_ids": [7, *text.encode()], "special_tokens_mask": [1] + [0] * len(text)}

    slow = encode(Slow(), "ab", 259)
    assert slow == Encoded("ab", (7, 97, 98), (True, False, False), None)
    assert slow.text_of((1, 2)) == "#97 #98"
    fast = encode(byte_tokenizer(), "a b", 259)
    assert fast.spans == ((0, 1), (1, 2), (2, 3)) and fast.text_of((1,)) == " "
    with pytest.raises(DataError, match="does not match the model"):
        encode(Slow(), "xy", 100)
    with pytest.raises(DataError, match="no token"):
        encode(byte_tokenizer(), "", 259)
    with pytest.raises(ArgumentError, match="NoneType"):
        encode(None, "x", 259)
