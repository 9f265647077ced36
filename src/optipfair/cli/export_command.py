"""`optipfair export`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from ..export.export_options import ExportOptions
from .output import importing, print_json, say, show_bars, showing_warnings
from .shared_options import flags, given, json_option, model_option, trust_option, verbose_option


@click.command()
@model_option
@click.option("--output-path", required=True, help="The folder to write.")
@flags(ExportOptions)
@click.option("--overwrite", is_flag=True, help="Replace a model in the output folder.")
@trust_option
@json_option
@verbose_option
def export(
    model_path: str,
    output_path: str,
    overwrite: bool,
    trust_remote_code: bool,
    as_json: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Write a model in the form that vLLM, MLX, llama.cpp or transformers loads.

    A model whose layers are alike stays as it is, or becomes a .gguf file. One whose layers differ,
    or are without attention or MLP, is written in the one form in which the engine takes it. What
    an engine cannot express is refused.

    \b
    Examples:
      optipfair export --model-path smaller --output-path served --to vllm
      optipfair export --model-path smaller --output-path phone --to llama.cpp --dtype q8_0
    """
    with importing():
        from ..export.exporting import export_model

    with showing_warnings(not verbose):
        result = export_model(
            model_path,
            output_path,
            options=ExportOptions(**given(ExportOptions), show_progress=show_bars(not verbose)),
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            say=partial(say, err=True) if verbose else None,
        )
    if as_json:
        print_json(result.to_dict())
    elif verbose:
        if result.check is not None:
            say(f"{result.engine}: {result.check.in_words()}.")
        size = f"{result.bytes / 1e6:,.1f} MB"
        say(f"Written to {result.output_path} for {result.engine} ({result.form}, {size}).")
