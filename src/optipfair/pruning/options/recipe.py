"""Recipes: what was asked for as a YAML file, which `optipfair prune --recipe` does again.

A recipe is one list of names and values: the model, a plan if one is carried out, and the fields of
`PruneOptions`. Every folder that is written holds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...errors import ArgumentError
from ...files.foreign import read_text, reading
from ...option_fields import declared
from ...registry import unknown_name
from .prune_options import PruneOptions

RECIPE_FILE = "recipe.yaml"
_LARGEST = 10**6  # bytes
_PYTHON_ONLY = "given_in_python"
_BESIDE = ("model_path", "plan", "preset", _PYTHON_ONLY)
_WAY_OUT = "Write one `name: value` in each line, as in the recipe.yaml of a pruned model"


def recipe_text(model_path: str, options: PruneOptions, **beside: Any) -> str:
    """Write a recipe for a model, as it was named.

    Beside the options it may hold `plan`, the file that was carried out, and `given_in_python`, the
    names of what no file can hold.
    """
    lines = [
        f"# Made by optipfair {__version__}. To run it again:",
        f"# optipfair prune --recipe {RECIPE_FILE} --output-path FOLDER",
        *_lines({"model_path": model_path, **{k: v for k, v in beside.items() if v}}),
    ]
    for section in dict.fromkeys(each.section for _, each in declared(PruneOptions).values()):
        values = {name: getattr(options, name) for name in declared(PruneOptions, section)}
        lines += ["", f"# {section}", *_lines(values)]
    return "\n".join(lines) + "\n"


def _lines(values: Mapping[str, Any]) -> list[str]:
    import yaml

    def written(value: Any) -> str:
        text: str = yaml.safe_dump(_plain(value), default_flow_style=True, width=_LARGEST)
        return text.removesuffix("...\n").rstrip()

    return [f"{name}: {written(value)}" for name, value in values.items() if value is not None]


def _plain(value: Any) -> Any:
    """Numbers of arrays and tensors as Python's own, paths as text, sequences as lists."""
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else [_plain(each) for each in value]


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read a recipe: the names and values that it gives, unchecked but for the names."""
    import yaml

    with reading(f"The recipe {path}", ArgumentError, f"{_WAY_OUT}."):
        text = read_text(Path(path), _LARGEST)
    with reading(f"The recipe {path}", ArgumentError, f"{_WAY_OUT}."):
        values = _values(path, yaml.compose(text, Loader=yaml.SafeLoader))
    if values.get(_PYTHON_ONLY):
        raise ArgumentError(
            f"The recipe {path} was made in Python with {', '.join(values[_PYTHON_ONLY])}, which "
            "no file can hold. Give calibration text instead, or carry out pruning_plan.json "
            f"(--plan), and take out the line {_PYTHON_ONLY!r}."
        )
    return {name: value for name, value in values.items() if name != _PYTHON_ONLY}


def _values(path: str | Path, root: Any) -> dict[str, Any]:
    import yaml

    if not isinstance(root, yaml.MappingNode):
        raise ArgumentError(f"The recipe {path} holds no names with values. {_WAY_OUT}.")
    known = [*_BESIDE, *(each.name for each in fields(PruneOptions))]
    values: dict[str, Any] = {}
    for key, node in root.value:
        where = f"{path}, line {key.start_mark.line + 1}"
        if key.value not in known:
            raise ArgumentError(f"{where}: {unknown_name('name', key.value, known)}")
        if key.value in values:
            raise ArgumentError(f"{where}: {key.value!r} stands twice. Leave one of them out.")
        values[key.value] = _value(where, key.value, node)
    return values


def _value(where: str, name: str, node: Any) -> Any:
    """A text, number, truth value or nothing, or a list of them."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return [_value(where, name, each) for each in node.value]
    if isinstance(node, yaml.ScalarNode):
        try:
            value = yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError) as exc:
            raise ArgumentError(f"{where}: {name} cannot be read: {exc}. {_WAY_OUT}.") from exc
        if value is None or isinstance(value, str | int | float):
            return value
    raise ArgumentError(f"{where}: {name} is no text, number, true, false or list. {_WAY_OUT}.")
