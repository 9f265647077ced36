"""`optipfair.bias.utils`: small helpers, which nothing here uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optipfair.bias.activations.layer_keys import read_key as extract_layer_info

__all__ = [
    "clean_token_text",
    "ensure_directory",
    "extract_layer_info",
    "flatten_dict",
    "format_metric_value",
    "get_token_differences",
]


def clean_token_text(token: str) -> str:
    """A token as text: without the marks that tokenizers have for a space."""
    return token.replace("Ġ", " ").replace("▁", " ").replace("##", "").replace("Ċ", "\n").strip()


def ensure_directory(path: str | Path) -> Path:
    """Make a folder where there is none."""
    Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def flatten_dict(nested: Mapping[str, Any], parent_key: str = "", sep: str = ".") -> dict[str, Any]:
    """A dict of dicts as one, its keys joined."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{parent_key}{sep}{key}" if parent_key else str(key)
        flat |= flatten_dict(value, name, sep) if isinstance(value, Mapping) else {name: value}
    return flat


def format_metric_value(value: object, precision: int = 4) -> str:
    """A figure with so many decimals; what is no number as it is."""
    return f"{value:.{precision}f}" if isinstance(value, float) else str(value)


def get_token_differences(tokens1: Sequence[object], tokens2: Sequence[object]) -> list[int]:
    """The places at which two lists of tokens differ, those that only one has included."""
    longest = max(len(tokens1), len(tokens2))
    pairs = [(list(tokens1[i : i + 1]), list(tokens2[i : i + 1])) for i in range(longest)]
    return [place for place, (one, two) in enumerate(pairs) if one != two]
