"""`optipfair.cli.commands`: the command line."""

from optipfair.cli import main
from optipfair.cli.analyze_command import analyze
from optipfair.cli.app import app as cli
from optipfair.cli.prune_command import prune

__all__ = ["analyze", "cli", "main", "prune"]
