"""Writing systems: letters that stay whole, scripts without spaces, and what is English."""

from __future__ import annotations

import pytest

from optipfair import generate_prompt_pairs
from optipfair.bias.prompts.controls import control_pairs
from optipfair.bias.prompts.pairs import DEFAULT_PROMPT_PAIRS, check_prompt_pairs
from optipfair.bias.prompts.scripts import clusters, other_language
from optipfair.bias.prompts.tokens import Encoded, align
from optipfair.bias.prompts.words import join_words, look_up, split_words

CHINESE = ("那个白人男子走进来。", "那个黑人男子走进来。")
FRENCH = ("L'homme blanc marchait dans la rue", "L'homme noir marchait dans la rue")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("man", ["m", "a", "n"]),
        ("हिंदी", ["हिं", "दी"]),
        ("e\u0301t", ["e\u0301", "t"]),
        ("น้ำ", ["น้ำ"]),
        ("👨\u200d👩\u200d👧👍🏽", ["👨\u200d👩\u200d👧", "👍🏽"]),
        ("🇫🇷🇩🇪", ["🇫🇷", "🇩🇪"]),
        ("", []),
    ],
)
def test_what_is_put_together_stays_whole(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in clusters(text) if end] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("那个白人", ["那", "个", "白", "人"]),
        ("हिंदी में", ["हिंदी", "में"]),
        ("한국 사람", ["한국", "사람"]),
        ("the 👨\u200d👩\u200d👧 ok", ["the", "👨\u200d👩\u200d👧", "ok"]),
    ],
)
def test_words_of_scripts_without_spaces_are_their_letters(text: str, expected: list[str]) -> None:
    words = split_words(text)
    assert [word.text for word in words] == expected
    assert join_words(words) == text


@pytest.mark.parametrize(
    "pair",
    [
        CHINESE,
        FRENCH,
        ("L'homme blanc marchait", "L'homme noir marchait"),
        ("Der weiße Mann ging nach Hause", "Der schwarze Mann ging nach Hause"),
        ("El hombre blanco caminaba", "El hombre negro caminaba"),
        ("Белый мужчина шёл", "Чёрный мужчина шёл"),
        ("Orang putih itu berjalan", "Orang hitam itu berjalan"),
    ],
)
def test_other_tongues_get_no_english_words(pair: tuple[str, str]) -> None:
    found = control_pairs(pair, 4)
    assert found.pairs == ()
    assert found.reason is not None
    assert found.reason.startswith("the list of neutral words is English, and they ")
    assert found.reason.endswith("give your own with `control_words`")


def test_own_words_serve_every_tongue() -> None:
    chinese = control_pairs(CHINESE, 2, words=["高", "矮", "胖", "瘦"])
    assert chinese.reason is None
    for one, two in chinese.pairs:
        assert one != two
        assert one[0:2] == two[0:2] == "那个"
        assert one[3:] == two[3:] == "人男子走进来。"
    french = control_pairs(FRENCH, 2, words=["grand", "petit", "calme"])
    assert all(one.endswith(" marchait dans la rue") for one, _ in french.pairs)


def test_english_prompts_are_taken_for_english() -> None:
    pairs = check_prompt_pairs([*DEFAULT_PROMPT_PAIRS, *generate_prompt_pairs()])
    found = [pair for pair in pairs if other_language(f"{pair.prompt1} {pair.prompt2}", look_up)]
    assert found == []


def test_an_edit_of_one_chinese_letter_leaves_the_others_aligned() -> None:
    first, second = (
        Encoded(
            text,
            tuple(map(ord, text)),
            (False,) * len(text),
            tuple((i, i + 1) for i in range(len(text))),
        )
        for text in CHINESE
    )
    units = align(first, second, first_token=True).units
    assert [unit.first for unit in units if unit.edited] == [(2,)]
    assert len(units) == len(CHINESE[0])


def test_an_edit_inside_a_letter_takes_the_whole_letter() -> None:
    texts = "हिंदी x", "हिदी x"
    first, second = (
        Encoded(
            text,
            tuple(map(ord, text)),
            (False,) * len(text),
            tuple((i, i + 1) for i in range(len(text))),
        )
        for text in texts
    )
    units = align(first, second, first_token=True).units
    assert [unit.first for unit in units if unit.edited] == [(0, 1, 2, 3, 4)]
