"""A control: a third model, damaged as much by chance, which tells fairness from damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..report.comparison import FigureOfTwo
from ..uncertainty import holm
from .agenda import Agenda
from .changes import Compared, compare
from .rows import Measured, measured

AS_DAMAGED = 0.95  # of the pruned model's perplexity, that a control must have at least
TEXT = "text.perplexity"


def beside_control(
    rows: Sequence[FigureOfTwo], agenda: Agenda, figures: Measured, control: Any, tokenizer: Any
) -> list[FigureOfTwo]:
    """The same rows, those that decide on fairness with how the pruned model and a control differ.

    It answers the same items. A control that is less damaged than the pruned model, by its
    perplexity on the same text, tells nothing and is not used, which `no_control` says of a row.
    """
    tasks = [each for each in agenda.tasks if each.task.question == "fairness"]
    asked = replace(agenda.options, names=("control",))
    known = measured(replace(agenda, tasks=tasks, options=asked), [control], tokenizer)
    fault = _less_damaged(rows, known)
    decide = [row for row in rows if row.question == "fairness" and row.headline]
    if fault is not None:
        return [replace(row, no_control=fault) if row in decide else row for row in rows]
    found = {row.id: _against(row, agenda, known, figures) for row in decide}
    corrected = dict(zip(found, holm([each.p for each in found.values()]), strict=True))
    return [
        replace(row, against_control=found[row.id].harm, p_control_holm=corrected[row.id])
        if row.id in found
        else row
        for row in rows
    ]


def _less_damaged(rows: Sequence[FigureOfTwo], known: Measured) -> str | None:
    pruned = next((row.pruned.value for row in rows if row.id == TEXT), None)
    own = next((row.value for row in known.rows if row.id == TEXT), None)
    if pruned is None or own is None or own < AS_DAMAGED * pruned:
        return (
            f"the control's perplexity is {own or 0.0:.4g} and the pruned model's {pruned or 0:.4g}"
            ": it must be as high at least"
        )
    return None


def _against(row: FigureOfTwo, agenda: Agenda, known: Measured, figures: Measured) -> Compared:
    """How the pruned model differs from the control."""
    chosen = next(each for each in agenda.tasks if each.task.name == row.task)
    measure = next(each for each in chosen.task.measures if each.name == row.measure)
    first, second = (each.answers[-1].columns[row.task] for each in (known, figures))
    shares = [item.shares for item in chosen.items]
    return compare(measure, first, second, shares, seed=agenda.options.seed)
