"""Names, aliases and the answers to unknown names."""

from __future__ import annotations

import pytest

from optipfair import UnknownNameError
from optipfair.registry import Registry


def fruits() -> Registry[int]:
    registry: Registry[int] = Registry("fruit")
    registry.add("APPLE", 1, ("POMME",))
    registry.add("PEAR", 2)
    return registry


def test_a_name_and_its_alias_give_the_entry() -> None:
    assert fruits()["APPLE"] == fruits()["POMME"] == 1
    assert fruits().canonical("POMME") == "APPLE"


def test_iteration_gives_each_entry_once() -> None:
    assert list(fruits()) == ["APPLE", "PEAR"]
    assert fruits().names() == ["APPLE", "PEAR", "POMME"]


def test_an_unknown_name_is_answered_with_the_close_match_and_the_list() -> None:
    with pytest.raises(
        UnknownNameError,
        match=r"Unknown fruit 'appel'\. Did you mean 'APPLE'.*Available: APPLE, PEAR, POMME",
    ):
        fruits()["appel"]


@pytest.mark.parametrize("name", [None, 3, ["APPLE"], {}, ""], ids=repr)
def test_what_is_no_name_is_refused_with_the_list(name: object) -> None:
    with pytest.raises(UnknownNameError, match="Available"):
        fruits()[name]


def test_a_name_cannot_be_registered_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        fruits().add("POMME", 3)


def test_a_name_may_be_in_any_case_where_no_second_one_shares_it() -> None:
    assert fruits().canonical("pomme") == "APPLE"
    both = fruits()
    both.add("pear", 4)
    assert both["pear"] == 4
    with pytest.raises(UnknownNameError, match="Unknown fruit 'Pear'"):
        both.canonical("Pear")
