"""The command line: parse, call, print. No rule of its own; errors become exit codes.

0 done   1 failed while working   2 refused before anything changed
3 a condition of --fail-if holds   130 interrupted

Of several processes that a launcher has started the first prints; another one says only what the
first cannot know.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from ..distributed import launched_rank
from ..errors import ArgumentError, OptiPFairError
from ..visible import is_utf8
from .app import app
from .output import careful_streams, say, say_usage

# The module path of the published package, `optipfair.cli.commands`.
__path__.append(str(Path(__file__).parents[1] / "compat" / "cli"))

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
_LONGEST = 2000  # characters of an error: what was given may be as long as a file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; never a traceback for a user's mistake."""
    with careful_streams():
        return _run(sys.argv[1:] if arguments is None else list(arguments))


def _run(arguments: list[str]) -> int:  # noqa: PLR0911
    try:
        _check_text(arguments)
        with app.make_context("optipfair", arguments) as context:
            code = app.invoke(context)
        return code if isinstance(code, int) else DONE
    except click.exceptions.Exit as exc:  # of --help and --version
        return exc.exit_code
    except click.ClickException as exc:
        if launched_rank() == 0:
            say_usage(exc)
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail("Interrupted.", INTERRUPTED)
    except OptiPFairError as exc:
        code = REFUSED if isinstance(exc, ValueError) else FAILED
        return _fail(str(exc), code) if launched_rank() == 0 else code
    except MemoryError:
        return _fail("Out of memory. Try a smaller --dtype or a machine with more.", FAILED)
    except BrokenPipeError:  # nobody reads the results, which are printed when all is done
        return FAILED
    except (OSError, RuntimeError) as exc:  # disk and device; nothing half done is left
        parts = " ".join([str(exc), *getattr(exc, "__notes__", ())]).split()
        return _fail(f"{type(exc).__name__}: {' '.join(parts)}", FAILED)


def _check_text(arguments: Sequence[str]) -> None:
    """Refuse bytes that are no text: tokenizers, cards and recipes cannot name such a file."""
    for given in arguments:
        if not is_utf8(given):
            raise ArgumentError(f"{given!r} is not in UTF-8. Give the file another name.")


def _fail(message: str, code: int) -> int:
    process = launched_rank()
    line = " ".join(message.splitlines())  # names in files of others may hold line ends
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    say(f"Error: {f'process {process}: ' if process else ''}{line}", err=True)
    return code
