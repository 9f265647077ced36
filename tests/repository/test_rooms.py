"""The house is as `tools/house.py` describes it: floors, rooms, names that stand once."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import house

MODULES = house.modules()
MOST_IN_A_ROOM = 17


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_from_lower_floors_or_its_own_room(name: str) -> None:
    room, floor = name.split(".", maxsplit=1)[0], house.floor_of(name)
    for target in house.imports_of(MODULES[name]):
        if target.split(".")[0] != room:
            on_the_ground = floor == house.floor_of(target) == 0
            assert house.floor_of(target) < floor or on_the_ground, f"{name} imports {target}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: house.imports_of(path) for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, naming them


def test_no_two_rooms_inside_a_room_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        here = ".".join(name.split(".")[:-1])
        for target in house.imports_of(path):
            there = ".".join(target.split(".")[:-1])
            if here != there and here.count(".") and there.count("."):
                graph.setdefault(here, set()).add(there)
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("room", ["bias", "evaluation"])
def test_measuring_knows_no_pruning(room: str) -> None:
    for name, path in MODULES.items():
        if name.split(".")[0] == room:
            assert not [each for each in house.imports_of(path) if each.startswith("pruning")], name


def test_a_package_only_lists_its_names() -> None:
    for path in house.SOURCE.rglob("__init__.py"):
        name = path.parent.relative_to(house.SOURCE).as_posix()
        if name not in (".", "cli", "evaluation/tasks"):
            assert house.imports_of(path) == set(), name


def test_the_names_of_the_published_package_are_only_forwarded() -> None:
    for name, path in MODULES.items():
        if name.startswith("compat.") and name != "compat.bias.utils":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            logic = (ast.FunctionDef, ast.ClassDef)
            assert not [node for node in ast.walk(tree) if isinstance(node, logic)], name


def test_a_name_stands_once() -> None:
    own = [name for name in MODULES if not name.startswith("compat.")]  # whose names are given
    counted = Counter(name.split(".")[-1] for name in own)
    assert [name for name, times in counted.items() if times > 1] == []


def test_no_room_is_crowded() -> None:
    counted = Counter(path.parent for path in MODULES.values())
    crowded = {str(room): count for room, count in counted.items() if count > MOST_IN_A_ROOM}
    assert crowded == {}


def test_the_picture_in_the_architecture_page_is_drawn_from_the_code() -> None:
    assert house.page_with(house.drawing()) == house.PAGE.read_text(encoding="utf-8"), (
        "run `python tools/house.py`"
    )


def test_the_tables_of_options_are_made_from_the_options() -> None:
    import option_table

    for page in option_table.PAGES:
        assert option_table.page_with_table(page) == page.read_text("utf-8"), (
            "run `python tools/option_table.py`"
        )
