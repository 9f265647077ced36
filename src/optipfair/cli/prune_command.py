"""`optipfair prune`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ..checking import BUILTIN_TEXT
from ..distributed import launched, launched_rank
from ..pruning.options.presets import PRESETS, chosen_by_data, instead_of_data
from ..pruning.options.prune_options import HOW_TO_CHOOSE, PruneOptions
from ..pruning.options.recipe import read_recipe
from .output import importing, print_json, print_table, say, show_bars, showing_warnings
from .shared_options import command_line, flags, given, json_option

if TYPE_CHECKING:
    from ..pipeline import PruneResult

_SAYS_ALL = HOW_TO_CHOOSE | {"preset"}  # in a recipe


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

    Unless you say otherwise, text that ships with OptiPFair runs through the model and decides what
    goes; what stays makes up for it. How long that will take is said before it begins: minutes for
    a small model on a CPU, and half an hour at most is planned (--time-budget). Kept widths are
    then multiples of 32 where the width was one. Text of your own is better (--calibration FILE).

    Weights alone choose with --calibration none, and with a --method that is static (MAW, VOW, PON,
    L2). That takes as long as copying the model, and ruins most.

    \b
    Examples:
      optipfair prune --model-path demo --output-path smaller --pruning-percentage 20
      optipfair prune --model-path org/name --output-path smaller --pruning-type DEPTH \\
          --num-layers-to-remove 4
    """
    with importing():
        from ..pipeline import prune_checkpoint

    of_recipe = read_recipe(recipe) if recipe else {}
    asked = {**of_recipe, **given(PruneOptions)}
    named = {"model_path": model_path, "preset": preset, "plan": plan}
    for name, value in named.items():
        recipes = asked.pop(name, None)
        named[name] = recipes if value is None else value
    if named["model_path"] is None:
        raise click.UsageError("Missing option '--model-path'. A recipe may name the model too.")
    if no_verify:
        asked["verify"] = "none"
    says_all = named["plan"] is not None or not of_recipe.keys().isdisjoint(_SAYS_ALL)
    options, *instead = _choices(asked, named["preset"], says_all=says_all)
    first = launched_rank() == 0
    quiet = not verbose or not first
    with showing_warnings(quiet), launched(options.device):
        result = prune_checkpoint(
            named["model_path"],
            output_path,
            options=options,
            instead=instead,
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
        drawn = named["plan"] is None and "calibration" in result.plan.request
        _print(result, to_measure=drawn and options.evaluate)


def _choices(asked: Mapping[str, Any], preset: str | None, *, says_all: bool) -> list[PruneOptions]:
    """What to do, and what instead where that is not possible.

    Data choose unless something else is asked for. A plan says all that is to be done, and so does
    a recipe that says how to choose: it does again what it did.
    """
    wanted = dict(asked)
    if preset is not None:
        asked = {"calibration": BUILTIN_TEXT, **asked}
        wanted = PRESETS[preset].keywords(**asked)
    if says_all:
        return [PruneOptions(**wanted)]
    chosen = chosen_by_data(wanted)
    return [PruneOptions(**each) for each in (chosen, *instead_of_data(asked, chosen))]


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
    for found in (result.recovery, result.neutralisation):
        if found is not None:
            words = found.in_words()
            say(f"{words[:1].upper()}{words[1:]}.")
    if result.left_behind:
        names = ", ".join(result.left_behind)
        say(f"Left behind, as no part of a published model: {names}.")
    if not result.has_tokenizer:
        say("The model has no tokenizer; none was written.")
    say(f"Written to {result.output_path} in {result.seconds:.1f} s.")
