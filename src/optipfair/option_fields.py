"""How a dataclass declares options, and the Python keywords that follow from it.

An option is a field with its default, its section, one line of help and the values it may have.
The command line (`cli/shared_options.py`), recipes and the tables in the docs are made from the
same declaration, so a new option is one field.
"""

from __future__ import annotations

import difflib
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from .registry import same_but_for_case

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """What a field declares beside its name, type and default."""

    help: str  # one line for all who read about it; whole sentences
    section: str = ""  # what it is about; sections group help and recipes
    flag: str | None = ""  # of the command line, None where it has none there
    metavar: str | None = None  # what its value is called in help
    # the names it may have, read when they are shown
    allowed: Callable[[], Sequence[object]] | None = None
    # what the command line takes unasked, where that is not the default
    unasked: str | None = None
    repeatable: bool = False  # whether it is given once for each of its values

    def values(self) -> str | None:
        """What a value looks like: the allowed ones, or a word for them."""
        return self.metavar if self.allowed is None else "|".join(map(str, self.allowed()))


def option(default: Any, help: str, **more: Any) -> Any:  # noqa: A002
    """Declare a field; `more` are fields of `Option`."""
    return field(default=default, metadata={"option": Option(help, **more)})


def declared(options: type, *sections: str) -> dict[str, tuple[Field[Any], Option]]:
    """Name → field and declaration of the options of these sections, of all if none is named."""
    found = {each.name: (each, each.metadata["option"]) for each in fields(options)}
    return {n: both for n, both in found.items() if not sections or both[1].section in sections}


def in_usual_case(options: Any) -> None:
    """Write names that were given in another case as they are allowed; unknown ones stay."""
    for name, (_, declaration) in declared(type(options)).items():
        given = getattr(options, name)
        if declaration.allowed is not None and isinstance(given, str):
            allowed = [each for each in declaration.allowed() if isinstance(each, str)]
            usual = same_but_for_case(given, allowed)
            object.__setattr__(options, name, usual or given)


def flag_of(name: str, declaration: Option) -> str | None:
    """The option of the command line."""
    dashed = f"--{name.replace('_', '-')}"
    return dashed if declaration.flag == "" else declaration.flag


def taking(options: type, *sections: str) -> Callable[[Function], Function]:
    """Give a function the options of these sections as keywords, in its signature and docstring.

    The function takes them as `**more` and turns them into a value with `checked_keywords`.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        more = {
            name: (each, declaration)
            for name, (each, declaration) in declared(options, *sections).items()
            if name not in signature.parameters
        }
        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if each.default is MISSING else each.default,
                annotation=each.type,
            )
            for name, (each, _) in more.items()
        ]
        function.__signature__ = signature.replace(parameters=[*own, *parameters])  # type: ignore[attr-defined]
        written = function.__doc__ or ""
        lines = [
            _described(name, declaration)
            for name, (_, declaration) in declared(options, *sections).items()
            if f"        {name}:" not in written
        ]
        function.__doc__ = written.replace(f"        {OPTIONS}", "\n".join(lines))
        return function

    return decorate


OPTIONS = "(the options)"  # where the docstring of a function lists them


def _described(name: str, declaration: Option) -> str:
    indents = {"initial_indent": " " * 8, "subsequent_indent": " " * 12}
    return textwrap.fill(f"{name}: {declaration.help}", 100, **indents)  # type: ignore[arg-type]


def checked_keywords(function: Callable[..., Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse keywords that a function does not take, as Python does, with the nearest name."""
    known = list(inspect.signature(function).parameters)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function.__name__}() takes no keyword argument {name!r}.{hint}")
    return given
