"""The group of commands. Heavy imports happen inside the commands, so that `--help` is fast."""

from __future__ import annotations

import click

from .._version import __version__
from .analyze_command import analyze, families
from .bias_command import bias
from .demo_command import demo
from .export_command import export
from .measuring_commands import compare, evaluate
from .neutralise_command import neutralise
from .prune_command import prune
from .recover_command import recover
from .search_command import search


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="optipfair")
def app() -> None:
    """Make an open language model smaller, and know what it cost.

    MODEL_PATH is a folder in transformers format, a hub id such as org/name, a .gguf file, or
    "demo" for the small embedded model.

    \b
    First steps:
      optipfair analyze --model-path demo
      optipfair prune --model-path demo --output-path smaller --pruning-percentage 20
    """


app.add_command(analyze)
app.add_command(search)
app.add_command(prune)
app.add_command(recover)
app.add_command(neutralise)
app.add_command(export)
app.add_command(evaluate)
app.add_command(compare)
app.add_command(bias)
app.add_command(families)
app.add_command(demo)
