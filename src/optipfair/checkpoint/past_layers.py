"""Layers past the last one of a model: some predict further tokens, some a cut config left over."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PREDICTING = re.compile(r"(^|\.)(mtp|nextn)")  # in names
_COUNTING = re.compile("num|layers|modules")  # in names of fields


def is_named_so(name: str) -> bool:
    """Whether a tensor's name says that it is of a part that predicts further tokens."""
    return _PREDICTING.search(name) is not None


def fields_of_predictions(text_config: Any) -> dict[str, int]:
    """The fields of a config that count such parts."""
    fields = {name: value for name, value in vars(text_config).items() if type(value) is int}
    named = (name for name in fields if re.search("mtp|nextn", name) and _COUNTING.search(name))
    return {name: fields[name] for name in named}


def predicting_layers(layers: Mapping[str, int | None], last: int, counted: int) -> list[int]:
    """The layers from number `last` on that predict further tokens, in order.

    They are the `counted` last ones, and those that hold what none of the model's layers does.
    `layers` says of each tensor to which it belongs.
    """
    parts: dict[int, set[str]] = {}
    for name, layer in layers.items():
        if layer is not None:
            parts.setdefault(layer, set()).add(re.sub(rf"^.*?\.{layer}\.", "", name))
    known = set().union(*(own for layer, own in parts.items() if layer < last))
    past = sorted(layer for layer in parts if layer >= last)
    sure = past[-counted:] if counted > 0 else []
    return [layer for layer in past if layer in sure or not parts[layer] <= known]
