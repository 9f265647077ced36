"""How a config changes when layers go. One small pure function for each field.

A layer's nature may be stated by its position (`layer_types`, `mlp_only_layers`, ...). Each rule
rewrites its field so that every kept layer stays what it was. A rule is served to every family
whose config has the field; `twin.py` proves the outcome, so a wrong or missing rule is refused
and never written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Rule = Callable[[Any, Sequence[int]], Mapping[str, Any]]


def per_layer(name: str) -> Rule:
    """A list with one entry for each layer: keep the entries of the kept layers."""

    def rule(config: Any, keep: Sequence[int]) -> Mapping[str, Any]:
        values = getattr(config, name)
        return {name: [values[i] for i in keep]} if values else {}

    return rule


def leading(name: str) -> Rule:
    """The first n layers are special: count those that are kept."""

    def rule(config: Any, keep: Sequence[int]) -> Mapping[str, Any]:
        value = getattr(config, name)
        return {} if value is None else {name: sum(i < value for i in keep)}

    return rule


def dense_among_sparse(config: Any, keep: Sequence[int]) -> Mapping[str, Any]:
    """Qwen-MoE: list the layers that have no experts."""
    step = getattr(config, "decoder_sparse_step", None)
    if step is None:  # a family without experts whose config names the field all the same
        return listed("mlp_only_layers")(config, keep)
    named = config.mlp_only_layers or ()
    dense = [new for new, old in enumerate(keep) if is_dense(old, named, step)]
    return {"mlp_only_layers": dense, "decoder_sparse_step": 1}


def is_dense(layer: int, mlp_only_layers: Sequence[int], decoder_sparse_step: int) -> bool:
    """Qwen-MoE: no experts where listed, or where (index + 1) is no multiple of the step."""
    return layer in mlp_only_layers or (layer + 1) % decoder_sparse_step != 0


def listed(name: str) -> Rule:
    """A list of the layers that are special: their numbers after the removal."""

    def rule(config: Any, keep: Sequence[int]) -> Mapping[str, Any]:
        special = getattr(config, name)
        if special is None:
            return {}
        return {name: [new for new, old in enumerate(keep) if old in set(special)]}

    return rule


def by_layer_number(config: Any, keep: Sequence[int]) -> Mapping[str, Any]:
    """Overrides by layer number (the standard field of configs whose layers differ)."""
    overrides = config.to_dict().get("per_layer_config") or {}
    numbers = {int(layer): values for layer, values in overrides.items()}
    kept = {new: numbers[old] for new, old in enumerate(keep) if old in numbers}
    return {"per_layer_config": kept} if numbers else {}


def trailing(name: str) -> Rule:
    """The last n layers are special: count those that are kept. Needs the number of layers."""

    def rule(config: Any, keep: Sequence[int]) -> Mapping[str, Any]:
        value = getattr(config, name)
        first = config.num_hidden_layers - value if value else None
        return {} if first is None else {name: sum(i >= first for i in keep)}

    return rule


def depth_scale(config: Any, keep: Sequence[int]) -> Mapping[str, Any]:
    """MiniCPM scales residuals by scale_depth / sqrt(layers): keep the quotient as it is."""
    ratio = len(keep) / config.num_hidden_layers
    return {"scale_depth": config.scale_depth * math.sqrt(ratio)}


def layer_count(name: str) -> Rule:
    """A second name for the number of layers."""
    return lambda config, keep: {name: len(keep)} if getattr(config, name) is not None else {}


RULES: Mapping[str, Rule] = {
    "max_window_layers": leading("max_window_layers"),
    "first_k_dense_replace": leading("first_k_dense_replace"),
    "num_hash_layers": leading("num_hash_layers"),
    "mlp_only_layers": dense_among_sparse,
    "num_kv_shared_layers": trailing("num_kv_shared_layers"),
    "num_blocks": layer_count("num_blocks"),
    "scale_depth": depth_scale,
    "moe_layers": listed("moe_layers"),
    "full_attn_idxs": listed("full_attn_idxs"),
    "hybrid_layer_ids": listed("hybrid_layer_ids"),
    "per_layer_config": by_layer_number,
}


def config_after_depth(
    config: Any, keep: Sequence[int], total: int, layers_key: str = "num_hidden_layers"
) -> dict[str, Any]:
    """The fields of `config` to set when only the layers `keep` (sorted) of `total` stay."""
    fields = config.to_dict()
    changes: dict[str, Any] = {layers_key: len(keep)}
    for field, value in fields.items():
        if field in RULES:
            changes |= RULES[field](config, keep)
        elif _has_entry_per_layer(field, value, total):
            changes |= per_layer(field)(config, keep)
    return changes


def _has_entry_per_layer(field: str, value: object, total: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == total and "token" not in field
