"""Arguments that are checked in many places: whole numbers, flags, seeds, layers, scores.

It loads without torch.
"""

from __future__ import annotations

import math
import numbers
import operator
import os.path
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

_LAYER_KEY = re.compile(r"(?P<component>\w+)_layer_(?P<layer>0|[1-9][0-9]*)")
DTYPES = ("auto", "float32", "float16", "bfloat16")
# Calibration text that is no file and no dataset.
BUILTIN_TEXT, SELF_WRITTEN, NO_TEXT = "builtin", "self", "none"


def is_file(path: str | Path) -> bool:
    """Whether a file has this name; a name that no system takes is that of none."""
    return os.path.isfile(path)  # noqa: PTH113 - a Path raises where a name is too long


def is_folder(path: str | Path) -> bool:
    """Whether a folder has this name; a name that no system takes is that of none."""
    return os.path.isdir(path)  # noqa: PTH112 - a Path raises where a name is too long


def check_layer_count(name: str, value: object, total: int | None = None) -> int:
    """Return a number of layers as an int, at least 1 and below `total`."""
    allowed = f"1 to {total - 1}" if total is not None else "1 or more"
    if total == 1:
        raise ArgumentError("The model has one layer; removing it would leave none.")
    count = whole_number(value)
    if count is None:
        raise ArgumentError(f"{name}={value!r} {not_whole(value)}. Give one from {allowed}.")
    if count < 1 or (total is not None and count >= total):
        raise ArgumentError(f"{name}={count} is outside what is possible: {allowed}.")
    return count


def check_layer_indices(name: str, values: object, total: int | None = None) -> list[int]:
    """Return layer indices as sorted ints: distinct, and in range where `total` is known."""
    last = "the last layer" if total is None else total - 1
    way_out = f"Give distinct indices from 0 to {last}, for example [0, 1]."
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ArgumentError(f"{name}={values!r} is no sequence of layer indices. {way_out}")
    given = list(values) if getattr(values, "ndim", 1) else [values]
    indices = [whole_number(value) for value in given]
    wrong = [value for value, index in zip(given, indices, strict=True) if index is None]
    if wrong:
        raise ArgumentError(
            f"Invalid layer indices: {name} holds {wrong[0]!r}, which is no whole number. {way_out}"
        )
    found = sorted(index for index in indices if index is not None)
    if not found:
        raise ArgumentError(f"{name} cannot be an empty list. {way_out}")
    outside = [index for index in found if index < 0 or (total is not None and index >= total)]
    if outside:
        layers = "" if total is None else f", but the model has {total} layers"
        raise ArgumentError(f"Invalid layer indices: {name} holds {outside}{layers}. {way_out}")
    repeated = sorted({index for index in found if found.count(index) > 1})
    if repeated:
        raise ArgumentError(f"{name} holds duplicates: {repeated} more than once. {way_out}")
    return found


def check_layers_to_remove(name: str, values: object, total: int) -> list[int]:
    """`check_layer_indices`, and one layer at least must stay."""
    found = check_layer_indices(name, values, total)
    if len(found) == total:
        raise ArgumentError(
            f"{name} names all {total} layers; at least one must stay. Give fewer of them."
        )
    return found


def whole_number(value: object) -> int | None:
    """The value as an int if it is one (Python, numpy or tensor), not a bool or a float.

    A number of more than 64 bits counts nothing, and is None too.
    """
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
        return None
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
    return number if -(2**64) < number < 2**64 else None


def not_whole(value: object) -> str:
    """What a value is said to be that `whole_number` does not take."""
    large = isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**64
    return "has more than 64 bits; it must be a whole number" if large else "is no whole number"


def real_number(value: object) -> float | None:
    """The value as a float if it is a finite real number that a float can hold, and no bool."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def split_layer_key(text: object) -> tuple[str, int] | None:
    """The component and the layer that a key such as `mlp_output_layer_3` names."""
    match = _LAYER_KEY.fullmatch(text) if isinstance(text, str) else None
    return None if match is None else (match["component"], int(match["layer"]))


def check_count(name: str, value: object, least: int = 1) -> int:
    """Return a whole number of at least so much as an int."""
    number = whole_number(value)
    if number is None or number < least:
        raise ArgumentError(f"{name}={value!r} {not_whole(value)} of {least} or more. Give one.")
    return number


def check_flag(name: str, value: object, *, default: bool) -> bool:
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ArgumentError(f"{name}={value!r} is neither True nor False.")
    return value


def check_seed(seed: object) -> int:
    number = whole_number(seed)
    if number is None or not 0 <= number < 2**64:
        raise ArgumentError(
            f"seed={seed!r} is no whole number from 0 to 2**64 - 1. Give one, for example 0."
        )
    return number


def read_scores(name: str, given: object, meaning: str = "higher is kept") -> dict[int, Tensor]:
    """Read scores by layer: tensors, arrays or lists of finite real numbers, (I,) or (E, I).

    They become contiguous float64 on the CPU. `meaning` is said to whoever gives others.
    """
    way_out = f"Give a dict of layer index → one score for each neuron; {meaning}."
    if not isinstance(given, Mapping) or not given:
        what = "is empty" if given == {} else f"is a {type(given).__name__}"
        raise ArgumentError(f"{name} {what}. {way_out}")
    found: dict[int, Tensor] = {}
    for key, values in given.items():
        layer = whole_number(key)
        if layer is None or layer < 0 or layer in found:
            raise ArgumentError(
                f"{name} has the key {key!r}, which is no index of a layer, or there twice. "
                f"{way_out}"
            )
        found[layer] = _read(f"{name}[{layer}]", values, way_out)
    return found


def _read(name: str, values: object, way_out: str) -> Tensor:
    import numpy as np
    import torch

    try:
        tensor = (
            values.detach()
            if isinstance(values, torch.Tensor)
            else torch.tensor(np.ascontiguousarray(values))
        )
        real = not tensor.is_complex() and tensor.dtype != torch.bool
        tensor = tensor.to("cpu", torch.float64).contiguous() if real else tensor
    except (TypeError, ValueError, RuntimeError) as exc:
        raise ArgumentError(f"{name} cannot be read as numbers ({exc}). {way_out}") from exc
    if not real:
        raise ArgumentError(f"{name} is of {tensor.dtype}; scores are real numbers. {way_out}")
    if not bool(tensor.isfinite().all()):
        raise ArgumentError(f"{name} holds NaN or Inf. Give finite scores.")
    return tensor
