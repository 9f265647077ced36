"""`optipfair neutralise`."""

from __future__ import annotations

from typing import Any

import click

from ..neutralising.neutralise_options import NeutraliseOptions
from .output import importing, print_json, print_table, say, show_bars, showing_warnings
from .shared_options import (
    command_line,
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
@click.option("--output-path", required=True, help="The folder to write.")
@flags(NeutraliseOptions)
@click.option("--overwrite", is_flag=True, help="Replace a model in the output folder.")
@device_option
@trust_option
@json_option
@verbose_option
def neutralise(
    model_path: str,
    output_path: str,
    overwrite: bool,
    device: str,
    trust_remote_code: bool,
    as_json: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Take a contrast out of a model, at the least cost to ordinary text, and write it anew.

    A contrast is how much likelier some continuations are after words of one kind than after words
    of another: she rather than he after a nurse and after a soldier. A few down projections change
    just so much that all these words are followed alike. Words and sentences that the change was
    not made by say whether it helped.

    \b
    Examples:
      optipfair neutralise --model-path demo --output-path fairer
      optipfair neutralise --model-path org/name --output-path fairer --contrast mine.json
    """
    with importing():
        from ..pipeline.neutralise import neutralise_checkpoint

    with showing_warnings(not verbose):
        result = neutralise_checkpoint(
            model_path,
            output_path,
            options=NeutraliseOptions(
                **given(NeutraliseOptions), show_progress=show_bars(not verbose)
            ),
            device=device,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            command=command_line(),
        )
    if as_json:
        print_json(result.to_dict())
    elif verbose:
        found = result.neutralisation
        header = ["held-back words, nats", "before", "after", "random", "spread before", "after"]
        rows = [
            (
                each.name,
                f"{each.held_back_before:+.3f}",
                f"{each.held_back_after:+.3f}",
                f"{each.random_after:+.3f}",
                f"{each.spread_before:.3f}",
                f"{each.spread_after:.3f}",
            )
            for each in found.contrasts
        ]
        print_table("Neutralised" if found.strength else "Not neutralised", header, rows)
        say(f"{found.in_words()[:1].upper()}{found.in_words()[1:]}.")
        say(f"Written to {result.output_path} in {found.seconds:.1f} s.")
