"""Comparisons of small models, and what a model reads meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

from optipfair import compare_models
from optipfair.testing import byte_tokenizer

VALIDATOR = Draft202012Validator(
    json.loads(files("optipfair.report").joinpath("comparison.schema.json").read_text())
)
QUICK: dict[str, Any] = {
    "speed": False, "layers": False, "generation": False, "max_new_tokens": 3
}  # fmt: skip
WHOLE: dict[str, Any] = {"max_new_tokens": 3, "num_runs": 2, "limit": 3}


def compared(original: Any, pruned: Any, **options: Any) -> dict[str, Any]:
    """A comparison, which must be strict JSON and what the schema says."""
    found = compare_models(original, pruned, byte_tokenizer(), **options)
    VALIDATOR.validate(json.loads(json.dumps(found, allow_nan=False)))
    return found


def verdict(found: dict[str, Any], question: str) -> str:
    (each,) = [each for each in found["verdicts"] if each["question"] == question]
    return str(each["verdict"])


@contextmanager
def read(model: Any) -> Iterator[list[list[list[int]]]]:
    """What the model is given to read inside the block, pass by pass."""
    passes: list[list[list[int]]] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, given: passes.append(given["input_ids"].tolist()), with_kwargs=True
    )
    try:
        yield passes
    finally:
        handle.remove()
