"""What was found as tables of text and sentences. It knows the numbers' plain data only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_HEADER = ("", "pairs", "difference", "controls", "excess", "95 % interval", "p")
_COMPARED = ("", "excess a", "excess b", "b - a", "95 % interval", "p", "p (Holm)")


class Table(NamedTuple):
    """A title, the columns' names, and rows of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def summary_table(found: Mapping[str, Any]) -> Table:
    """One row per category and one for all pairs, of what `visualize_bias` returns."""
    summary = found["summary"]
    rows = {**summary["categories"], "all": summary["overall"]}
    title = f"{found['model']['name']}: relative difference between the prompts"
    return Table(title, _HEADER, [_row(name, each) for name, each in rows.items()])


def comparison_table(found: Mapping[str, Any]) -> Table:
    """One row per component and one for all of them, of what `compare_studies` returns."""
    models = found["models"]
    rows = {**found["components"], "all": found["overall"]}
    title = (
        f"Excess of {found['pairs']['compared']} pairs over their controls, "
        f"a: {models['a']['name']}, b: {models['b']['name']}"
    )
    return Table(title, _COMPARED, [_paired(name, each) for name, each in rows.items()])


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know beside the figures, pairs with the same note together."""
    pairs: dict[str, list[str]] = {}
    for note in summary["notes"]:
        pair, _, text = note.partition(": ")
        pairs.setdefault(text, []).append(pair)
    found = [f"{_some(names)}: {text}." for text, names in pairs.items()]
    for component, layers in summary["missing"].items():
        for reason, count in Counter(layers.values()).items():
            found.append(f"{component} is missing in {count} of the layers: {reason}.")
    return found


def _row(name: str, figures: Mapping[str, Any]) -> list[str]:
    numbers = [_number(figures[key]) for key in ("difference", "control", "excess")]
    return [name, str(figures["pairs"]), *numbers, _interval(figures), _p(figures["p_value"])]


def _paired(name: str, row: Mapping[str, Any]) -> list[str]:
    if row["paired"] is None:
        return [name, *["-"] * (len(_COMPARED) - 1)]
    paired = row["paired"]
    numbers = [row["a"]["excess"], row["b"]["excess"], paired["difference"]]
    p_values = [paired["p_value"], paired.get("p_holm")]
    return [name, *map(_number, numbers), _interval(paired), *map(_p, p_values)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _interval(figures: Mapping[str, Any]) -> str:
    ends = figures["interval"]
    return "-" if ends is None else f"[{ends[0]:.4f}, {ends[1]:.4f}]"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
