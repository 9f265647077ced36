"""`EvaluateOptions`: what can be asked of an evaluation or a comparison, one field an option."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..option_fields import option

PRESETS: dict[str, int | None] = {"quick": 200_000, "full": None}  # tokens of both models together
PROMPTS = (
    "The capital of France is",
    "The three most important things to know about cooking rice are",
)
CHOICE, SCORING, COMPARING = "choice", "scoring", "comparing"


@dataclass(frozen=True)
class EvaluateOptions:
    """What to measure, how to score, and what a comparison adds; nothing is checked here.

    The first two sections are keywords of `evaluate_model`, all three of `compare_models`.
    """

    tasks: Sequence[str] | None = option(
        None, "Names of the tasks to measure. [all whose data are there]",
        section=CHOICE, metavar="NAME,...",
    )  # fmt: skip
    data: str | Path | None = option(
        None, 'Folder of evaluation data, or "none". [$OPTIPFAIR_DATA]',
        section=CHOICE, metavar="DIR",
    )  # fmt: skip
    text: str | Path | None = option(
        None,
        "File to measure perplexity on: .txt, or .jsonl with a `text` in each line. [WikiText-2 of "
        "the data folder, else a short text that ships with the library]",
        section=CHOICE,
        metavar="FILE",
    )
    preset: str = option(
        "quick",
        "quick draws items so that two models together score 200,000 tokens at most; full takes "
        "all.",
        section=CHOICE,
        allowed=lambda: tuple(PRESETS),
    )
    limit: int | None = option(None, "Most items of each task.", section=CHOICE, metavar="N")
    seed: int = option(0, "Seed of the draw of items and of resamples.", section=CHOICE)
    context: int | None = option(
        None,
        "Length of the text's windows in tokens. [512, or what the model has positions for]",
        section=CHOICE,
    )
    stride: int | None = option(
        None, "How far the windows move, in tokens. [the context: side by side]", section=CHOICE
    )
    cache_dir: str | Path | None = option(
        None,
        "Folder for scores, so that an interrupted run goes on where it stopped and no model is "
        'scored twice. [on the command line the user\'s cache folder, "none" for nowhere; in '
        "Python nowhere]",
        section=SCORING,
        metavar="DIR",
    )
    batch_tokens: int | None = option(
        None, "Most tokens of a batch. [by the vocabulary]", section=SCORING, metavar="N"
    )
    command: str | None = option(
        None, "How it was started, for the record.", section=SCORING, flag=None
    )
    show_progress: bool = option(
        False, "Whether to show bars with the time left.", section=SCORING, flag=None
    )
    prompts: Sequence[str] | None = option(
        None,
        "What to time and to let both models continue; repeatable. [two short ones]",
        section=COMPARING,
        flag="--prompt",
        metavar="TEXT",
        repeatable=True,
    )
    max_new_tokens: int = option(32, "Tokens to generate for each prompt.", section=COMPARING)
    num_runs: int = option(5, "Timed runs of each prompt and model.", section=COMPARING)
    speed: bool = option(True, "Whether to time both models.", section=COMPARING)
    layers: bool = option(True, "Whether to look into the layers.", section=COMPARING)
    output_dir: str | Path | None = option(
        None,
        "Folder for report.html, comparison.json and measures.csv. [nothing is written]",
        section=COMPARING,
        metavar="DIR",
    )
    names: tuple[str, ...] = option(
        ("original", "pruned"), "How the models are called.", section=COMPARING, flag=None
    )
