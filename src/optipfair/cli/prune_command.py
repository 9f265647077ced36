"""`optipfair prune`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..arch.spec import ATTENTION_UNITS
from ..distributed import launched, launched_rank
from ..pruning.importance.criteria import criterion_names
from ..pruning.importance.selection import strategy_names
from ..pruning.request.allocation import LAYER_WIDTHS
from ..pruning.request.targets import EXPANSION_DIVISORS, PRUNING_TYPES
from .output import print_json, print_table, show_bars, showing_warnings
from .shared_options import device_option, dtype_option, json_option, model_option, trust_option

if TYPE_CHECKING:
    from ..pipeline.prune import PruneResult


def _names(registry: Any) -> str:
    return "|".join(registry.names())


@click.command()
@model_option
@click.option("--output-path", help="Folder to write; appears when complete.")
@click.option(
    "--pruning-type",
    default="MLP_GLU",
    show_default=True,
    metavar=_names(PRUNING_TYPES),
    help="Remove MLP neurons, whole decoder layers, both, or attention heads.",
)
@click.option(
    "--method",
    default="MAW",
    show_default=True,
    metavar="|".join(criterion_names()),
    help="Importance criterion of neurons; MAW and PPM are the same. AUTO, OBS, FLAP, WACT and ACT "
    "need --calibration.",
)
@click.option(
    "--pruning-percentage",
    type=float,
    metavar="PERCENT",
    help="Share of neurons (or layers) to remove, 0-100. [width without a target: 10]",
)
@click.option(
    "--expansion-rate",
    type=float,
    metavar="PERCENT",
    help="MLP width to reach, in percent of the hidden size.",
)
@click.option(
    "--expansion-divisor",
    type=int,
    metavar="|".join(map(str, EXPANSION_DIVISORS)),
    help="Round the kept width down to a multiple.",
)
@click.option(
    "--attention-unit",
    default="group",
    show_default=True,
    metavar="|".join(ATTENTION_UNITS),
    help="What ATTENTION removes: key/value groups with their query heads, or query heads.",
)
@click.option(
    "--layer-widths",
    default="uniform",
    show_default=True,
    metavar="|".join(LAYER_WIDTHS.names()),
    help="by_loss lets layers that are missed more lose less.",
)
@click.option("--num-layers-to-remove", type=int, metavar="NUM", help="How many layers to remove.")
@click.option(
    "--layer-indices",
    metavar="I,J,...",
    help='Layers to remove, or with MLP_GLU to make narrower, for example "2,5,8".',
)
@click.option(
    "--layer-selection-method",
    default="last",
    show_default=True,
    metavar="|".join(strategy_names()),
    help="Which layers to remove.",
)
@click.option(
    "--target-params",
    metavar="COUNT",
    help='The most parameters that may be left, for example "1.0B".',
)
@click.option(
    "--target-size",
    metavar="SIZE",
    help='The most bytes of weights that may be left, for example "2GB".',
)
@click.option(
    "--preset",
    type=click.Choice(["quality"]),
    help="quality: what keeps most of it. --method AUTO; with DEPTH or BOTH the block of layers "
    "that is missed least, and compensation. Needs --calibration.",
)
@click.option(
    "--calibration", metavar="TEXT", help="Text to calibrate on: .txt, .jsonl, or a dataset id."
)
@click.option(
    "--calibration-samples",
    type=int,
    default=128,
    show_default=True,
    metavar="NUM",
    help="Sequences drawn from it.",
)
@click.option(
    "--calibration-length",
    type=int,
    default=512,
    show_default=True,
    metavar="TOKENS",
    help="Tokens of each.",
)
@click.option(
    "--compensate/--no-compensate",
    default=None,
    help="Whether the kept neurons, or the layers before removed ones, make up for the lost ones "
    "(needs --calibration). [AUTO: yes, else no]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is random.")
@click.option("--plan", metavar="FILE", help="Carry out a saved plan instead of deciding anew.")
@click.option("--save-plan", metavar="FILE", help="Write the plan to a file, and nothing else.")
@click.option("--dry-run", is_flag=True, help="Show plan and exact size; write nothing.")
@device_option
@dtype_option
@click.option(
    "--max-shard-size", default="5GB", show_default=True, metavar="SIZE", help="Of one file."
)
@click.option(
    "--check-weights", is_flag=True, help="Look for NaN and Inf in all tensors, not only those cut."
)
@click.option("--overwrite", is_flag=True, help="Replace a model that is in the output folder.")
@click.option(
    "--verify",
    default="fast",
    show_default=True,
    metavar="fast|full|none",
    help="fast checks the files; full also loads them and compares with a live cut.",
)
@click.option(
    "--evaluate/--no-evaluate",
    default=True,
    help="With --calibration: measure what is lost on text that is held back.",
)
@click.option("--no-verify", is_flag=True, help="The same as --verify none.")
@trust_option
@json_option
@click.option("--verbose/--quiet", default=True, help="Show progress and results, or nothing.")
def prune(**options: Any) -> None:
    """Prune a model and write it with its plan and card to a new folder.

    \b
    Examples:
      optipfair prune --model-path demo --output-path smaller --pruning-percentage 20
      optipfair prune --model-path org/name --output-path smaller --pruning-type DEPTH \\
          --num-layers-to-remove 4
    """
    from ..pipeline.prune import prune_checkpoint

    options |= _of_preset(options)
    first = launched_rank() == 0
    quiet = not options["verbose"] or not first
    with showing_warnings(quiet), launched(options["device"]):
        result = prune_checkpoint(
            options["model_path"],
            options["output_path"],
            options["pruning_type"],
            options["method"],
            options["pruning_percentage"],
            expansion_rate=options["expansion_rate"],
            expansion_divisor=options["expansion_divisor"],
            num_layers_to_remove=options["num_layers_to_remove"],
            layer_indices=_indices(options["layer_indices"]),
            layer_selection_method=options["layer_selection_method"],
            target_params=options["target_params"],
            target_size=options["target_size"],
            compensate=options["compensate"],
            calibration=options["calibration"],
            calibration_samples=options["calibration_samples"],
            calibration_length=options["calibration_length"],
            seed=options["seed"],
            attention_unit=options["attention_unit"],
            layer_widths=options["layer_widths"],
            plan=options["plan"],
            save_plan=options["save_plan"],
            dry_run=options["dry_run"],
            device=options["device"],
            dtype=options["dtype"],
            max_shard_size=options["max_shard_size"],
            check_weights=options["check_weights"],
            overwrite=options["overwrite"],
            verify="none" if options["no_verify"] else options["verify"],
            evaluate=options["evaluate"],
            trust_remote_code=options["trust_remote_code"],
            show_progress=show_bars(quiet),
            command=shlex.join(["optipfair", *sys.argv[1:]]),
            say=None if quiet else lambda text: click.echo(text, err=True),
        )
    if options["as_json"] and first:
        print_json(result.to_dict())
    elif not quiet:
        _print(result, to_measure=options["calibration"] is not None and options["evaluate"])


def _indices(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(
            f'{text!r} is no list of layer numbers. Give them with commas, for example "2,5,8".',
            param_hint="--layer-indices",
        ) from None


def _of_preset(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a preset stands for; what it chooses cannot be chosen beside it."""
    if options["preset"] is None:
        return {}
    if options["plan"] is not None:
        raise click.UsageError("--plan and --preset exclude each other. Give one of them.")
    if options["calibration"] is None:
        raise click.UsageError(
            "--preset quality needs calibration data. Give a text with --calibration."
        )
    chosen: dict[str, Any] = {}
    if options["pruning_type"] != "DEPTH":
        chosen["method"] = "AUTO"
    if options["pruning_type"] in ("DEPTH", "BOTH") and options["layer_indices"] is None:
        chosen["layer_selection_method"] = "auto"
    if options["pruning_type"] == "DEPTH":
        chosen["compensate"] = True
    context = click.get_current_context()
    for name in chosen:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            no = "no-" if options[name] is False else ""
            option = f"--{no}{name.replace('_', '-')}"
            raise click.UsageError(f"{option} and --preset exclude each other. Give one of them.")
    return chosen


def _print(result: PruneResult, *, to_measure: bool) -> None:
    from ..pipeline.model_card import figures, what_was_done

    planned = result.output_path is None
    print_table(
        "Planned" if planned else "Pruned", ["", "before", "after"], figures(result.statistics)
    )
    click.echo(what_was_done(result.plan))
    if planned:
        size = result.statistics.get("pruned_file_bytes")
        exact = "" if size is None else f" The weight files would take {size:,} bytes."
        click.echo(f"Nothing was written but the plan, if asked for.{exact}")
        return
    if result.logits_difference is not None:
        click.echo(f"Reloaded: logits differ by {result.logits_difference:.1g} at most.")
    elif result.verified == "none":
        click.echo("Not verified.")
    else:
        cut = ", and one cut tensor of each layer" if result.plan.width_cuts else ""
        click.echo(f"Verified: headers, copied bytes{cut}.")
    if result.cost is not None:
        click.echo(f"Measured: {result.cost.in_words()}.")
    elif to_measure:
        click.echo("Not measured: the calibration text is too short to hold a tenth of it back.")
    if not result.has_tokenizer:
        click.echo("The model has no tokenizer; none was written.")
    click.echo(f"Written to {result.output_path} in {result.seconds:.1f} s.")
