"""`optipfair recover`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from ..distributed import launched, launched_rank
from ..recovery.recover_options import RecoverOptions
from .output import importing, print_json, print_table, say, show_bars, showing_warnings
from .shared_options import command_line, flags, given, json_option, trust_option, verbose_option


@click.command()
@click.option("--model-path", required=True, metavar="FOLDER", help="The pruned model.")
@click.option("--output-path", required=True, help="The folder to write.")
@click.option(
    "--original",
    metavar="MODEL",
    help="The model it was pruned from. [what the pruned folder says]",
)
@flags(RecoverOptions)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a model in the output folder, and an unfinished run beside it.",
)
@trust_option
@json_option
@verbose_option
def recover(
    model_path: str,
    output_path: str,
    original: str | None,
    overwrite: bool,
    trust_remote_code: bool,
    as_json: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Train a pruned model to say what its original says, and write it to a new folder.

    No labels are needed: the loss is the KL divergence of its next-token distribution from the
    original's. Documents with a twentieth of the text are held back, and the best model by those is
    kept; if none is better than the one that came, that one is written.

    An interrupted run goes on with --resume. Several GPUs: accelerate launch -m optipfair recover.

    \b
    Examples:
      optipfair recover --model-path smaller --output-path healed
      optipfair recover --model-path smaller --output-path healed --data texts.jsonl --tokens 20M
    """
    with importing():
        from ..pipeline.healing.recover import recover_checkpoint

    asked = given(RecoverOptions)
    first = launched_rank() == 0
    quiet = not verbose or not first
    with showing_warnings(quiet), launched(asked.get("device", "auto")):
        result = recover_checkpoint(
            model_path,
            output_path,
            original,
            options=RecoverOptions(**asked, show_progress=show_bars(quiet)),
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            command=command_line(),
            say=None if quiet else partial(say, err=True),
        )
    if as_json and first:
        print_json(result.to_dict())
    elif not quiet:
        found = result.recovery
        perplexities = (f"{each:.4g}" for each in (found.perplexity_before, found.perplexity_after))
        rows = [
            ("KL divergence, nats a token", f"{found.before:.4f}", f"{found.after:.4f}"),
            ("perplexity", *perplexities),
        ]
        print_table("Recovered" if found.helped else "Not recovered", ["", "before", "after"], rows)
        say(f"{found.in_words()[:1].upper()}{found.in_words()[1:]}.")
        say(f"Written to {result.output_path} in {found.seconds:.1f} s.")
