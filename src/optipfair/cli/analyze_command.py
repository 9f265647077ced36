"""`optipfair analyze` and `optipfair families`."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

import click

from .output import importing, print_json, print_table, say
from .shared_options import device_option, json_option, model_option, trust_option

if TYPE_CHECKING:
    from ..analysis import Analysis

_ALWAYS_THERE = ("cpu", "auto")
_LABELS = {"MLP_GLU": "Width", "DEPTH": "Depth", "EXPERTS": "Experts"}


@click.command()
@model_option
@device_option
@trust_option
@json_option
def analyze(model_path: str, device: str, trust_remote_code: bool, as_json: bool) -> None:
    """Show what a model is made of and what pruning would save.

    Config and headers are enough: no weight is loaded, so --device has nothing to do.
    """
    with importing():
        from ..analysis import analyze_model

    if device not in _ALWAYS_THERE:
        from ..devices import check_device  # asks torch, which takes seconds to import

        check_device(device)
    analysis = analyze_model(model_path, trust_remote_code=trust_remote_code)
    if as_json:
        print_json(analysis.to_dict())
    else:
        _print(analysis)


def _print(analysis: Analysis) -> None:
    from ..report.formats import change, size

    print_table(analysis.source, ["", ""], _facts(analysis))
    parts = [
        (part, f"{count:,}", f"{100 * count / analysis.parameters:.1f} %")
        for part, count in analysis.parts.items()
    ]
    print_table("Parameters by part", ["", "parameters", "share"], parts)
    for kind in analysis.refusals:
        label = f"{_LABELS[kind]} ({kind})"
        rows = [
            (f"{row.percentage:g} %", row.kept, f"{row.parameters:,}", size(row.bytes),
             change(row.percentage_reduction, 1))
            for row in analysis.savings
            if row.pruning_type == kind
        ]  # fmt: skip
        if rows:
            print_table(label, ["removed", "left", "parameters", "size", "model"], rows)
        if analysis.refusals[kind]:
            say(f"{label}: not possible. {analysis.refusals[kind]}\n")


def _facts(analysis: Analysis) -> list[tuple[str, str]]:
    from ..report.formats import size

    served = "" if analysis.listed else " (by its structure)"
    heads = str(analysis.attention_heads)
    if analysis.key_value_heads not in (None, analysis.attention_heads):
        heads += f" ({analysis.key_value_heads} for keys and values)"
    widths = {
        name: "/".join(map(str, sorted(set(values)))) for name, values in analysis.widths.items()
    }
    facts = [
        ("model type", f"{analysis.model_type}{served}"),
        ("architecture", analysis.architecture),
        ("parameters", f"{analysis.parameters:,}"),
        ("size", f"{size(analysis.bytes)} ({', '.join(analysis.dtypes)})"),
        ("decoder layers", str(analysis.layers)),
        ("hidden size", str(analysis.hidden_size)),
        *((f"neurons per {name}", value) for name, value in widths.items()),
        ("attention heads", f"{heads} of {analysis.head_dim}"),
        ("vocabulary", str(analysis.vocabulary)),
        ("context", str(analysis.context)),
    ]
    if analysis.expansion_rate is not None:
        facts.insert(7, ("expansion rate", f"{analysis.expansion_rate:.1f} %"))
    if analysis.experts:
        facts.append(("experts", str(analysis.experts)))
    return [(label, value) for label, value in facts if value != "None"]


@click.command()
@json_option
def families(as_json: bool) -> None:
    """List the model types that are served, by width and by depth, and why not.

    The list was made by pruning, saving and reloading a toy model of each.
    """
    rows = json.loads(files("optipfair.arch").joinpath("served.json").read_text("utf-8"))
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
