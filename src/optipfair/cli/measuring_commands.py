"""`optipfair compare` and `optipfair evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..distributed import launched_rank
from ..evaluation.evaluate_options import CHOICE, SCORING, EvaluateOptions
from .output import print_json, print_table, say
from .shared_options import flags, measured_by_name, model_option, running_options

if TYPE_CHECKING:
    from ..evaluation.evaluate_by_name import CompareRun
    from ..report.comparison import EvaluationWithHarness, FigureOfOne

FAILED_CONDITION = 3


@click.command()
@click.option("--original", required=True, metavar="MODEL", help="The model before.")
@click.option("--pruned", required=True, metavar="MODEL", help="The model after.")
@flags(EvaluateOptions)
@click.option(
    "--control", metavar="MODEL",
    help="The original, damaged as much by chance: tells fairness from damage."
)  # fmt: skip
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
    names = options["original"], options["pruned"]
    own = {name: options[name] for name in ("control", "fail_if")}
    result = measured_by_name(run_compare, *names, given=options, quiet=quiet, **own)
    if as_json and first:
        print_json(result.comparison)
    elif not quiet:
        _print_comparison(result)
    for failure in result.failures if first else ():
        say(f"Failed: {failure}", err=True)
    return FAILED_CONDITION if result.failures else 0


def print_verdicts(result: CompareRun) -> None:
    """The answers, what was left out, and where the report is."""
    from ..report.tables import left_out_lines, verdict_rows
    from ..report.views import same_text

    for question, verdict, sentence in verdict_rows(result.comparison):
        say(f"{question}: {verdict}. {sentence}")
    if result.comparison.generation is not None:
        say(f"generation: {same_text(result.comparison.generation)}")
    for line in left_out_lines(result.comparison.left_out):
        say(line)
    if result.folder is not None:
        say(f"The report is {result.folder / 'report.html'}.")


def _print_comparison(result: CompareRun) -> None:
    from ..report.contrast_table import CONTRAST_HEADER, contrast_rows
    from ..report.tables import (
        FLIP_HEADER,
        GENERATION_HEADER,
        MEASURE_HEADER,
        first_token_lines,
        flip_rows,
        generation_rows,
        measure_rows,
    )

    print_table("Measures", MEASURE_HEADER, measure_rows(result.comparison))
    tables: list[tuple[str, Sequence[str], list[list[str]]]] = [
        ("Changed answers", FLIP_HEADER, flip_rows(result.comparison)),
        ("Generation", GENERATION_HEADER, generation_rows(result.comparison)),
        ("Contrasts", CONTRAST_HEADER, contrast_rows(result.comparison)),
    ]
    for title, header, rows in tables:
        if rows:
            print_table(title, header, rows)
    for line in first_token_lines(result.comparison.tasks):
        say(line)
    print_verdicts(result)


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
        _print_evaluation(evaluation)


def _print_evaluation(evaluation: EvaluationWithHarness) -> None:
    from ..report.tables import first_token_lines, left_out_lines

    print_table(
        evaluation.model.name,
        ["", "value", "95 % interval", "items"],
        [
            (row.id, _number(row.value), _interval(row), f"{row.items_:,}")
            for row in evaluation.measures
        ],
    )
    if evaluation.harness is not None:
        say(f"lm-eval {evaluation.harness['lm_eval_version']}:")
        say(json.dumps(evaluation.harness["results"], indent=2))
    for line in first_token_lines(evaluation.tasks) + left_out_lines(evaluation.left_out):
        say(line)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _interval(row: FigureOfOne) -> str:
    return "-" if row.low is None else f"{row.low:.4g} to {row.high:.4g}"
