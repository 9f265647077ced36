"""The JSON Schemas that ship with the package, made from the classes of results.

`python tools/schemas.py` writes them; a test compares each with its class.
"""

from __future__ import annotations

import json
import re
from inspect import getdoc
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from optipfair.bias.study_comparison import StudyComparison
from optipfair.bias.study_results import BiasMetrics
from optipfair.report.comparison import Comparison
from optipfair.results import Result, is_result, keys_of

SOURCE = Path(__file__).parents[1] / "src" / "optipfair"
SCHEMAS: dict[str, type[Result]] = {
    "report/comparison.schema.json": Comparison,
    "bias/bias_metrics.schema.json": BiasMetrics,
    "bias/bias_comparison.schema.json": StudyComparison,
}

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}


def text_of(name: str) -> str:
    """What the schema of this name must hold."""
    schema = schema_of(SCHEMAS[name], Path(name).name.replace(".schema", ""))
    return json.dumps(schema, indent=2) + "\n"


def schema_of(result: type[Result], title: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what a class of results is written as."""
    definitions: dict[str, Any] = {}
    whole = _object(result, definitions)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return {**head, **whole, "$defs": dict(sorted(definitions.items()))}


def _object(result: type[Result], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a class, keys that must be there and no others."""
    text = getdoc(result) or ""
    about = {
        name: " ".join(line.split())
        for names, line in re.findall(r"^    (\w[\w, ]*): ((?:.|\n     +)+)", text, re.MULTILINE)
        for name in names.split(", ")
    }
    schema: dict[str, Any] = {
        "type": "object", "description": text.split("\n\n")[0].replace("\n", " "),
        "properties": {}, "required": [], "additionalProperties": False,
    }  # fmt: skip
    for name, key, kind, metadata in keys_of(result):
        if "spread" in metadata:
            schema["patternProperties"] = {
                metadata["spread"]: _type(get_args(kind)[1], definitions)
            }
            continue
        described = {"description": about[name]} if name in about else {}
        schema["properties"][key] = _type(kind, definitions) | described
        schema["required"] += [] if metadata.get("absent") else [key]
    return schema | dict(result.SCHEMA)


def _type(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, inner = get_origin(kind), get_args(kind)
    schema: dict[str, Any] = {}
    if origin is Annotated:
        schema = _type(inner[0], definitions)
        for more in inner[1:]:
            schema |= {"description": more} if isinstance(more, str) else more
    elif origin is Literal:
        schema = {"const": inner[0]} if len(inner) == 1 else {"enum": list(inner)}
    elif origin in (Union, UnionType):
        schema = {"anyOf": [_type(each, definitions) for each in inner]}
    elif origin is list:
        schema = {"type": "array", "items": _type(inner[0], definitions)}
    elif origin is tuple:
        items = [_type(each, definitions) for each in inner]
        schema = {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    elif origin is dict:
        names = {} if inner[0] is str else {"propertyNames": _type(inner[0], definitions)}
        schema = {"type": "object", **names, "additionalProperties": _type(inner[1], definitions)}
    elif is_result(kind):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = _object(kind, definitions)
        schema = {"$ref": f"#/$defs/{kind.__name__}"}
    elif kind is not Any:
        schema = {"type": _TYPES[kind]}
    return schema


if __name__ == "__main__":
    for name in SCHEMAS:
        (SOURCE / name).write_text(text_of(name), encoding="utf-8")
