"""What two models did on the same items, as plain rows: figures, flips, corrected p-values."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..uncertainty import Estimate, holm
from .measuring.measures import Columns, Measure, compare, groups, mcnemar, taken
from .tasks.items import Item
from .tasks.task import Task

Row = dict[str, Any]
SHOWN = 50  # flips listed of each task
FEWEST = 5  # items of a group, so that it has a row of its own


def identifier(task: str, measure: str, group: str | None = None) -> str:
    """What a row is called: `crows_pairs.stereotyped[gender]`."""
    return f"{task}.{measure}" + (f"[{group}]" if group is not None else "")


def measure_rows(
    task: str,
    question: str,
    measures: Sequence[Measure],
    original: Columns,
    pruned: Columns,
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
) -> list[Row]:
    """Every measure of a task over all items, and over each of its groups.

    Args:
        task: its name.
        question: `quality` or `fairness`.
        measures: of the task.
        original, pruned: columns of N rows, the same items in the same order.
        clusters: (N,) labels; items of one label are drawn together.
        seed: of the draws.
    """
    labels = np.array(clusters, dtype=object)
    found = []
    for measure in measures:
        for group, rows in groups(measure, original).items():
            if group is not None and rows.sum() < FEWEST:
                continue
            compared = compare(
                *(measure, taken(original, rows), taken(pruned, rows), labels[rows].tolist()),
                seed=seed,
            )
            found.append(
                {
                    "id": identifier(task, measure.name, group),
                    "task": task,
                    "measure": measure.name,
                    "group": group,
                    "question": question,
                    "help": measure.help,
                    "better": measure.better,
                    "scale": None if measure.scale is None else list(measure.scale),
                    "change_kind": measure.change,
                    # Groups are looked at, the whole decides.
                    "headline": measure.headline and group is None,
                    **{
                        name: asdict(getattr(compared, name))
                        for name in ("original", "pruned", "change", "harm")
                    },
                    "p": compared.p,
                    "p_holm": None,
                    "chance": measure.chance,
                    "could_have_missed": _could_have_missed(compared.harm),
                    "items": compared.items,
                    "clusters": compared.clusters,
                }
            )
    return found


def flips_of(task: Task, items: Sequence[Item], original: Columns, pruned: Columns) -> Row | None:
    """Items whose answer turned, with their texts; None for a task without such answers."""
    if task.answer is None:
        return None
    before, after = original[task.answer], pruned[task.answer]
    by = next((measure.by for measure in task.measures if measure.by), None)
    turned = [i for i in range(len(items)) if {before[i], after[i]} == {0.0, 1.0}]
    return {
        "task": task.name,
        **mcnemar(original, pruned, task.answer),
        "p_holm": None,
        "answers": list(task.answers),
        "items": [
            {
                "id": items[i].id,
                "group": None if by is None else str(original[by][i]),
                "from": task.answers[int(before[i])],
                "to": task.answers[int(after[i])],
                "texts": task.texts(items[i]),
            }
            for i in turned[:SHOWN]
        ],
        "shown": min(SHOWN, len(turned)),
        "total": len(turned),
    }


def correct(rows: Sequence[Row], flips: Sequence[Row]) -> None:
    """Fill in p_holm (Holm 1979), in two families.

    What decides verdicts is one: the headline measures. All else, groups, further measures and
    flips, is looked at, and is the other: its size must not hide what was asked.
    """
    headlines = [row for row in rows if row["headline"]]
    others = [row for row in rows if not row["headline"]]
    for family in (headlines, [*others, *flips]):
        for test, p in zip(family, holm([test["p"] for test in family]), strict=True):
            test["p_holm"] = p


def _could_have_missed(harm: Estimate) -> float | None:
    """The largest harm the data do not exclude: the upper end of its interval, at least 0."""
    return None if harm.high is None else max(0.0, harm.high)
