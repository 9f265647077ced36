"""`optipfair prune`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ..distributed import launched, launched_rank
from ..pruning.options.presets import PRESETS
from ..pruning.options.prune_options import PruneOptions
from ..pruning.options.recipe import read_recipe
from .output import importing, print_json, print_table, say, show_bars, showing_warnings
from .shared_options import command_line, flags, given, json_option

if TYPE_CHECKING:
    from ..pipeline import PruneResult


@click.command()
@click.option(
    "--model-path",
    help='The model: a folder, a hub id, a .gguf file, or "demo" for the embedded model.',
)
@click.option("--output-path", help="The folder to write; it appears only when it is complete.")
@click.option(
    "--recipe",
    metavar="FILE",
    help="Do what a recipe.yaml says; options given beside it replace its values.",
)
@click.option(
    "--preset",
    metavar="|".join(PRESETS.names()),
    help=" ".join(PRESETS[name].help for name in PRESETS),
)
@flags(PruneOptions)
@click.option("--plan", metavar="FILE", help="Carry out a saved plan instead of deciding anew.")
@click.option("--save-plan", metavar="FILE", help="Write the plan to a file, and nothing else.")
@click.option("--dry-run", is_flag=True, help="Show the plan and the exact size; write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace a model that is in the output folder.")
@click.option("--no-verify", is_flag=True, help="The same as --verify none.")
@json_option
@click.option("--verbose/--quiet", default=True, help="Show progress and results, or nothing.")
def prune(
    model_path: str | None,
    output_path: str | None,
    recipe: str | None,
    preset: str | None,
    plan: str | None,
    save_plan: str | None,
    dry_run: bool,
    overwrite: bool,
    no_verify: bool,
    as_json: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Prune a model and write it with its plan, recipe and card to a new folder.

    \b
    Examples:
      optipfair prune --model-path demo --output-path smaller --pruning-percentage 20
      optipfair prune --model-path org/name --output-path smaller --pruning-type DEPTH \\
          --num-layers-to-remove 4
    """
    with importing():
        from ..pipeline import prune_checkpoint

    asked = {**(read_recipe(recipe) if recipe else {}), **given(PruneOptions)}
    named = {"model_path": model_path, "preset": preset, "plan": plan}
    for name, value in named.items():
        recipes = asked.pop(name, None)
        named[name] = recipes if value is None else value
    if named["model_path"] is None:
        raise click.UsageError("Missing option '--model-path'. A recipe may name the model too.")
    if no_verify:
        asked["verify"] = "none"
    options = (
        PRESETS[named["preset"]].options(**asked) if named["preset"] else PruneOptions(**asked)
    )
    first = launched_rank() == 0
    quiet = not verbose or not first
    with showing_warnings(quiet), launched(options.device):
        result = prune_checkpoint(
            named["model_path"],
            output_path,
            options=options,
            plan=named["plan"],
            save_plan=save_plan,
            dry_run=dry_run,
            overwrite=overwrite,
            show_progress=show_bars(quiet),
            command=command_line(),
            say=None if quiet else partial(say, err=True),
        )
    if as_json and first:
        print_json(result.to_dict())
    elif not quiet:
        _print(result, to_measure=options.calibration is not None and options.evaluate)


def _print(result: PruneResult, *, to_measure: bool) -> None:
    from ..pipeline.model_card import figures, what_was_done

    planned = result.output_path is None
    print_table(
        "Planned" if planned else "Pruned", ["", "before", "after"], figures(result.statistics)
    )
    say(what_was_done(result.plan))
    for note in result.notes:
        say(f"Note: {note}")
    if planned:
        size = result.statistics.get("pruned_file_bytes")
        exact = "" if size is None else f" The weight files would take {size:,} bytes."
        say(f"Nothing was written but the plan, if asked for.{exact}")
        return
    if result.logits_difference is not None:
        say(f"Reloaded: logits differ by {result.logits_difference:.1g} at most.")
    elif result.verified == "none":
        say("Not verified.")
    else:
        cut = ", and one cut tensor of each layer" if result.plan.width_cuts else ""
        say(f"Verified: headers, copied bytes{cut}.")
    if result.cost is not None:
        say(f"Measured: {result.cost.in_words()}.")
    elif to_measure:
        say("Not measured: the calibration text is too short to hold a tenth of it back.")
    if result.left_behind:
        names = ", ".join(result.left_behind)
        say(f"Left behind, as no part of a published model: {names}.")
    if not result.has_tokenizer:
        say("The model has no tokenizer; none was written.")
    say(f"Written to {result.output_path} in {result.seconds:.1f} s.")
