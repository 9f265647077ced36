"""A comparison as files: the page, the numbers as JSON, and as a table for spreadsheets."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files.output_folder import check_writable, writing_explained
from .page import comparison_page
from .tables import comparison_csv

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
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with writing_explained(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _replace_all(texts, folder)
        except OSError:
            for each in made:
                with suppress(OSError):  # it is not empty, or not there
                    each.rmdir()
            raise
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


def _replace_all(texts: Mapping[str, str], folder: Path) -> None:
    """Write all texts aside, then put each in its place; after an error all is as before."""
    aside = Path(tempfile.mkdtemp(prefix=".report-", dir=folder))
    done: list[str] = []
    try:
        for name, text in texts.items():
            (aside / name).write_text(text, encoding="utf-8", newline="\n")
        for name in texts:
            if (folder / name).exists():
                (folder / name).rename(aside / f"{name}.old")
            done.append(name)
            (aside / name).rename(folder / name)
    except BaseException:
        for name in done:
            old = aside / f"{name}.old"
            if old.exists():
                old.replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
