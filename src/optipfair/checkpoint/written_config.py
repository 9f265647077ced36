"""The config of a pruned checkpoint: the source's own, with what is new.

Fields keep the spelling that they have in the source, and so does everything that the plan does not
touch, whether transformers knows it or not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files.safetensors_reader import read_config

_DTYPES = ("dtype", "torch_dtype")  # its names in the configs of this and of earlier releases
_ABSENT = object()

Fields = dict[str, Any]


def write_config(source: Path, old: Any, new: Any, folder: Path, dtype: str = "auto") -> None:
    """Write the config of a pruned model: that in the folder `source`, with what is new.

    `old` and `new` are the configs before and after as transformers reads them, all of them or
    their text part; `dtype` is that of all floats, `auto` where they keep theirs.
    """
    fields = read_config(source)
    in_order = list(fields) == sorted(fields)  # as transformers writes them
    before, after = (json.loads(each.to_json_string(use_diff=False)) for each in (old, new))
    _change(_part(fields, old), old, before, after)
    for part in _parts(fields) if dtype != "auto" else ():
        named = [name for name in _DTYPES if name in part]
        part.update(dict.fromkeys(named or (_DTYPES[:1] if part is fields else ()), dtype))
    text = json.dumps(fields, indent=2, ensure_ascii=False, sort_keys=in_order) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _part(fields: Fields, config: Any) -> Fields:
    """The part of the source's fields that a config is of: all of them, or its text part."""
    if fields["model_type"] == config.model_type:
        return fields
    named = [part for part in _parts(fields) if part.get("model_type") == config.model_type]
    text = [part for key in ("text_config", "llm_config") if (part := fields.get(key))]
    return next(iter([*named, *text]), fields)


def _parts(fields: Fields) -> Iterator[Fields]:
    """The fields and those of the configs within them."""
    yield fields
    for key, value in fields.items():
        if key.endswith("_config") and isinstance(value, dict):
            yield from _parts(value)


def _change(fields: Fields, config: Any, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Set in place what differs from `old` to `new`, and take out what is gone."""
    parts = set(getattr(config, "sub_configs", None) or ())
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if before == after or key in ("transformers_version", *_DTYPES):
            continue
        if key in parts and isinstance(before, dict) and isinstance(after, dict):
            inner = fields[key] if isinstance(fields.get(key), dict) else fields
            _change(inner, getattr(config, key), before, after)
        elif after is _ABSENT:
            for name in _spellings(config, key, fields):
                fields.pop(name, None)
        else:
            fields.update(dict.fromkeys(_spellings(config, key, fields), after))


def _spellings(config: Any, key: str, fields: Fields) -> list[str]:
    """The names under which the source holds a field; its own where it does not."""
    known = getattr(config, "attribute_map", None) or {}
    aliases = [alias for alias, name in known.items() if name == key]
    return [name for name in (key, *aliases) if name in fields] or [key]
