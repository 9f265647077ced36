"""Write the tables of options into the docs, from the values that declare them.

A test compares the two.
"""

from __future__ import annotations

from pathlib import Path

from optipfair.export.export_options import ExportOptions
from optipfair.neutralising.neutralise_options import NeutraliseOptions
from optipfair.option_fields import declared, flag_of
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.recovery.recover_options import RecoverOptions
from optipfair.search.search_options import SearchOptions

_DOCS = Path(__file__).parents[1] / "docs"
PAGES: dict[Path, type] = {
    _DOCS / "command-line.md": PruneOptions,
    _DOCS / "recovery.md": RecoverOptions,
    _DOCS / "fairness.md": NeutraliseOptions,
    _DOCS / "export.md": ExportOptions,
    _DOCS / "search.md": SearchOptions,
}
_BEGIN, _END = "<!-- options, by tools/option_table.py -->\n", "<!-- end of the options -->\n"


def table(options: type) -> str:
    """A row for each option: its flag, its keyword, the default, and what it does."""
    rows = ["| option | Python keyword, recipe | default | meaning |", "|---|---|---|---|"]
    for name, (each, declaration) in declared(options).items():
        flag = flag_of(name, declaration)
        shown = "" if flag is None else f"`{flag}`"
        if flag is not None and each.type in ("bool", "bool | None") and each.default is not False:
            shown += f", `--no-{flag[2:]}`"
        default = "" if each.default is None else f"`{each.default}`"
        if declaration.unasked is not None:
            default = f"{default or 'none'}; on the command line {declaration.unasked}"
        values = "" if declaration.allowed is None else _listed(declaration.allowed())
        rows.append(f"| {shown} | `{name}` | {default} | {declaration.help}{values} |")
    return "\n".join(rows) + "\n"


def _listed(values: object) -> str:
    return " One of " + ", ".join(f"`{value}`" for value in values) + "."  # type: ignore[attr-defined]


def page_with_table(page: Path) -> str:
    """The page with its table in it."""
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    return f"{before}{_BEGIN}\n{table(PAGES[page])}\n{_END}{rest.partition(_END)[2]}"


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(page_with_table(each), encoding="utf-8")
