"""`optipfair families`."""

from __future__ import annotations

import json
from importlib.resources import files

import click

from .output import print_json, print_table
from .shared_options import json_option


@click.command()
@json_option
def families(as_json: bool) -> None:
    """List the model types that are served, by width and by depth, and why not.

    The list was made by pruning, saving and reloading a toy model of each.
    """
    rows = json.loads(files("optipfair.arch").joinpath("families.json").read_text("utf-8"))
    if as_json:
        print_json(rows)
        return
    table = [
        (
            row["model_type"],
            "yes" if row["width"] else "no",
            "yes" if row["depth"] else "no",
            row["why_not"] or row["models"],
        )
        for row in rows
    ]
    print_table("Families", ["model_type", "width", "depth", "why not, or models"], table)
