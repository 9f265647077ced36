"""`optipfair search`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from ..search.search_options import SearchOptions
from .output import importing, print_json, print_table, say, show_bars, showing_warnings
from .shared_options import (
    device_option,
    flags,
    given,
    json_option,
    model_option,
    trust_option,
    verbose_option,
)


@click.command()
@model_option
@click.option(
    "--output-path",
    required=True,
    help="The folder for scores and plans; one of the same search is gone on with.",
)
@flags(SearchOptions)
@device_option
@trust_option
@json_option
@verbose_option
def search(
    model_path: str,
    output_path: str,
    device: str,
    trust_remote_code: bool,
    as_json: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Search the shape that loses least under a budget, and write it as a plan.

    Each part of each layer is scored alone on held-back text: its MLP at several widths and gone,
    its attention gone. The best choice under the budget is found exactly, and judged beside a
    uniform width. Scores are kept: another budget needs no new ones.

    \b
    Example:
      optipfair search --model-path demo --output-path shapes --target-params 120M,108M
      optipfair prune --model-path demo --output-path smaller --plan shapes/plan-120M.json
    """
    with importing():
        from ..search.searching import search_model

    with showing_warnings(not verbose):
        result = search_model(
            model_path,
            output_path,
            options=SearchOptions(**given(SearchOptions), show_progress=show_bars(not verbose)),
            device=device,
            trust_remote_code=trust_remote_code,
            say=partial(say, err=True) if verbose else None,
        )
    if as_json:
        print_json(result.to_dict())
        return
    if not verbose:
        return
    header = ["shape", "parameters", "KL, nats", "perplexity", "sum of scores"]
    for found in result.found:
        rows = [
            (
                shape.name,
                f"{shape.parameters:,}",
                f"{shape.divergence:.4f}",
                f"x {shape.perplexity_ratio:.3f}",
                "" if shape.expected is None else f"{shape.expected:.4f}",
            )
            for shape in (found.best, *found.others)
        ]
        print_table(f"At most {found.budget}, on text that no score saw", header, rows)
        best = found.best
        say(f"Widths: {' '.join(map(str, best.widths))}")
        without = [str(layer) for layer, attends in enumerate(best.attention) if not attends]
        if without:
            say(f"Layers without attention: {', '.join(without)}")
        say(f"Plan: {found.plan}")
    say(f"Took {result.seconds:.0f} s. Carry a plan out with optipfair prune --plan FILE.")
