"""Which tasks, and which of their items: what fits a budget of tokens. No torch."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...checking import check_count
from ...errors import ArgumentError, DataError, UnknownNameError
from ...registry import unknown_name
from ..evaluate_options import PRESETS
from . import TASKS
from .task import Item, Task

Count = Callable[[Sequence[Item]], Sequence[int]]

_AT_ONCE = 64  # groups whose tokens are counted together
NO_DATA = "none"
DATA_VARIABLE = "OPTIPFAIR_DATA"


@dataclass(frozen=True)
class Chosen:
    """A task with the items that are used of it.

    Attributes:
        task: what is measured.
        items: in the order of the file.
        available: how many there were.
        left_out: reason -> number of rows that are not used.
        file: name of the data file, empty where there is none.
        sha256: of its content.
        licence: first line of the LICENSE beside it.
        tokens: that a model reads for them; 0 before they are drawn.
    """

    task: Task
    items: tuple[Item, ...]
    available: int
    left_out: Mapping[str, int]
    file: str
    sha256: str
    licence: str | None
    tokens: int = 0


@dataclass(frozen=True)
class Missing:
    """A task that could not be measured, and what to do about it."""

    task: Task
    reason: str


def find_data(data: str | Path | None) -> Path | None:
    """The folder of evaluation data: as given, else by the environment, else none.

    "none" is no folder, whatever the environment says.
    """
    given = data if data is not None else os.environ.get(DATA_VARIABLE) or None
    if given is None or str(given) == NO_DATA:
        return None
    folder = Path(given)
    if not str(given) or not folder.is_dir():
        origin = f", which {DATA_VARIABLE} names," if data is None else ""
        fault = "is no folder" if str(given) and folder.exists() else "does not exist"
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
) -> tuple[list[Chosen], list[Missing]]:
    """Read every task's items."""
    chosen: list[Chosen] = []
    missing: list[Missing] = []
    for task in tasks:
        reason = _missing(task, data)
        if reason is None:
            chosen.append(_read(task, (data or Path()) / task.path))
        elif required:
            raise DataError(f"The task {task.name} cannot be measured: {reason}.")
        else:
            missing.append(Missing(task, reason))
    return chosen, missing


def _missing(task: Task, data: Path | None) -> str | None:
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
    groups = {each.task.name: _drawn(each, count, budget, limit, seed) for each in tasks}
    totals = {name: sum(tokens for tokens, _ in rows) for name, rows in groups.items()}
    shares = _shares(totals, budget)
    return [_taken(each, groups[each.task.name], shares[each.task.name]) for each in tasks]


def _drawn(
    chosen: Chosen,
    count: Count,
    budget: int | None,
    limit: int | None,
    seed: int,
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
            if kept and (
                (limit is not None and items > limit) or (budget is not None and tokens > budget)
            ):
                return kept
            kept.append((sum(next(counts) for _ in group), group))
            tokens += kept[-1][0]
    return kept


def _shares(totals: Mapping[str, int], budget: int | None) -> dict[str, float]:
    if budget is None:
        return dict.fromkeys(totals, float("inf"))
    shares: dict[str, float] = {}
    left, open_ = float(budget), dict(totals)
    for name, total in sorted(totals.items(), key=lambda each: each[1]):
        shares[name] = min(float(total), left / len(open_))
        left -= shares[name]
        del open_[name]
    return shares


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


def check_preset(preset: str) -> int | None:
    """Tokens of both models together, None for no bound."""
    if preset not in PRESETS:
        raise UnknownNameError(unknown_name("preset", preset, sorted(PRESETS)))
    return PRESETS[preset]


def _hash(place: Path) -> str:
    files = [place] if place.is_file() else sorted(f for f in place.iterdir() if f.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _licence(place: Path) -> str | None:
    file = (place if place.is_dir() else place.parent) / "LICENSE"
    if not file.is_file():
        return None
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:200] for line in lines if line.strip()), None)
