"""Printing: tables, JSON, warnings. Results go to standard output, everything else to error."""

from __future__ import annotations

import gc
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from ..errors import PruningWarning


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, show_header=any(header)
    )
    for number, column in enumerate(header):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # Piped output has no width of its own and must not be cut.
    console = Console(
        width=None if sys.stdout.isatty() else 120, highlight=False, markup=False, emoji=False
    )
    console.print(table)


@contextmanager
def importing() -> Iterator[None]:
    """Import what is large. All of it stays: to look for garbage among it takes a second."""
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextmanager
def showing_warnings(quiet: bool) -> Iterator[None]:
    """Print our warnings as one line each on standard error, or not at all."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", PruningWarning)
        yield
    if not quiet:
        for warning in caught:
            click.echo(f"Warning: {warning.message}", err=True)


def show_bars(quiet: bool) -> bool:
    """Whether to show progress bars: on a terminal, unless quiet."""
    return not quiet and sys.stderr.isatty()
