"""Fixtures of the command line: run it in this process, and see it refuse."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from optipfair.cli import main

Run = Callable[..., tuple[int, str, str]]
Refuses = Callable[..., None]
Untouched = Callable[[Path], AbstractContextManager[None]]


# What says already by what to choose.
SAID = ("--calibration", "--recipe", "--plan")


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
