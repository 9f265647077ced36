"""Results as values: frozen dataclasses that read as dicts.

A field is a key. One whose key is a word of Python or a method of dicts ends in an underscore
(`from_`, `items_`). For the JSON Schema that `tools/schemas.py` makes, `Annotated[int,
Rules(minimum=0), "of tokens"]` adds keywords and a description to a field's schema, a class's
`SCHEMA` to that of the class. Descriptions may also stand in the docstring, under *Attributes*.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Self, Union, dataclass_transform, get_args, get_origin
from typing import get_type_hints as _hints

from .errors import DataError


class Rules(dict[str, Any]):
    """Keywords of JSON Schema for `Annotated`; hashable, as the types of a union must be."""

    __hash__ = object.__hash__  # type: ignore[assignment]


ABSENT = {"absent": True}  # metadata of a field that has no key where it is None
Count = Annotated[int, Rules(minimum=0)]
Probability = Annotated[float, Rules(minimum=0, maximum=1)]


def spread(pattern: str) -> dict[str, str]:
    """Metadata of a dict whose entries stand among the keys of its class, such as `pair_1`."""
    return {"spread": pattern}


def _refuse(*_: Any, **__: Any) -> Any:
    raise TypeError("A result cannot be changed. Change the plain data that to_dict() gives.")


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
class Result(dict[str, Any]):
    """The base of results: each class that derives from it becomes a frozen dataclass.

    It is a dict, so that whoever indexes it, iterates over it or gives it to `json.dumps` can.
    """

    SCHEMA: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, eq=False)(cls)

    def __post_init__(self) -> None:
        super().__init__(_entries(self))

    __setitem__ = __delitem__ = __ior__ = update = _refuse
    pop = popitem = clear = setdefault = _refuse

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, each.name) for each in fields(self))  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, all the way down."""
        return {key: plain(value) for key, value in self.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave, also where a file holds keys of another version."""
        given: dict[str, Any] = {}
        for name, key, kind, metadata in keys_of(cls):
            if "spread" in metadata:
                found = {k: v for k, v in data.items() if re.search(metadata["spread"], k)}
                given[name] = _read(kind, found)
            elif key in data:
                given[name] = _read(kind, data[key])
        needed = [each for each in fields(cls) if each.default is each.default_factory is MISSING]  # type: ignore[arg-type]
        missing = [each.name.rstrip("_") for each in needed if each.name not in given]
        if missing:
            raise DataError(f"{cls.__name__}: the data have no {', '.join(missing)}.")
        return cls(**given)


OtherNames = Mapping[str, Callable[[Mapping[str, Any]], Any]]  # what each reads of the dict


class AlsoNamed(dict[str, Any]):
    """Plain data that answers to other names too; it is iterated over and written without them."""

    ALSO: ClassVar[OtherNames] = {}

    def __missing__(self, key: str) -> Any:
        return self.ALSO[key](self)  # KeyError for a name that nothing has

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self.ALSO

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401  (this is `get`)


def _entries(result: Result) -> Iterator[tuple[str, Any]]:
    for name, key, _, metadata in keys_of(type(result)):
        value = getattr(result, name)
        if "spread" in metadata:
            yield from value.items()
        elif value is not None or not metadata.get("absent"):
            yield key, value


@cache
def keys_of(result: type[Result]) -> tuple[tuple[str, str, Any, Mapping[str, Any]], ...]:
    """Of each field its name, key, type and metadata."""
    types = _hints(result, include_extras=True)
    names = ((each.name, each.metadata) for each in fields(result))  # type: ignore[arg-type]
    return tuple((name, name.rstrip("_"), types[name], metadata) for name, metadata in names)


def plain(value: Any) -> Any:
    """Dicts and lists all the way down."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _read(kind: Any, value: Any) -> Any:
    """Plain data as a value of a type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _read(inner[0], value)
    if origin in (Union, UnionType):
        fitting = (each for each in inner if is_result(each) or get_args(each))
        return None if value is None else _read(next(fitting, Any), value)
    if origin is list:
        return [_read(inner[0], each) for each in value]
    if origin is dict:
        return {key: _read(inner[1], each) for key, each in value.items()}
    return kind.from_dict(value) if is_result(kind) else value


def is_result(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Result)
