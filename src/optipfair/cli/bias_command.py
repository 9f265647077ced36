"""`optipfair bias`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .output import print_json, print_table, show_bars, showing_warnings
from .shared_options import model_option, running_options

if TYPE_CHECKING:
    from ..bias.study_by_name import BiasRun


@click.command()
@model_option
@click.option("--pairs", metavar="FILE", help="Your own pairs: .csv or .jsonl.")
@click.option(
    *("--category", "categories"), multiple=True, metavar="NAME",
    help="Generated pairs of a category, such as gender; repeatable. [the default pairs]"
)  # fmt: skip
@click.option(
    "--layers", default="first_middle_last", show_default=True,
    metavar="first_middle_last|all|I,J,...", help="Layers to draw; the numbers cover all."
)  # fmt: skip
@click.option("--components", metavar="NAME,...", help="What to compare, such as mlp_output.")
@click.option(
    "--controls", type=int, default=8, show_default=True, help="Neutral swaps for each pair."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of controls.")
@click.option(
    "--visualization-types", metavar="NAME,...",
    help="mean_diff, heatmap, pca, or none. [all, if there is an --output-dir]"
)  # fmt: skip
@click.option("--figure-format", default="png", show_default=True, metavar="png|pdf|svg")
@click.option("--output-dir", help="Folder for figures and numbers. [nothing is written]")
@click.option("--compare-with", metavar="PATH", help="A second model, on the same pairs.")
@running_options
def bias(as_json: bool, verbose: bool, **options: Any) -> None:
    """Show what changes in a model between two prompts, beyond what neutral words change.

    \b
    Examples:
      optipfair bias --model-path demo --output-dir figures
      optipfair bias --model-path org/name --compare-with smaller --category gender
    """
    from ..bias.study_by_name import run_bias

    for name in ("components", "visualization_types"):
        options[name] = _listed(options[name])
    with showing_warnings(not verbose):
        result = run_bias(**options, show_progress=show_bars(not verbose))
    if as_json:
        print_json(result.to_dict())
    elif verbose:
        _print(result)


def _listed(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return [] if text == "none" else [part.strip() for part in text.split(",")]


def _print(result: BiasRun) -> None:
    from ..bias.bias_tables import comparison_table, notes, summary_table

    for numbers in result.models:
        print_table(*summary_table(numbers.model.name, numbers.summary))
        for note in notes(numbers.summary):
            click.echo(f"Note: {note}")
    if result.comparison is not None:
        print_table(*comparison_table(result.comparison))
    if result.folder is not None:
        click.echo(f"Written to {result.folder}.")
