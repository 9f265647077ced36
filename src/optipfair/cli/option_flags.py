"""Options of the command line, made from a dataclass of options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import click
from click.core import ParameterSource

from ..option_fields import Option, declared, flag_of


class Numbers(click.ParamType[list[int]]):
    """Whole numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            return [int(part) for part in value.split(",")]
        except ValueError:
            self.fail(
                f"{value!r} is no list of layer numbers. Give them with commas, for example "
                '"2,5,8".'
            )


class Names(click.ParamType[list[str]]):
    """Names with commas between them."""

    name = "names"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[str]:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def flags(options: type, *sections: str) -> Callable[[Any], Any]:
    """Give a command an option for each field that has a flag, in the order of the fields."""
    kinds = get_type_hints(options)
    made = [
        _flag(name, flag, kinds[name], each.default, declaration)
        for name, (each, declaration) in declared(options, *sections).items()
        if (flag := flag_of(name, declaration)) is not None
    ]

    def decorate(command: Any) -> Any:
        for option in reversed(made):
            command = option(command)
        return command

    return decorate


def _flag(name: str, flag: str, kind: Any, default: Any, declaration: Option) -> Any:
    told: dict[str, Any] = {"default": default, "help": declaration.help}
    whole = str(kind)
    if "bool" in whole and "str" not in whole:
        if default is False:
            return click.option(flag, name, is_flag=True, **told)
        return click.option(f"{flag}/--no-{flag[2:]}", name, **told)
    if declaration.repeatable:
        told["multiple"] = True
    elif "Sequence[str]" in whole:
        told["type"] = Names()
    elif "Sequence" in whole:
        told["type"] = Numbers()
    elif "float" in whole:
        told["type"] = float
    elif "int" in whole and "str" not in whole:
        told["type"] = int
    shown = default is not None
    return click.option(flag, name, show_default=shown, metavar=declaration.values(), **told)


def given(options: type) -> dict[str, Any]:
    """The fields that the running command was given, as they were read."""
    context = click.get_current_context()
    return {
        name: context.params[name]
        for name in declared(options)
        if name in context.params
        and context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
