"""Words of English prompts: articles, plurals, and what the shipped list knows."""

from __future__ import annotations

import pytest

from optipfair.bias.prompts.words import (
    Entry,
    article_before,
    look_up,
    neutral_words,
    plural,
    singular,
    split_words,
)


def test_a_prompt_is_split_into_words_and_marks() -> None:
    found = [token.text for token in split_words("Maria's low-income aunt, he said")]
    assert found == ["Maria", "'s", "low-income", "aunt", ",", "he", "said"]


def test_the_list_knows_words_in_any_spelling_and_plurals_as_nouns() -> None:
    assert neutral_words("adjective")[:3] == ("good", "great", "new")
    assert look_up("native-american") == Entry(("adjective",), 4.5)
    assert look_up("Blacks") == Entry(("person",), 5.5)
    assert look_up("hovercraft") is None


@pytest.mark.parametrize(
    ("word", "article"),
    [("Asian", "an"), ("Muslim", "a"), ("European", "a"), ("honest", "an"), ("80", "an")],
)
def test_articles_follow_the_sound(word: str, article: str) -> None:
    assert article_before(word) == article
    assert article_before(word, like="A") == article.capitalize()


@pytest.mark.parametrize(
    ("one", "many"),
    [("walker", "walkers"), ("baby", "babies"), ("child", "children"), ("woman", "women")],
)
def test_nouns_have_a_plural_and_plurals_a_singular(one: str, many: str) -> None:
    assert (plural(one), singular(many)) == (many, one)


@pytest.mark.parametrize("word", ["boss", "Julius", "nervous"])
def test_what_only_looks_like_a_plural_stays(word: str) -> None:
    assert singular(word) == word
