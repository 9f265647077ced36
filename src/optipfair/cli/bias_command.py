"""`optipfair bias`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..bias.settings import BiasOptions
from .option_flags import flags, given
from .output import print_json, print_table, show_bars, showing_warnings
from .shared_options import model_option, running_options

if TYPE_CHECKING:
    from ..bias.study_by_name import BiasRun


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
    from ..bias.bias_tables import comparison_table, notes, summary_table

    for numbers in result.models:
        print_table(*summary_table(numbers.model.name, numbers.summary))
        for note in notes(numbers.summary):
            click.echo(f"Note: {note}")
    if result.comparison is not None:
        print_table(*comparison_table(result.comparison))
    if result.folder is not None:
        click.echo(f"Written to {result.folder}.")
