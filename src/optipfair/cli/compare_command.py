"""`optipfair compare`."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from ..distributed import launched, launched_rank
from .output import print_json, print_table, show_bars, showing_warnings
from .shared_options import (
    choosing_options,
    device_option,
    dtype_option,
    json_option,
    scoring_options,
    trust_option,
)

if TYPE_CHECKING:
    from ..evaluation.evaluate_by_name import CompareRun

FAILED_CONDITION = 3


@click.command()
@click.option("--original", required=True, metavar="MODEL", help="The model before.")
@click.option("--pruned", required=True, metavar="MODEL", help="The model after.")
@click.option("--output-dir", help="Folder for the report. [nothing is written]")
@choosing_options
@click.option(
    *("--prompt", "prompts"), multiple=True, metavar="TEXT",
    help="To time and to continue; repeatable. [two short ones]"
)  # fmt: skip
@click.option("--max-new-tokens", type=int, default=32, show_default=True, help="Per prompt.")
@click.option("--num-runs", type=int, default=5, show_default=True, help="Timed runs.")
@click.option("--speed/--no-speed", default=True, help="Whether to time both models.")
@click.option("--layers/--no-layers", default=True, help="Whether to look into the layers.")
@click.option(
    "--fail-if", multiple=True, metavar="CONDITION",
    help='Exit with 3 if it holds, such as "perplexity_ratio>1.2"; repeatable.'
)  # fmt: skip
@scoring_options
@device_option
@dtype_option
@trust_option
@json_option
@click.option("--verbose/--quiet", default=True, help="Show progress and results, or nothing.")
def compare(as_json: bool, verbose: bool, **options: Any) -> int:
    """Say whether a pruned model is still good, still fair, and faster.

    \b
    Examples:
      optipfair compare --original demo --pruned smaller --output-dir report --data DIR
      optipfair compare --original org/name --pruned smaller --fail-if "perplexity_ratio>1.2"
    """
    from ..evaluation.agenda import PROMPTS, Settings
    from ..evaluation.evaluate_by_name import run_compare
    from .shared_options import cache_folder, chosen_by

    first = launched_rank() == 0
    quiet = not verbose or not first
    settings = Settings(
        prompts=options["prompts"] or PROMPTS,
        max_new_tokens=options["max_new_tokens"],
        num_runs=options["num_runs"],
        speed=options["speed"],
        layers=options["layers"],
        output_dir=options["output_dir"],
        cache_dir=cache_folder(options["cache_dir"]),
        batch_tokens=options["batch_tokens"],
        command=shlex.join(["optipfair", *sys.argv[1:]]),
        show_progress=show_bars(quiet),
    )
    with showing_warnings(quiet), launched(options["device"]):
        result = run_compare(
            options["original"],
            options["pruned"],
            chosen=chosen_by(options),
            settings=settings,
            fail_if=options["fail_if"],
            device=options["device"],
            dtype=options["dtype"],
            trust_remote_code=options["trust_remote_code"],
            say=None if quiet else lambda text: click.echo(text, err=True),
        )
    if as_json and first:
        print_json(result.comparison)
    elif not quiet:
        _print(result)
    for failure in result.failures if first else ():
        click.echo(f"Failed: {failure.in_words()}", err=True)
    return FAILED_CONDITION if result.failures else 0


def print_verdicts(result: CompareRun) -> None:
    """The answers, what was left out, and where the report is."""
    from ..report.tables import left_out_lines, verdict_rows

    for question, verdict, sentence in verdict_rows(result.comparison):
        click.echo(f"{question}: {verdict}. {sentence}")
    for line in left_out_lines(result.comparison.left_out):
        click.echo(line)
    if result.folder is not None:
        click.echo(f"The report is {result.folder / 'report.html'}.")


def _print(result: CompareRun) -> None:
    from ..report.tables import MEASURE_HEADER, measure_rows

    print_table("Measures", MEASURE_HEADER, measure_rows(result.comparison))
    print_verdicts(result)
