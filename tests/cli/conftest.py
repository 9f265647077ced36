"""Fixtures of the command line: run it in this process, and see it refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from optipfair.cli import main
from optipfair.pruning.calibration import text_sources

Run = Callable[..., tuple[int, str, str]]
Refuses = Callable[..., None]
Untouched = Callable[[Path], AbstractContextManager[None]]


# What says already by what to choose.
SAID = ("--calibration", "--recipe", "--plan")


@pytest.fixture(autouse=True, scope="module")
def little_bundled_text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A tenth of each domain of the bundled text: toys make a token of each byte of it."""
    whole = text_sources._BUILTIN_FILE
    lines = whole.read_text(encoding="utf-8").split("\n")
    rows = [row | {"text": row["text"][:400]} for row in map(json.loads, filter(None, lines))]
    little = tmp_path_factory.mktemp("text") / whole.name
    little.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_sources, "_BUILTIN_FILE", little)
        yield


@pytest.fixture
def run(run_as_given: Run) -> Run:
    """The same, where weights alone choose unless the test says otherwise: toys need no data."""

    def call(*arguments: object) -> tuple[int, str, str]:
        said = any(str(each).partition("=")[0] in SAID for each in arguments)
        weights = () if said or arguments[:1] != ("prune",) else ("--calibration", "none")
        return run_as_given(*arguments, *weights)

    return call


@pytest.fixture
def run_as_given(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line; return exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def refuses(run: Run, tmp_path: Path, untouched: Untouched) -> Refuses:
    """One clear sentence on standard error, exit code 2, and nothing written."""

    def check(match: str, *arguments: object) -> None:
        with untouched(tmp_path):
            code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        sentence = err.splitlines()[-1]
        assert sentence.startswith("Error: ")
        assert err.count("\nError: ") + err.startswith("Error: ") == 1
        assert "Traceback" not in err
        assert re.search(match, sentence), sentence

    return check
