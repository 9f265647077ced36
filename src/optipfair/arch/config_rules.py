"""How a config changes when layers go. One small pure function for each field.

A layer's nature may be stated by its position (`layer_types`, `mlp_only_layers`, ...). Each rule
rewrites its field so that every kept layer stays what it was. A rule is served to every family
whose config has the field; `twin.py` proves the outcome, so a wrong or missing rule is refused
and never written.
"""

from __future__ import annotations

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
    """Qwen-MoE: dense where listed, or where (index + 1) is no multiple of the step."""
    listed = set(config.mlp_only_layers or ())
    step = config.decoder_sparse_step
    dense = [new for new, old in enumerate(keep) if old in listed or (old + 1) % step]
    return {"mlp_only_layers": dense, "decoder_sparse_step": 1}


RULES: Mapping[str, Rule] = {
    "layer_types": per_layer("layer_types"),
    "max_window_layers": leading("max_window_layers"),
    "first_k_dense_replace": leading("first_k_dense_replace"),
    "mlp_only_layers": dense_among_sparse,
}


def config_after_depth(config: Any, keep: Sequence[int]) -> dict[str, Any]:
    """Return the fields of `config` to set when only the layers `keep` (sorted) stay."""
    changes: dict[str, Any] = {"num_hidden_layers": len(keep)}
    for field, rule in RULES.items():
        if hasattr(config, field):
            changes |= rule(config, keep)
    return changes
