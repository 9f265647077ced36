"""Rotary positions as a config.json states them: in the spelling of transformers 5, and the older.

transformers 5 writes `rope_parameters`. Older releases, and MLX, read `rope_theta` and
`rope_scaling` at the top, and take a base of 10,000 where these are missing: another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NEW, BASE, SCALING = "rope_parameters", "rope_theta", "rope_scaling"


def in_both_spellings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config with the older spelling beside the new one, where that is missing.

    Those of a config within it too. Positions that differ by kind of layer have no older spelling.
    """
    found = {
        name: in_both_spellings(value)
        if name.endswith("_config") and isinstance(value, Mapping)
        else value
        for name, value in fields.items()
    }
    stated = found.get(NEW)
    if isinstance(stated, Mapping) and BASE in stated and BASE not in found:
        scaling = {name: value for name, value in stated.items() if name != BASE}
        plain = scaling.get("rope_type", "default") == "default"
        found |= {BASE: stated[BASE], SCALING: None if plain else scaling}
    return found
