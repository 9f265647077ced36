"""Results are values that read as dicts; their JSON Schema says what they are written as."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from jsonschema import Draft202012Validator

from optipfair import DataError
from optipfair.results import ABSENT, Count, Result, Rules, spread

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from schemas import schema_of


class Part(Result):
    """One part.

    Attributes:
        name: what it is called, over
            two lines.
        low, high: ends.
        items_: how many.
        why: where something is missing.
    """

    name: str
    low: float | None
    high: float | None
    items_: Count | None
    why: str | None = field(default=None, metadata=ABSENT)


class Whole(Result):
    """All parts."""

    kind: Literal["whole"]
    sides: Literal["left", "right"]
    ends: tuple[float, float] | None
    first: Part | None
    by_name: dict[Annotated[str, Rules(pattern="^[a-z]$")], list[Part]]
    rest: dict[str, Part] = field(metadata=spread("^part_[0-9]+$"))
    anything: Any = None

    SCHEMA = {"minProperties": 1}  # noqa: RUF012


def part(**changed: Any) -> Part:
    return Part(**{"name": "p", "low": 0.5, "high": None, "items_": 3} | changed)


def whole(**changed: Any) -> Whole:
    given = {"kind": "whole", "sides": "left", "ends": (0.0, 1.0), "first": part()}
    given |= {"by_name": {"a": [part(why="none")]}, "rest": {"part_1": part()}}
    return Whole(**given | changed)


VALIDATOR = Draft202012Validator(schema_of(Whole, "whole.json"))


def test_a_result_reads_as_a_dict_and_is_written_as_one() -> None:
    found = part()
    assert found["items"] == 3 == found.items_
    assert list(found) == ["name", "low", "high", "items"] == [*found.keys()]
    assert "why" not in found and found.get("why") is None
    assert found == {"name": "p", "low": 0.5, "high": None, "items": 3}
    assert json.loads(json.dumps(whole())) == whole().to_dict()
    assert type(whole().to_dict()["first"]) is dict
    assert found | {"more": 1} == {**found.to_dict(), "more": 1}


def test_a_changed_copy_is_made_with_replace() -> None:
    assert replace(part(), name="q") == part(name="q")


def test_entries_of_a_spread_dict_stand_among_the_keys() -> None:
    assert [*whole()][-2:] == ["part_1", "anything"]
    assert whole()["part_1"] == part()


@pytest.mark.parametrize("change", ["__setitem__", "setdefault", "__ior__", "pop", "update"])
def test_a_result_cannot_be_changed(change: str) -> None:
    with pytest.raises(TypeError, match="to_dict"):
        getattr(part(), change)("name", "other")
    with pytest.raises(AttributeError):
        part().name = "other"  # type: ignore[misc]


def test_copies_and_what_was_written_read_back_the_same() -> None:
    given = whole()
    read = Whole.from_dict(json.loads(json.dumps(given)))
    for found in (copy.deepcopy(given), pickle.loads(pickle.dumps(given)), read):
        assert found == given.to_dict() or found == given
        assert isinstance(found, Whole)
        assert isinstance(found.first, Part)
        assert isinstance(found.by_name["a"][0], Part)
        assert isinstance(found.rest["part_1"], Part)


def test_keys_of_another_version_are_let_be_and_missing_ones_named() -> None:
    assert Part.from_dict(part().to_dict() | {"later": 1}) == part()
    with pytest.raises(DataError, match="Part: the data have no low, items"):
        Part.from_dict({"name": "p", "high": 1})


def test_the_schema_takes_what_is_written_and_nothing_else() -> None:
    Draft202012Validator.check_schema(VALIDATOR.schema)
    VALIDATOR.validate(whole().to_dict())
    VALIDATOR.validate(whole(first=None, ends=None).to_dict())
    for spoilt in (
        whole(kind="half"), whole(sides="both"), whole(ends=(1.0,)), whole(first=part(items_=-1)),
        whole(by_name={"A": []}), whole(rest={"other": part()}), whole(first=part(name=None)),
    ):  # fmt: skip
        assert not VALIDATOR.is_valid(spoilt.to_dict())
    lacking = whole().to_dict()
    del lacking["sides"]
    assert not VALIDATOR.is_valid(lacking)


def test_the_schema_describes_what_the_docstrings_say() -> None:
    described = VALIDATOR.schema["$defs"]["Part"]
    assert described["description"] == "One part."
    keys = described["properties"]
    assert keys["name"]["description"] == "what it is called, over two lines."
    assert keys["low"]["description"] == keys["high"]["description"] == "ends."
    assert keys["items"]["description"] == "how many."
    assert keys["items"]["anyOf"] == [{"type": "integer", "minimum": 0}, {"type": "null"}]
    assert "why" not in described["required"]


def test_results_load_without_torch() -> None:
    code = "import sys, optipfair.results; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
