"""`optipfair bias`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..bias.settings import BiasOptions
from .output import print_json, print_table, say, show_bars, showing_warnings
from .shared_options import flags, given, model_option, running_options

if TYPE_CHECKING:
    from ..bias.study_by_name import BiasRun
    from ..bias.study_comparison import StudyComparison
    from ..bias.study_results import Summary

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # title, names of columns, rows


@click.command()
@model_option
@flags(BiasOptions)
@running_options
def bias(as_json: bool, verbose: bool, **options: Any) -> None:
    """Show what changes in a model between two prompts, beyond what neutral words change.

    \b
    Examples:
      optipfair bias --model-path demo --output-dir figures
      optipfair bias --model-path org/name --compare-with smaller --category gender
    """
    from ..bias.study_by_name import run_bias

    with showing_warnings(not verbose):
        result = run_bias(
            options["model_path"],
            BiasOptions(**given(BiasOptions)),
            device=options["device"],
            dtype=options["dtype"],
            trust_remote_code=options["trust_remote_code"],
            show_progress=show_bars(not verbose),
        )
    if as_json:
        print_json(result.to_dict())
    elif verbose:
        _print(result)


def _print(result: BiasRun) -> None:
    for numbers in result.models:
        print_table(*summary_table(numbers.model.name, numbers.summary))
        for note in notes(numbers.summary):
            say(f"Note: {note}")
    if result.comparison is not None:
        print_table(*comparison_table(result.comparison))
    if result.folder is not None:
        say(f"Written to {result.folder}.")


def summary_table(model: str, summary: Summary) -> Table:
    """One row per category and one for all pairs."""
    header = ("", "pairs", "difference", "controls", "excess", "95 % interval", "p")
    rows = []
    for name, row in {**summary.categories, "all": summary.overall}.items():
        numbers = map(_number, (row.difference, row.control, row.excess))
        end = _interval(row.interval), _p(row.p_value)
        rows.append([name, str(row.pairs), *numbers, *end])
    return f"{model}: relative difference between the prompts", header, rows


def comparison_table(comparison: StudyComparison) -> Table:
    """One row per component and one for all of them."""
    a, b = comparison.models.a.name, comparison.models.b.name
    title = f"Excess of {comparison.pairs.compared} pairs over their controls, a: {a}, b: {b}"
    header = ("", "excess a", "excess b", "b - a", "95 % interval", "p", "p (Holm)")
    rows = []
    for name, row in {**comparison.components, "all": comparison.overall}.items():
        if row.paired is None:
            rows.append([name, *["-"] * (len(header) - 1)])
            continue
        paired = row.paired
        numbers = map(_number, (row.a.excess, row.b.excess, paired.difference))
        p_values = (_p(p) for p in (paired.p_value, paired.get("p_holm")))
        rows.append([name, *numbers, _interval(paired.interval), *p_values])
    return title, header, rows


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


def _number(value: float | None) -> str:
    from ..report.formats import fixed

    return "-" if value is None else fixed(value, 4)


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _interval(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"[{_number(ends[0])}, {_number(ends[1])}]"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
