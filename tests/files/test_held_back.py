"""Documents that nothing is trained on."""

from __future__ import annotations

from optipfair.files.held_back import held_back

TEXTS = [letter * 20_000 for letter in "abcd"]  # their SHA-256 begin with cc, 49, e7 and 70


def test_they_are_the_lowest_hashes_of_a_twentieth_of_the_characters() -> None:
    assert held_back(TEXTS) == [1]
    assert held_back(TEXTS, 32_000) == [1, 3]
    assert held_back([]) == []
    many = [*TEXTS, *(f"{n:09}" * 100_000 for n in range(2))]  # 1,880,000 in all
    assert sum(len(many[place]) for place in held_back(many)) >= 94_000


def test_of_texts_that_are_long_enough_so_much_that_one_can_judge_by_it() -> None:
    texts = [f"{n:08}" * 1_000 for n in range(50)]  # 400,000 in all
    assert sum(len(texts[place]) for place in held_back(texts)) == 32_000
    assert len(held_back(texts[:20])) == 1


def test_they_do_not_depend_on_the_order() -> None:
    backwards = TEXTS[::-1]
    assert [backwards[place] for place in held_back(backwards, 32_000)] == [TEXTS[1], TEXTS[3]]
