"""The numbers of studies and comparisons as tables of text and sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .study_comparison import NothingShared, OfComponent, Overall, StudyComparison
from .study_results import Interval, OverKeys, Summary

_HEADER = ("", "pairs", "difference", "controls", "excess", "95 % interval", "p")
_COMPARED = ("", "excess a", "excess b", "b - a", "95 % interval", "p", "p (Holm)")


class Table(NamedTuple):
    """A title, the columns' names, and rows of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def summary_table(model: str, summary: Summary) -> Table:
    """One row per category and one for all pairs."""
    rows = {**summary.categories, "all": summary.overall}
    title = f"{model}: relative difference between the prompts"
    return Table(title, _HEADER, [_row(name, each) for name, each in rows.items()])


def comparison_table(comparison: StudyComparison) -> Table:
    """One row per component and one for all of them."""
    models = comparison.models
    rows = {**comparison.components, "all": comparison.overall}
    title = (
        f"Excess of {comparison.pairs.compared} pairs over their controls, "
        f"a: {models.a.name}, b: {models.b.name}"
    )
    return Table(title, _COMPARED, [_paired(name, each) for name, each in rows.items()])


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know beside the figures, pairs with the same note together."""
    pairs: dict[str, list[str]] = {}
    for note in summary["notes"]:
        pair, _, text = note.partition(": ")
        pairs.setdefault(text, []).append(pair)
    sentences = [f"{_some(names)}: {text}." for text, names in pairs.items()]
    for component, layers in summary["missing"].items():
        for reason, count in Counter(layers.values()).items():
            sentences.append(f"{component} is missing in {count} of the layers: {reason}.")
    return sentences


def _row(name: str, figures: OverKeys) -> list[str]:
    numbers = [_number(value) for value in (figures.difference, figures.control, figures.excess)]
    return [name, str(figures.pairs), *numbers, _interval(figures.interval), _p(figures.p_value)]


def _paired(name: str, row: Overall | OfComponent | NothingShared) -> list[str]:
    if isinstance(row, NothingShared):
        return [name, *["-"] * (len(_COMPARED) - 1)]
    paired = row.paired
    numbers = (row.a.excess, row.b.excess, paired.difference)
    p_values = (paired.p_value, paired.get("p_holm"))
    return [name, *map(_number, numbers), _interval(paired.interval), *map(_p, p_values)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _interval(ends: Interval) -> str:
    return "-" if ends is None else f"[{ends[0]:.4f}, {ends[1]:.4f}]"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
