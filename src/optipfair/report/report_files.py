"""A comparison as files: an HTML page, the numbers as JSON, and as a table for spreadsheets.

The page needs nothing else: no network, no other file. What is drawn comes from `charts` and
`views`; the template beside this module writes it down and escapes every text. The page's only
script sorts tables, and its policy lets no other one run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from ..errors import OutputError
from ..files.filled_folder import check_writable, filled_folder, writing_explained
from . import charts, formats, views
from .comparison import Comparison
from .loss_curve import of_training
from .tables import comparison_csv

_NAMES = ("number", "signed", "plain", "percent", "times", "with_interval", "count", "memory")
_WRITERS = {
    **{name: getattr(formats, name) for name in (*_NAMES, "seconds")},
    "p": formats.p_value,
    "rows_left_out": views.rows_left_out,
    "marked_texts": views.marked_texts,
}


def comparison_page(comparison: Mapping[str, Any]) -> str:
    """Draw what `compare_models` gave, or what it wrote, read again, as HTML.

    Its texts may hold anything: they are escaped, and characters that hide or reorder text are
    shown by their number. The same comparison gives the same page.
    """
    shown = Comparison.from_dict(formats.all_visible(comparison))
    measures = shown.measures
    plane = charts.plane(measures)
    profile = charts.profile(shown.layers) if shown.layers else None
    style, script = _shipped("comparison.css"), _shipped("comparison.js")
    return _template().render(
        c=shown,
        style=style,
        script=script,
        policy=_policy(style, script),
        anchors={each.id: f"measure-{i}" for i, each in enumerate(measures, start=1)},
        forest=charts.forest(charts.headlines(measures)),
        forest_by_group=charts.forest(charts.by_group(measures)),
        absolutes=charts.absolutes(charts.headlines(measures)),
        plane=plane,
        profile=profile,
        same_text=views.same_text(shown.generation) if shown.generation else "",
        by_position=views.by_position(measures),
        loss_curve=of_training(shown.training) if shown.training else "",
        speed=views.speed_pairs(shown.speed) if shown.speed else [],
        speedup=views.speedup(shown.speed) if shown.speed else "",
        left_out=views.left_out(shown, plane=plane is not None, profile=profile is not None),
    )


def _policy(*texts: str) -> str:
    """What the browser may load and run: our style and our script, by their hashes."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    style, script = (f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; style-src {style}; script-src {script}; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _shipped(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(_WRITERS)
    environment.globals.update(_WRITERS)
    return environment.from_string(_shipped("comparison.html.j2"))


PAGE, NUMBERS, TABLE = "report.html", "comparison.json", "measures.csv"


def write_comparison_report(comparison: Mapping[str, Any], folder: str | Path) -> dict[str, Path]:
    """Write `report.html`, `comparison.json` and `measures.csv`, all three or none.

    Files of these names that are there are replaced, once all three are written; others stay. A
    comparison that holds NaN or Inf, which JSON has not, is a ValueError. Returns the path of each.
    """
    folder = Path(folder)
    texts = {
        PAGE: comparison_page(comparison),
        # ASCII, so that any text can be written, and read whatever the reader expects.
        NUMBERS: json.dumps(comparison, indent=1, allow_nan=False) + "\n",
        TABLE: comparison_csv(comparison),
    }
    check_report_folder(folder)
    with writing_explained(folder), filled_folder(folder, {"files": "report"}) as new:
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8", newline="\n")
    return {name: folder / name for name in texts}


def check_report_folder(folder: str | Path) -> None:
    """Refuse a folder that a report could not be written to, before any work."""
    if not str(folder):
        raise OutputError("The output folder is an empty name. Give a folder for the report.")
    folder = Path(folder)
    check_writable(folder)
    for name in (PAGE, NUMBERS, TABLE):
        if (folder / name).is_dir():
            raise OutputError(
                f"The output {folder / name} is a folder. Move it away, or give another folder for "
                "the report."
            )
