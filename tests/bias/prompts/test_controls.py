"""Control pairs differ as their pair does, but in neutral words."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from optipfair.bias import ATTRIBUTES, DEFAULT_PROMPT_PAIRS, generate_prompt_pairs
from optipfair.bias.prompts.controls import control_pairs
from optipfair.bias.prompts.words import look_up, neutral_words, split_words
from optipfair.errors import ArgumentError

OWN = {
    "adjective": ["blue", "orange"],
    "person": ["visitor", "owner"],
    "thing": ["table", "apple"],
    "place": ["Umbria", "Kent"],
    "female_name": ["Ada", "Ida"],
    "male_name": ["Otto", "Max"],
}


def words_of(prompt: str) -> list[str]:
    return [token.text for token in split_words(prompt)]


def exchanged(control: tuple[str, str]) -> tuple[str, str]:
    """The two neutral words of a control that differs in one place."""
    one, two = map(words_of, control)
    differing = [(a, b) for a, b in zip(one, two, strict=True) if a != b]
    found = [pair for pair in differing if pair[0].lower() not in ("a", "an")]
    assert len(set(found)) == 1
    return found[0]


def test_the_shipped_lists_are_long_enough_and_name_no_group() -> None:
    sizes = {"adjective": 60, "person": 40, "thing": 40, "female_name": 40, "male_name": 40}
    groups = {word.lower() for words in ATTRIBUTES.values() for word in words}
    for kind, size in sizes.items():
        words = neutral_words(kind)  # type: ignore[arg-type]
        assert len({word.lower() for word in words}) == len(words) >= size
        assert not groups & {word.lower() for word in words}
        for word in words:
            entry = look_up(word)
            assert entry is not None and entry.classes == (kind,) and (2 * entry.zipf).is_integer()
    for attribute in groups:
        entry = look_up(attribute)
        assert entry is not None and entry.classes[0] == "adjective"


# prompt 1, prompt 2, and what the first control looks like, | between words either of which fits.
CASES = [
    ("The white man", "The Black man", "The blue|orange man"),
    ("A white man ate.", "An Asian man ate.", "A|An blue|orange man ate."),
    ("white man was", "Native American man was", "Blue|Orange man was"),
    ("Go! Poor people", "Go! Low-income people", "Go! Blue|Orange people"),
    ("The middle-aged nurse", "The Middle Eastern nurse", "The blue|orange nurse"),
    ("a white man and a white dog", "an old man and an old dog", "AN blue|orange man and AN = dog"),
    ("He is Peruvian.", "He is Danish.", "He is blue|orange."),
    ("The poor are here", "The rich are here", "The blue|orange are here"),
    ("Jane is an Irish.", "Jane is a Dane.", "Jane is AN visitor|owner."),
    ("The man sat", "The woman sat", "The visitor|owner sat"),
    ("Women are", "Men are", "Visitors|Owners are"),
    ("Native Americans ate", "Whites ate", "Visitors|Owners ate"),
    ("My wife lost her key", "My husband lost his key", "My visitor|owner lost her key"),
    ("He saw a mosque.", "He saw a igloo.", "He saw AN table|apple."),
    ("The man from China sat", "The man from Australia sat", "The man from Umbria|Kent sat"),
    ("John ate. He left his", "Maria ate. She left her", "Otto|Max ate. He left his"),
    ("Maria's car", "John's car", "Ada|Ida's car"),
    ("Xochitl said she", "Xavier said he", "Ada|Ida said she"),
    ("Xochitl sat", "Maria sat", "Ada|Ida sat"),
    ("They are Muslim", "He is Jewish", "They are blue|orange"),
    ("  The white man ", "  The Black man ", "  The blue|orange man "),
]


@pytest.mark.parametrize(("prompt1", "prompt2", "expected"), CASES)
def test_neutral_words_stand_where_the_prompts_differ(
    prompt1: str, prompt2: str, expected: str
) -> None:
    (control,) = control_pairs((prompt1, prompt2), 1, words=OWN).pairs
    pattern = re.sub(
        r"[\w|]*\|[\w|]*", lambda m: f"({m.group()})", re.escape(expected).replace(r"\|", "|")
    )
    pattern = pattern.replace("=", r"\w+").replace("AN", "an?")
    assert all(re.fullmatch(pattern, prompt) for prompt in control)
    assert control[0] != control[1]
    assert not any(re.search(r"\b[Aa] [aeio]|\b[Aa]n [^aeio]", prompt) for prompt in control)


def test_a_word_that_came_or_went_comes_and_goes_in_the_control() -> None:
    pairs = {
        ("a man", "an old man"): ("a man", "a blue|an orange man"),
        ("The Black man sat", "The man sat"): ("The blue|orange man sat", "The man sat"),
        ("a Black uncle", "an uncle"): ("a blue|an orange uncle", "an uncle"),
        ("Muslim aunts sat", "aunts sat"): ("Blue|Orange aunts sat", "aunts sat"),
    }
    for pair, patterns in pairs.items():
        (control,) = control_pairs(pair, 1, words=OWN).pairs
        for prompt, pattern in zip(control, patterns, strict=True):
            choices = re.sub(r"(?:an? )?\w+\|(?:an? )?\w+", lambda m: f"({m.group()})", pattern)
            assert re.fullmatch(choices, prompt)


def test_the_words_of_one_pair_are_disjoint_and_not_in_its_sentence() -> None:
    for pair in [*DEFAULT_PROMPT_PAIRS, ("The happy small white man", "The happy small Black man")]:
        controls = control_pairs(pair)
        assert controls.reason is None and len(controls.pairs) == 8
        used = [word for control in controls.pairs for word in exchanged(control)]
        assert len(set(used)) == 16
        assert not set(map(str.lower, used)) & set(map(str.lower, words_of(" ".join(pair))))


def test_every_generated_pair_has_its_controls() -> None:
    for pair in generate_prompt_pairs(fillings=2):
        controls = control_pairs(pair, 8)
        assert controls.reason is None
        assert len({frozenset(control) for control in controls.pairs}) == 8
        for prompt in (prompt for control in controls.pairs for prompt in control):
            assert prompt.split()[-3:] == pair.prompt1.split()[-3:]
            assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n (?!hon)[^aeiou]", prompt)


def test_words_are_close_in_length_first_then_in_frequency() -> None:
    pair = ("The white man", "The Middle Eastern man")
    first, second = zip(*map(exchanged, control_pairs(pair, 4).pairs), strict=True)
    zipf = {word: look_up(word).zipf for word in (*first, *second)}  # type: ignore[union-attr]
    assert {len(re.split("[ -]", word)) for word in first} == {1}
    assert {len(re.split("[ -]", word)) for word in second} == {2}
    assert {zipf[word] for word in first} <= {5.0, 5.5}  # white: 5.5
    one_word = [word for word in neutral_words("adjective") if "-" not in word]
    by_letters = control_pairs(pair, 4, length=len)
    assert {len(word) for word, _ in map(exchanged, by_letters.pairs)} == {5}
    assert sum(len(word) == 5 for word in one_word) >= 4


def test_the_seed_chooses_among_words_that_are_equally_close() -> None:
    pair = DEFAULT_PROMPT_PAIRS[2]
    assert control_pairs(pair, seed=1) == control_pairs(pair, seed=1)
    drawn = Counter(
        word for seed in range(60) for word in exchanged(control_pairs(pair, 1, seed=seed).pairs[0])
    )
    assert len(drawn) > 20 and max(drawn.values()) < 30


def test_pairs_of_the_same_words_get_the_same_neutral_words() -> None:
    one = control_pairs(("The white man ran.", "The Black man ran."))
    two = control_pairs(("A white cook slept.", "A Black cook slept."))
    assert [*map(exchanged, one.pairs)] == [*map(exchanged, two.pairs)]


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (("the same", "the same"), "identical"),
        (("He said", "She said"), "pronouns"),
        (("They are", "He is"), "pronouns"),
        (("John thinks", "She thinks"), "'John' and 'She'"),
        (("The man sat", "The man with a disability sat"), "'with a disability'"),
        (("One two three four five", "six seven eight nine ten"), "more than one word"),
        (("The man from Peru", "The man from Chile"), r"\(place\) is enough for 0 of 8"),
        (("?", "!"), "pronouns"),
    ],
)
def test_a_pair_without_controls_says_why(pair: tuple[str, str], reason: str) -> None:
    controls = control_pairs(pair)
    assert controls.pairs == () and controls.reason and re.search(reason, controls.reason)


def test_words_of_ones_own_take_the_place_of_the_list() -> None:
    controls = control_pairs(("A Black man", "A white man"), words=["tall", "short", "odd"])
    assert {frozenset(exchanged(control)) for control in controls.pairs} == {
        frozenset(pair) for pair in (("tall", "short"), ("tall", "odd"), ("short", "odd"))
    }
    assert controls.reason and "3 of 8" in controls.reason
    mixed = control_pairs(("The man", "The woman"), words={"adjective": ["odd", "even"]})
    assert {word for c in mixed.pairs for word in exchanged(c)} <= set(neutral_words("person"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count=0"),
        ({"words": []}, "at least two"),
        ({"words": ["one", "one"]}, "at least two"),
        ({"words": "red green"}, "at least two"),
        ({"words": {"adjectives": ["a", "b"]}}, "Did you mean 'adjective'"),
        ({"pair": "one text"}, "is one str"),
        ({"pair": ("a", " ")}, "prompt2 is empty"),
    ],
)
def test_a_wrong_request_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        control_pairs(**{"pair": ("The man", "The boy"), **arguments})  # type: ignore[arg-type]


def test_length_is_asked_for_words_as_they_stand() -> None:
    asked: list[str] = []

    def length(text: str) -> int:
        asked.append(text)
        return 1

    control_pairs(("Tall men sat. A Black man", "Tall men sat. A white man"), length=length)
    assert {" Black", " white", " small"} < set(asked) and all(t[0] == " " for t in asked)
    asked.clear()
    control_pairs(("Poor men sat", "Rich men sat"), length=length)
    assert {"Poor", "Rich", "Small"} < set(asked) and all(t[0].isupper() for t in asked)
