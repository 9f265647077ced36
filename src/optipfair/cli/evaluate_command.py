"""`optipfair evaluate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ..distributed import launched_rank
from ..evaluation.evaluate_options import CHOICE, SCORING, EvaluateOptions
from .output import print_json, print_table
from .shared_options import flags, measured_by_name, model_option, running_options

if TYPE_CHECKING:
    from ..report.comparison import EvaluationWithHarness, FigureOfOne


@click.command()
@model_option
@flags(EvaluateOptions, CHOICE, SCORING)
@click.option(
    "--backend", default="auto", show_default=True, metavar="auto|offline|lm-eval",
    help="Who measures --tasks: the files of --data, or EleutherAI's harness; auto: the files "
    "where they are there."
)  # fmt: skip
@running_options
def evaluate(as_json: bool, verbose: bool, **options: Any) -> None:
    """Measure how good and how fair a model is, each figure with its interval.

    \b
    Examples:
      optipfair evaluate --model-path demo --text my.txt
      optipfair evaluate --model-path demo --data DIR --tasks piqa,arc_easy,crows_pairs
      optipfair evaluate --model-path org/name --tasks hellaswag --backend lm-eval
    """
    from ..evaluation.evaluate_by_name import run_evaluate

    first = launched_rank() == 0
    quiet = not verbose or not first
    name, backend = options["model_path"], options["backend"]
    evaluation = measured_by_name(run_evaluate, name, given=options, quiet=quiet, backend=backend)
    if as_json and first:
        print_json(evaluation)
    elif not quiet:
        _print(evaluation)


def _print(evaluation: EvaluationWithHarness) -> None:
    from ..report.tables import left_out_lines

    print_table(
        evaluation.model.name,
        ["", "value", "95 % interval", "items"],
        [
            (row.id, _number(row.value), _interval(row), f"{row.items_:,}")
            for row in evaluation.measures
        ],
    )
    if evaluation.harness is not None:
        click.echo(f"lm-eval {evaluation.harness['lm_eval_version']}:")
        click.echo(json.dumps(evaluation.harness["results"], indent=2))
    for line in left_out_lines(evaluation.left_out):
        click.echo(line)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _interval(row: FigureOfOne) -> str:
    return "-" if row.low is None else f"{row.low:.4g} to {row.high:.4g}"
