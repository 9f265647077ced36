"""Every command and option of the command line stands in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from optipfair.cli.app import app

ROOT = Path(__file__).parents[2]


def commands(group: click.Group, path: str = "optipfair") -> dict[str, click.Command]:
    """All commands below a group, by the words that call them."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        words = f"{path} {name}"
        found[words] = command
        if isinstance(command, click.Group):
            found |= commands(command, words)
    return found


COMMANDS = commands(app)
OPTIONS = sorted(
    {
        option
        for command in [app, *COMMANDS.values()]
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("-")
    }
)


@pytest.fixture(scope="module")
def documentation() -> str:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(page.read_text(encoding="utf-8") for page in pages if page.is_file())


def test_there_is_something_to_document() -> None:
    assert {"optipfair prune", "optipfair analyze"} <= set(COMMANDS)
    assert {"--model-path", "--overwrite", "--quiet", "--version"} <= set(OPTIONS)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_documented(documentation: str, words: str) -> None:
    assert words in documentation


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_documented(documentation: str, option: str) -> None:
    assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", documentation)
