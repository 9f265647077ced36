"""`optipfair demo`."""

from __future__ import annotations

from pathlib import Path

import click

from .output import print_table, say


@click.command()
@click.option(
    "--output-path", default="demo-output", show_default=True, help="Folder for the models."
)
def demo(output_path: str) -> None:
    """Prune the embedded SmolLM2-135M by width and by depth, and compare.

    Saves the original and both pruned models, loads each again with plain transformers, and
    measures it; then writes a report that compares the original with the model of fewer neurons.
    Takes two to four minutes on a laptop.
    """
    from ..demo.demonstration import PROMPT, run_demo, write_report
    from ..report.formats import size
    from .measuring_commands import print_verdicts

    folder = Path(output_path)
    say("Loading, pruning and measuring SmolLM2-135M; no network is needed.", err=True)
    rows = []
    for row in run_demo(folder):
        rows.append(row)
        say(f"  {row.name}: done", err=True)
    print_table(
        "SmolLM2-135M before and after",
        ["", "parameters", "on disk (bfloat16)", "perplexity", "tokens/s"],
        [
            (
                row.name,
                f"{row.parameters:,}",
                size(row.file_bytes),
                f"{row.perplexity:.1f}",
                f"{row.tokens_per_second:.1f}",
            )
            for row in rows
        ],
    )
    say(
        "Perplexity per token on the text that ships with the demo (lower is better); speed in "
        "float32.\n"
    )
    say(f"All three were asked: {PROMPT}")
    for row in rows:
        say(f"  {row.name + ':':18} {row.answer}")
    say("\nComparing the original with the model of fewer neurons in detail.", err=True)
    say(f"\nIs {folder / 'width'} still good, still fair, and faster?")
    print_verdicts(write_report(folder))
    say(f"\nThe pruned models lie in {folder / 'width'} and {folder / 'depth'}. Try next:")
    say(f"  .venv/bin/optipfair analyze --model-path {folder / 'width'}")
