"""`optipfair bias`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..bias.settings import BiasOptions
from .attribution_tables import attribution_notes, attribution_tables
from .output import print_json, print_table, say, show_bars, showing_warnings
from .shared_options import flags, given, model_option, running_options

if TYPE_CHECKING:
    from ..bias.attribution_by_name import AttributionRun
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
      optipfair bias --model-path demo --attribute gender-occupation
    """
    asked = BiasOptions(**given(BiasOptions))
    model_path = options["model_path"]
    loading = {name: options[name] for name in ("device", "dtype", "trust_remote_code")}
    result: BiasRun | AttributionRun
    with showing_warnings(not verbose):
        if asked.attribute:
            from ..bias.attribution_by_name import run_attribution

            result = run_attribution(model_path, asked, **loading)
        else:
            from ..bias.study_by_name import run_bias

            result = run_bias(model_path, asked, **loading, show_progress=show_bars(not verbose))
    if as_json:
        print_json(result.to_dict())
    elif verbose:
        (_print_attribution if asked.attribute else _print)(result)  # type: ignore[arg-type]
    if verbose and not as_json and result.folder is not None:
        say(f"Written to {result.folder}.")


def _print_attribution(result: AttributionRun) -> None:
    for table in attribution_tables(result.models):
        print_table(*table)
    for note in attribution_notes([each for one in result.models for each in one.contrasts]):
        say(f"Note: {note}.")


def _print(result: BiasRun) -> None:
    for numbers in result.models:
        print_table(*summary_table(numbers.model.name, numbers.summary))
        for note in (*row_notes(numbers.summary), *notes(numbers.summary)):
            say(f"Note: {note}")
    if result.comparison is not None:
        print_table(*comparison_table(result.comparison))
        for note in comparison_notes(result.comparison):
            say(f"Note: {note}")


def summary_table(model: str, summary: Summary) -> Table:
    """One row per category and one for all pairs."""
    from ..bias.study_results import CAUTION

    header = ("", "pairs", "swaps", "difference", "controls", "excess", "95 % interval", "p")
    rows = []
    for name, row in _rows(summary).items():
        numbers = map(_number, (row["difference"], row["control"], row["excess"]))
        end = _interval(row["interval"]), _p(row["p_value"])
        rows.append([name, str(row["pairs"]), str(row["swaps"]), *numbers, *end])
    title = f"{model}: how differently two words are represented (relative difference); {CAUTION}"
    return title, header, rows


def comparison_table(comparison: StudyComparison) -> Table:
    """One row per component and one for all of them."""
    a, b = comparison.models.a.name, comparison.models.b.name
    counts = f"{comparison.pairs.compared} pairs ({comparison.pairs.swaps} distinct swaps)"
    title = f"Excess of {counts} over their controls, a: {a}, b: {b}"
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


def comparison_notes(comparison: StudyComparison) -> list[str]:
    """Why there are no intervals, and which pairs are left out."""
    paired = comparison.overall.paired
    reason = ((paired and paired.undefined) or {}).get("interval")
    missing = comparison.pairs.without_controls
    left_out = f"{_pairs(missing)} without controls in one of the models"
    return [f"{reason}."] * bool(reason) + [f"{left_out}: left out of all figures."] * bool(missing)


def row_notes(summary: Mapping[str, Any]) -> Iterator[str]:
    """Why rows have no interval, which pairs they leave out, and how like the controls are."""
    reasons: dict[str, list[str]] = {}
    for name, row in _rows(summary).items():
        reason = (row.get("undefined") or {}).get("interval")
        if reason and row["control"] is not None:
            reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        yield f"{', '.join(names)}: {reason}."
    for name, row in _rows(summary).items():
        if row["left_out"]:
            every = _pairs(row["pairs"] + row["left_out"])
            yield f"{name}: {row['left_out']} of {every} without controls, left out of all figures."
    apart = summary["overall"]["words_apart"]
    if apart is not None:
        yield (
            "Distance of the swapped words' input embeddings: "
            f"{apart['pair']:.2f} in pairs, {apart['controls']:.2f} in controls."
        )


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


def _rows(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {**summary["categories"], "all": summary["overall"]}


def _pairs(count: int) -> str:
    return f"{count} pair{'s' * (count != 1)}"


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
