"""The command line prints in one place, which escapes what would act on a terminal."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

COMMANDS = sorted(Path(__file__).parents[2].glob("src/optipfair/cli/*.py"))
_PRINTERS = {"echo", "print", "pprint", "print_exc", "secho", "show", "stderr", "stdout", "write"}


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_the_command_line_prints_only_in_output(path: Path) -> None:
    if path.name == "output.py":
        return
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    named |= {node.id for node in nodes if isinstance(node, ast.Name)}
    assert not named & _PRINTERS
