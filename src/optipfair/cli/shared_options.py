"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

model_option = click.option(
    "--model-path",
    required=True,
    help='Folder, hub id, .gguf file, or "demo" for the embedded model.',
)
device_option = click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Where to work: cpu, cuda, cuda:1, mps, or auto for an accelerator if there is one.",
)
dtype_option = click.option(
    "--dtype",
    default="auto",
    show_default=True,
    metavar="auto|float32|float16|bfloat16",
    help="Type of the weights; auto keeps the checkpoint's.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
trust_option = click.option(
    "--trust-remote-code", is_flag=True, help="Allow code from the model's repository to run."
)

_CHOOSING = (
    click.option(
        "--tasks", metavar="NAME,...", help="Tasks to measure. [all whose data are there]"
    ),
    click.option("--data", metavar="DIR", help="Folder of evaluation data. [$OPTIPFAIR_DATA]"),
    click.option(
        "--text",
        metavar="FILE",
        help="Text for perplexity, .txt or .jsonl. [WikiText-2 of --data, else a short one]",
    ),
    click.option(
        "--preset",
        default="quick",
        show_default=True,
        metavar="quick|full",
        help="quick draws items that need 200,000 tokens for two models; full takes all.",
    ),
    click.option("--limit", type=int, metavar="N", help="Most items of each task."),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Of the draw of items and resamples."
    ),
    click.option("--context", type=int, help="Window of the text, in tokens. [512]"),
    click.option("--stride", type=int, help="How far it moves. [the context]"),
)
_SCORING = (
    click.option(
        "--cache-dir",
        metavar="DIR",
        help='Where scores are kept between runs; "none" for nowhere. [the user\'s cache folder]',
    ),
    click.option(
        "--batch-tokens", type=int, metavar="N", help="Most tokens of a batch. [by the vocabulary]"
    ),
)


def choosing_options(command: Any) -> Any:
    """What to measure; see `chosen_by`."""
    for option in reversed(_CHOOSING):
        command = option(command)
    return command


def scoring_options(command: Any) -> Any:
    """How to score."""
    for option in reversed(_SCORING):
        command = option(command)
    return command


def chosen_by(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `make_agenda`."""
    names = ("data", "text", "preset", "limit", "seed", "context", "stride")
    tasks = options["tasks"]
    return {
        "tasks": None if tasks is None else [name.strip() for name in tasks.split(",")],
        **{name: options[name] for name in names},
    }


def cache_folder(given: str | None) -> Path | None:
    """The folder for scores."""
    from ..evaluation.evaluate_by_name import default_cache

    if given is None:
        return default_cache()
    return None if given == "none" else Path(given)
