"""Which items fit a budget, and what is said where data are missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optipfair import ArgumentError, DataError, UnknownNameError
from optipfair.evaluation.evaluate_options import PRESETS
from optipfair.evaluation.measures import Columns
from optipfair.evaluation.tasks.choosing import (
    Chosen,
    find_data,
    named_tasks,
    read_tasks,
    within_budget,
)
from optipfair.evaluation.tasks.task import Item, Query, Reading, Score, Task


def outcomes(items: Sequence[Item], scores: Sequence[Sequence[Score]]) -> Columns:
    return {"x": np.ones(len(items))}


def make_task(
    name: str = "t", path: str = "t.txt", together: Callable[[Item], str] | None = None
) -> Task:
    return Task(
        name, "ability", "help", "source", path,
        read=lambda file: Reading([Item(x, (Query("", x),), x) for x in file.read_text().split()]),
        outcomes=outcomes, measures=(), texts=lambda item: [item.id], protocol="",
        together=together,
    )  # fmt: skip


def chosen(count: int, name: str = "t", together: Callable[[Item], str] | None = None) -> Chosen:
    items = tuple(Item(str(i), (Query("", str(i)),), str(i)) for i in range(count))
    return Chosen(make_task(name, together=together), items, count, {}, "t.txt", "", None)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 400), st.integers(0, 5))
def test_items_fit_the_budget_and_a_small_task_leaves_its_share(
    first: int, second: int, budget: int, seed: int
) -> None:
    tasks = [chosen(first, "a"), chosen(second, "b")]
    found = within_budget(tasks, lambda items: [10] * len(items), budget, seed=seed)
    used = [10 * len(each.items) for each in found]
    assert all(each.items for each in found)  # one item at least of each
    assert sum(used) <= max(budget, 20)
    wanted = [10 * first, 10 * second]
    if sum(wanted) <= budget:
        assert used == wanted
    else:
        assert sum(used) > budget - 40  # no share lies idle


def test_the_draw_is_the_seeds_and_keeps_the_files_order() -> None:
    draws = [
        [
            item.id
            for item in within_budget([chosen(50)], lambda items: [1] * len(items), 20, seed=seed)[
                0
            ].items
        ]
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert [int(i) for i in draws[0]] == sorted(int(i) for i in draws[0])


def test_items_that_belong_together_stay_together() -> None:
    task = chosen(40, together=lambda item: str(int(item.id) // 4))
    for limit, budget in ((10, None), (None, 30)):
        (found,) = within_budget([task], lambda items: [1] * len(items), budget, limit=limit)
        groups = [int(item.id) // 4 for item in found.items]
        assert found.items
        assert all(groups.count(group) == 4 for group in groups)
        assert len(groups) <= (limit or budget or 0)


def test_no_bound_takes_all() -> None:
    (found,) = within_budget([chosen(30)], lambda items: [1] * len(items), None)
    assert len(found.items) == found.available == 30


def test_a_task_whose_file_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a b")
    here, gone = make_task(), make_task("u", "u.txt")
    found, missing = read_tasks([here, gone], tmp_path, required=False)
    assert [len(each.items) for each in found] == [2]
    assert missing == {"u": "u.txt is not in the data folder"}
    with pytest.raises(DataError, match=r"u cannot be measured: u.txt is not in"):
        read_tasks([gone], tmp_path, required=True)
    with pytest.raises(DataError, match=r"no data folder .give one with --data"):
        read_tasks([gone], None, required=True)


def test_no_items_after_filters(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("")
    with pytest.raises(DataError, match="no item is left of the task t"):
        read_tasks([make_task()], tmp_path, required=False)


def test_the_hash_and_licence_are_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a b")
    (tmp_path / "LICENSE").write_text("\nCC BY 4.0\nmore")
    (first,) = read_tasks([make_task()], tmp_path, required=True)[0]
    (tmp_path / "t.txt").write_text("a c")
    (second,) = read_tasks([make_task()], tmp_path, required=True)[0]
    assert first.licence == "CC BY 4.0"
    assert first.sha256 != second.sha256


def test_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'piqa'"):
        named_tasks(["piqe"])
    with pytest.raises(ArgumentError, match="one text"):
        named_tasks("piqa")
    with pytest.raises(ArgumentError, match="twice"):
        named_tasks(["piqa", "piqa"])
    with pytest.raises(UnknownNameError, match="Did you mean 'quick'"):
        PRESETS["quik"]
    with pytest.raises(ArgumentError, match="limit=0"):
        within_budget([chosen(3)], lambda items: [1] * len(items), None, limit=0)
    with pytest.raises(DataError, match="does not exist"):
        find_data(tmp_path / "none")
    monkeypatch.setenv("OPTIPFAIR_DATA", str(tmp_path))
    assert find_data(None) == tmp_path
    monkeypatch.delenv("OPTIPFAIR_DATA")
    assert find_data(None) is None
