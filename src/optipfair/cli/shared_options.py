"""Options of the command line, made from a dataclass of options; and what commands share."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import click
from click.core import ParameterSource

from ..distributed import launched
from ..evaluation.evaluate_options import EvaluateOptions
from ..loading.sources import usual_cache
from ..option_fields import Option, declared, flag_of
from .output import say, show_bars, showing_warnings


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
    shown = declaration.unasked or default is not None
    told: dict[str, Any] = {"default": default, "help": declaration.help, "show_default": shown}
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
    return click.option(flag, name, metavar=declaration.values(), **told)


def given(options: type) -> dict[str, Any]:
    """The fields that the running command was given, as they were read."""
    context = click.get_current_context()
    return {
        name: context.params[name]
        for name in declared(options)
        if name in context.params
        and context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }


T = TypeVar("T")

model_option = click.option(
    "--model-path",
    required=True,
    help='Folder, hub id, .gguf file, or "demo" for the embedded model.',
)
device_option = click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Where to work: cpu, cuda, cuda:1, mps, or auto for an accelerator if there is one.",
)
dtype_option = click.option(
    "--dtype",
    default="auto",
    show_default=True,
    metavar="auto|float32|float16|bfloat16",
    help="Type of the weights; auto keeps the checkpoint's.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
trust_option = click.option(
    "--trust-remote-code", is_flag=True, help="Allow code from the model's repository to run."
)
verbose_option = click.option(
    "--verbose/--quiet", default=True, help="Show progress and results, or nothing."
)


def running_options(command: Any) -> Any:
    """Where to work and what to print: what commands that run a model share."""
    for option in (verbose_option, json_option, trust_option, dtype_option, device_option):
        command = option(command)
    return command


def measured_by_name(
    run: Callable[..., T], *names: str, given: Mapping[str, Any], quiet: bool, **more: Any
) -> T:
    """Let `run` measure models by name, as the running command was asked to."""
    loading = {name: given[name] for name in ("device", "dtype", "trust_remote_code")}
    told = None if quiet else partial(say, err=True)
    with showing_warnings(quiet), launched(given["device"]):
        return run(*names, options=_asked(quiet), say=told, **loading, **more)


def _asked(quiet: bool) -> EvaluateOptions:
    """What the running command is to measure; scores are kept unless it says `none`."""
    values = given(EvaluateOptions)
    folder = values.pop("cache_dir", usual_cache())
    return EvaluateOptions(
        **values,
        cache_dir=None if folder == "none" else folder,
        command=command_line(),
        show_progress=show_bars(quiet),
    )


def command_line() -> str:
    """The running command for others to read: of files of this machine only the names."""
    return shlex.join(["optipfair", *map(_without_folders, sys.argv[1:])])


def _without_folders(argument: str) -> str:
    option, equals, value = (
        argument.partition("=") if argument.startswith("--") else ("", "", argument)
    )
    path = Path(value)
    local = value.startswith(("/", "./", "../", "~")) or path.is_absolute() or path.parent.is_dir()
    return f"{option}{equals}{path.name or value}" if local and path.name else argument
