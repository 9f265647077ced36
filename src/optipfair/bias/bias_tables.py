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
    named = {**summary.categories, "all": summary.overall}
    rows = [[name, str(each.pairs), *_figures(each)] for name, each in named.items()]
    return Table(f"{model}: relative difference between the prompts", _HEADER, rows)


def comparison_table(comparison: StudyComparison) -> Table:
    """One row per component and one for all of them."""
    models = comparison.models
    rows = {**comparison.components, "all": comparison.overall}
    title = (
        f"Excess of {comparison.pairs.compared} pairs over their controls, "
        f"a: {models.a.name}, b: {models.b.name}"
    )
    return Table(title, _COMPARED, [[name, *_paired(each)] for name, each in rows.items()])


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


def _figures(row: OverKeys) -> list[str]:
    numbers = (row.difference, row.control, row.excess)
    return [*map(_number, numbers), _interval(row.interval), _number(row.p_value, ".3g")]


def _paired(row: Overall | OfComponent | NothingShared) -> list[str]:
    if isinstance(row, NothingShared):
        return ["-"] * (len(_COMPARED) - 1)
    paired = row.paired
    numbers = (row.a.excess, row.b.excess, paired.difference)
    p_values = (_number(p, ".3g") for p in (paired.p_value, paired.get("p_holm")))
    return [*map(_number, numbers), _interval(paired.interval), *p_values]


def _number(value: float | None, digits: str = ".4f") -> str:
    return "-" if value is None else f"{value:{digits}}"


def _interval(ends: Interval) -> str:
    return "-" if ends is None else f"[{ends[0]:.4f}, {ends[1]:.4f}]"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
