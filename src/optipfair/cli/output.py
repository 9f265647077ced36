"""The only printer of the command line. Results go to standard output, all else to error.

What is printed may come from other people's files, so nothing in it acts on the terminal; and
what the terminal cannot show, or no longer takes, ends no run.
"""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import click

from ..errors import PruningWarning
from ..visible import visible

# For terminals that know ASCII only.
_PLAIN = str.maketrans(dict(zip("─–−×⟨⟩’“”", '---x<>\'""', strict=True)))  # noqa: RUF001


def say(text: str = "", *, err: bool = False) -> None:
    """Print a line, or several, as the terminal can show them."""
    stream = sys.stderr if err else sys.stdout
    if stream is None:  # closed before the program began
        return
    try:
        stream.write(_as_shown(visible(text), stream.encoding or "utf-8") + "\n")
        stream.flush()
    except OSError as exc:  # nobody reads on, or the disk is full
        _forget(stream)
        if not (err and isinstance(exc, BrokenPipeError)):
            raise


def _as_shown(text: str, encoding: str) -> str:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    return text


def _forget(stream: TextIO) -> None:
    """Let what else is written to a stream go nowhere, at the end of the program too."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def careful_streams() -> Iterator[None]:
    """Let nothing that others print (help, bars) fail for its characters, nor for its reader."""
    changed: list[tuple[Any, str | None]] = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            changed.append((stream, stream.errors))
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in changed:
            try:
                stream.flush()
            except OSError:
                _forget(stream)
            stream.reconfigure(errors=errors)


def say_usage(error: click.ClickException) -> None:
    """Say what click refuses, with the usage of the command."""
    context = getattr(error, "ctx", None)
    if context is not None:
        say(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n", err=True)
    say(f"Error: {error.format_message()}", err=True)


def print_json(value: Any) -> None:
    """Print plain data; every character that a terminal could act on is escaped as JSON does."""
    say(json.dumps(value, indent=2, allow_nan=False).replace("\x7f", "\\u007f"))


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=title and visible(title),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_header=any(header),
    )
    for number, column in enumerate(header):
        side = "left" if number == 0 else "right"
        table.add_column(visible(column), justify=side, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*map(visible, row))
    held = io.StringIO()
    options: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    Console(file=held, width=_width(), **options).print(table)
    say("\n".join(line.rstrip() for line in held.getvalue().splitlines()))


def _width() -> int:
    """Columns of the terminal; piped output has no width of its own and must not be cut."""
    shown = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if shown else 120


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
        for message in dict.fromkeys(str(warning.message) for warning in caught):
            say(f"Warning: {message}", err=True)


def show_bars(quiet: bool) -> bool:
    """Whether to show progress bars: on a terminal, unless quiet."""
    return not quiet and sys.stderr is not None and sys.stderr.isatty()
