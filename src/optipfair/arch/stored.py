"""What the families' checkpoints hold beside their MLPs, in terms of the config. Data, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .spec import MLPSpec, StoredSpec, StoredTensors

HIDDEN = "hidden_size"
QUERIES = "num_attention_heads*head_dim"
KEYS = "num_key_value_heads*head_dim"
EXPERTS = "num_experts"

Shapes = dict[str, str]


def weights(*paths: str, axes: str = HIDDEN) -> Shapes:
    return {f"{path}.weight": axes for path in paths}


def biases(*paths: str, axes: str = HIDDEN) -> Shapes:
    return {f"{path}.bias": axes for path in paths}


def layer_norms(*paths: str) -> Shapes:
    """LayerNorm: weight and bias."""
    return weights(*paths) | biases(*paths)


def linear(path: str, out: str, into: str = HIDDEN, *, transposed: bool = False) -> Shapes:
    """Weight and bias; Conv1D keeps its weight as (in, out)."""
    axes = f"{into} {out}" if transposed else f"{out} {into}"
    return weights(path, axes=axes) | biases(path, axes=out)


def qkv(*, bias: bool = False) -> Shapes:
    """Weights, or biases, of the projections to queries, keys and values."""
    out = {"q_proj": QUERIES, "k_proj": KEYS, "v_proj": KEYS}
    if bias:
        return {f"self_attn.{name}.bias": axis for name, axis in out.items()}
    return {f"self_attn.{name}.weight": f"{axis} {HIDDEN}" for name, axis in out.items()}


O_PROJ = weights("self_attn.o_proj", axes=f"{HIDDEN} {QUERIES}")
QK_NORMS = weights("self_attn.q_norm", "self_attn.k_norm", axes="head_dim")
TWO_NORMS = weights("input_layernorm", "post_attention_layernorm")
FOUR_NORMS = TWO_NORMS | weights("pre_feedforward_layernorm", "post_feedforward_layernorm")
ATTENTION_BIAS = StoredTensors(
    qkv(bias=True) | biases("self_attn.o_proj"), {"attention_bias": True}
)


def mlp_weights(mlp: MLPSpec, width: str | None = None) -> Shapes:
    """Weights of an MLP, its biases aside.

    Args:
        mlp: its spec.
        width: its number of neurons as an expression; its config field if that is None.
    """
    shapes = {}
    for slot in mlp.slots:
        if slot.role != "bias":
            axes = [EXPERTS, HIDDEN, HIDDEN] if mlp.experts else [HIDDEN, HIDDEN]
            axes[slot.axis] = f"{slot.blocks}*{width or mlp.width_key}"
            shapes[slot.name] = " ".join(axes)
    return shapes


def mlp_biases(mlp: MLPSpec, width: str | None = None) -> Shapes:
    """Biases of an MLP without experts; that of the projection out of it is no slot."""
    neurons = {
        slot.name: f"{slot.blocks}*{width or mlp.width_key}"
        for slot in mlp.slots
        if slot.role == "bias"
    }
    return neurons | biases(mlp.down.module)


def llama_like(
    architecture: str,
    mlp: tuple[StoredTensors, ...],
    *,
    attention: Shapes | None = None,
    norms: Shapes = TWO_NORMS,
    extra: tuple[StoredTensors, ...] = (),
    defaults: Mapping[str, object] | None = None,
    **others: Any,
) -> StoredSpec:
    """Names as in Llama: `model.embed_tokens`, `model.layers`, `model.norm`, `self_attn`."""
    attention = qkv() | O_PROJ if attention is None else attention
    return StoredSpec(
        architecture,
        "model",
        "embed_tokens.weight",
        (StoredTensors(weights("norm")),),
        (StoredTensors(attention | norms), *mlp, *extra),
        defaults={"tie_word_embeddings": False, **(defaults or {})},
        buffers=("self_attn.rotary_emb.inv_freq",),
        **others,
    )
