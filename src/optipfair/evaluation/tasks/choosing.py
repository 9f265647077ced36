"""Which tasks, and which of their items: what fits a budget of tokens. No torch."""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...checking import check_count, is_file, is_folder
from ...errors import ArgumentError, DataError
from . import TASKS
from .task import Item, Task

Count = Callable[[Sequence[Item]], Sequence[int]]

_AT_ONCE = 64  # groups whose tokens are counted together
NO_DATA = "none"
DATA_VARIABLE = "OPTIPFAIR_DATA"


@dataclass(frozen=True)
class Chosen:
    """A task with the items that are used of it."""

    task: Task
    items: tuple[Item, ...]  # in the order of the file
    available: int  # how many there were
    left_out: Mapping[str, int]  # reason -> number of rows that are not used
    file: str  # name of the data file, empty where there is none
    sha256: str  # of its content
    licence: str | None  # first line of the LICENSE beside it
    tokens: int = 0  # that a model reads for them; 0 before they are drawn


def find_data(data: str | Path | None) -> Path | None:
    """The folder of data: as given ("none" is no folder), else by the environment, else none."""
    given = data if data is not None else os.environ.get(DATA_VARIABLE) or None
    if given is None or str(given) == NO_DATA:
        return None
    folder = Path(given)
    if not str(given) or not is_folder(folder):
        origin = f", which {DATA_VARIABLE} names," if data is None else ""
        fault = "is no folder" if is_file(folder) else "does not exist"
        raise DataError(
            f"The data folder {str(given)!r}{origin} {fault}. Give a folder with the files that "
            "docs/evaluation.md lists."
        )
    return folder


def named_tasks(names: Sequence[str] | None) -> list[Task]:
    """Tasks by name, in the given order; None for all of them that a comparison uses by itself."""
    if names is None:
        return [TASKS[name] for name in TASKS if TASKS[name].default]
    if isinstance(names, str):
        raise ArgumentError(f"tasks={names!r} is one text. Give a list of names: [{names!r}].")
    chosen = [TASKS[name] for name in names]
    if len({task.name for task in chosen}) < len(chosen):
        raise ArgumentError(f"tasks={list(names)!r} names a task twice. Name each once.")
    return chosen


def read_tasks(
    tasks: Sequence[Task], data: Path | None, *, required: bool
) -> tuple[list[Chosen], dict[str, str]]:
    """Every task with its items, and why those by other names cannot be measured."""
    reasons = {task.name: missing_data(task, data) for task in tasks}
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    if required and missing:
        raise DataError("The task {} cannot be measured: {}.".format(*next(iter(missing.items()))))
    present = [task for task in tasks if task.name not in missing]
    return [_read(task, (data or Path()) / task.path) for task in present], missing


def missing_data(task: Task, data: Path | None) -> str | None:
    """Why a task has no data, None where it has."""
    if not task.path or (data is not None and (data / task.path).exists()):
        return None
    if data is None:
        return f"no data folder (give one with --data, or set {DATA_VARIABLE})"
    return f"{task.path} is not in the data folder"


def _read(task: Task, place: Path) -> Chosen:
    reading = task.read(place)
    items, left_out = reading.items, reading.left_out
    if not items:
        why = "; ".join(f"{rows} rows: {fault}" for fault, rows in left_out.items())
        raise DataError(
            f"{place}: no item is left of the task {task.name}{f' ({why})' if why else ''}. "
            "Give more rows, or leave the task out with --tasks."
        )
    about = (_hash(place), _licence(place)) if task.path else ("", None)
    return Chosen(task, tuple(items), len(items), left_out, task.path, *about)


def within_budget(
    tasks: Sequence[Chosen],
    count: Count,
    budget: int | None,
    *,
    limit: int | None = None,
    seed: int = 0,
) -> list[Chosen]:
    """Take as many items of each task as fit, drawn by a seed; items that belong together stay so.

    The budget is shared equally; what a small task leaves goes to the others.
    """
    if limit is not None:
        check_count("limit", limit)
    bounds = math.inf if limit is None else limit, math.inf if budget is None else budget
    drawn = {each.task.name: _drawn(each, count, *bounds, seed) for each in tasks}
    left, taken = bounds[1], {}
    totals = {name: sum(tokens for tokens, _ in groups) for name, groups in drawn.items()}
    for number, chosen in enumerate(sorted(tasks, key=lambda each: totals[each.task.name])):
        name = chosen.task.name
        share = min(float(totals[name]), left / (len(tasks) - number))
        left -= share
        taken[name] = _taken(chosen, drawn[name], share)
    return [taken[each.task.name] for each in tasks]


def _drawn(
    chosen: Chosen, count: Count, limit: float, budget: float, seed: int
) -> list[tuple[int, list[Item]]]:
    """Groups of items in the order of the draw, with their tokens; no more than can be used."""
    task = chosen.task
    groups: dict[str, list[Item]] = {}
    for item in chosen.items:
        groups.setdefault(task.together(item) if task.together else item.id, []).append(item)
    order = list(groups.values())
    random.Random(f"{seed}/{task.name}").shuffle(order)
    kept: list[tuple[int, list[Item]]] = []
    items = tokens = 0
    for start in range(0, len(order), _AT_ONCE):
        part = order[start : start + _AT_ONCE]
        counts = iter(count([item for group in part for item in group]))
        for group in part:
            items += len(group)
            if kept and (items > limit or tokens > budget):
                return kept
            kept.append((sum(next(counts) for _ in group), group))
            tokens += kept[-1][0]
    return kept


def _taken(chosen: Chosen, groups: list[tuple[int, list[Item]]], share: float) -> Chosen:
    kept: set[str] = set()
    used = 0
    for tokens, group in groups:
        if kept and used + tokens > share:
            break
        kept |= {item.id for item in group}
        used += tokens
    items = tuple(item for item in chosen.items if item.id in kept)
    return replace(chosen, items=items, tokens=used)


def _hash(place: Path) -> str:
    files = [place] if place.is_file() else sorted(f for f in place.iterdir() if f.is_file())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _licence(place: Path) -> str | None:
    file = (place if place.is_dir() else place.parent) / "LICENSE"
    if not file.is_file():
        return None
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:200] for line in lines if line.strip()), None)
