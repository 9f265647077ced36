"""The house: its floors, and the picture of its rooms, drawn from the code.

`python tools/house.py` writes the picture into `docs/architecture.md`; a test compares the two.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "optipfair"
PAGE = ROOT / "docs" / "architecture.md"
_BEGIN, _END = "<!-- drawn by tools/house.py -->\n", "<!-- end of the drawing -->\n"

# What stands directly in `optipfair`, from the ground up. Code imports from lower floors and from
# its own; two rooms of one floor do not import from each other.
_GROUND = """_version errors results registry option_fields checking batches hooks progress
    distributed memory uncertainty certainty visible tokenized noted devices"""
FLOORS = (
    ("the ground: it knows no models", _GROUND.split()),
    ("bytes and folders", ["files"]),
    ("what a model is made of", ["arch"]),
    ("models, loaded or made up", ["loading", "testing"]),
    ("results for people", ["report"]),
    ("decide, then cut; what changes between two prompts", ["pruning", "bias"]),
    (
        "the same plan on disk; is it still good, fair, faster; what training gives back",
        ["checkpoint", "evaluation", "recovery", "neutralising", "search"],
    ),
    ("from a name to a folder; what pruning would save", ["pipeline", "analysis"]),
    ("the demonstration; models for other engines", ["demo", "export"]),
    ("the command line", ["cli"]),
    ("names of the published package", ["compat"]),
)


def floor_of(module: str) -> int:
    """The floor of a module, by the first part of its dotted name."""
    first = module.split(".", maxsplit=1)[0]
    return next(number for number, (_, names) in enumerate(FLOORS) if first in names)


def modules() -> dict[str, Path]:
    """Dotted name below `optipfair` → file, packages' own `__init__` left out."""
    paths = sorted(path for path in SOURCE.rglob("*.py") if not path.stem.startswith("__"))
    return {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in paths}


def imports_of(path: Path) -> set[str]:
    """Dotted names below `optipfair` that a module imports anywhere, for types alone aside.

    Relative or by the whole name, as those must that are found by two names (`compat`).
    """
    package = path.relative_to(SOURCE).parts[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only or not isinstance(node, ast.ImportFrom):
            continue
        base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
        if not node.level:
            root, *base = (node.module or "").split(".")
            if root != "optipfair":
                continue
        target = [part for part in base if part]
        for alias in node.names:
            is_module = SOURCE.joinpath(*target, f"{alias.name}.py").exists()
            names.add(".".join([*target, alias.name] if is_module else target))
    return names


def drawing() -> str:
    """The tree of all rooms and files, each with the first line of its docstring."""
    lines = ["    src/optipfair/"]
    for number, (title, names) in enumerate(FLOORS):
        lines += ["", f"    {number}  {title}"]
        for name in names:
            package = SOURCE / name
            lines += _room(package, 1) if package.is_dir() else [_line(f"{package}.py", 1)]
    return "\n".join(lines) + "\n"


def _room(folder: Path, depth: int) -> Iterator[str]:
    yield _line(folder / "__init__.py", depth, f"{folder.name}/")
    inside = [path for path in folder.iterdir() if _is_drawn(path)]
    for path in sorted(inside, key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir():
            yield from _room(path, depth + 1)
        else:
            yield _line(path, depth + 1)


def _is_drawn(path: Path) -> bool:
    return (path / "__init__.py").exists() or (
        path.suffix == ".py" and not path.stem.startswith("__")
    )


def _line(path: str | Path, depth: int, name: str | None = None) -> str:
    docstring = ast.get_docstring(ast.parse(Path(path).read_text(encoding="utf-8"))) or ""
    label = "    " * depth + (name or Path(path).name)
    return f"    {label:34} {_first_sentence(docstring)}".rstrip()


def _first_sentence(docstring: str) -> str:
    paragraph = " ".join(docstring.split("\n\n", maxsplit=1)[0].split())
    return paragraph.split(". ")[0].rstrip(".")


def page_with(drawn: str) -> str:
    """The architecture page with this drawing in it."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(_BEGIN)
    return f"{before}{_BEGIN}\n{drawn}\n{_END}{rest.partition(_END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page_with(drawing()), encoding="utf-8")
