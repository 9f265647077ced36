"""`optipfair compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..distributed import launched_rank
from ..evaluation.evaluate_options import EvaluateOptions
from .output import print_json, print_table
from .shared_options import flags, measured_by_name, running_options

if TYPE_CHECKING:
    from ..evaluation.evaluate_by_name import CompareRun

FAILED_CONDITION = 3


@click.command()
@click.option("--original", required=True, metavar="MODEL", help="The model before.")
@click.option("--pruned", required=True, metavar="MODEL", help="The model after.")
@flags(EvaluateOptions)
@click.option(
    "--fail-if", multiple=True, metavar="CONDITION",
    help='Exit with 3 if it holds, such as "perplexity_ratio>1.2"; repeatable.'
)  # fmt: skip
@running_options
def compare(as_json: bool, verbose: bool, **options: Any) -> int:
    """Say whether a pruned model is still good, still fair, and faster.

    \b
    Examples:
      optipfair compare --original demo --pruned smaller --output-dir report --data DIR
      optipfair compare --original org/name --pruned smaller --fail-if "perplexity_ratio>1.2"
    """
    from ..evaluation.evaluate_by_name import run_compare

    first = launched_rank() == 0
    quiet = not verbose or not first
    names, conditions = (options["original"], options["pruned"]), options["fail_if"]
    result = measured_by_name(run_compare, *names, given=options, quiet=quiet, fail_if=conditions)
    if as_json and first:
        print_json(result.comparison)
    elif not quiet:
        _print(result)
    for failure in result.failures if first else ():
        click.echo(f"Failed: {failure}", err=True)
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
