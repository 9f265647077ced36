"""THE table: `model_type` → `ArchSpec`. All knowledge of model families is data in this file.

To add a family, add one entry with its tiny config; width and depth pruning, calibration,
`analyze`, the parity tests and the docs table find it by themselves. A model type that is not
listed is served by structure (`discover.py`).

Tensor names are those of the live modules of transformers 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .spec import ArchSpec, MLPSpec, below, conv1d, experts_layout, fused, gated, plain

_GATED = gated("gate_proj", "up_proj", "down_proj")

GATED = MLPSpec("mlp", below("mlp", _GATED), "intermediate_size")
BARE_GATED = MLPSpec("mlp", _GATED, None)  # a gated MLP module by itself
FUSED = MLPSpec("mlp", fused("mlp.gate_up_proj", "mlp.down_proj"), "intermediate_size")


def _experts(width_key: str) -> MLPSpec:
    """Fused experts as transformers 5 keeps them: (E, 2I, H) and (E, H, I).

    Grouped matrix products want rows of 16 bytes: an odd width loads and then fails in forward,
    so kept widths are multiples of 8 (16 bytes of a 16-bit dtype).
    """
    slots = below("mlp.experts", experts_layout(gate=True, transposed=False, interleaved=False))
    return MLPSpec("experts", slots, width_key, experts=True, width_multiple=8)


_MIXTRAL_EXPERTS = _experts("intermediate_size")
_QWEN_EXPERTS = _experts("moe_intermediate_size")
_SHARED_EXPERT = MLPSpec(
    "shared_expert", below("mlp.shared_expert", _GATED), "shared_expert_intermediate_size"
)
_CONV1D = MLPSpec("mlp", conv1d("mlp.c_fc", "mlp.c_proj"), "n_inner")
_ON_THE_LAYER = MLPSpec("mlp", plain("fc1", "fc2"), "ffn_dim")  # there is no `mlp`
_NEOX_SLOTS = plain("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
_NEOX = MLPSpec("mlp", _NEOX_SLOTS, "intermediate_size")
_FALCON = MLPSpec("mlp", _NEOX_SLOTS, "ffn_hidden_size")
_BLOOM = MLPSpec(
    "mlp", _NEOX_SLOTS, None, why_not="its config has no intermediate size (fixed at 4 x hidden)"
)

_TINY = {"vocab_size": 272, "max_position_embeddings": 128}
_TINY_HEADS = {**_TINY, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4}
_TINY_NEOX = {**_TINY_HEADS, "intermediate_size": 40}
_TINY_LLAMA = {**_TINY_NEOX, "num_key_value_heads": 2}
_TINY_HEAD_DIM = {**_TINY_LLAMA, "head_dim": 8}
_TINY_EXPERTS = {**_TINY_LLAMA, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
_TINY_GEMMA = {
    **_TINY_HEAD_DIM,
    "query_pre_attn_scalar": 8,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
_SLIDING = {"use_sliding_window": True, "sliding_window": 16}

_ENTRIES = (
    ArchSpec("llama", "layers", (GATED,), _TINY_LLAMA, "Llama 2, 3, 3.2; SmolLM2; TinyLlama"),
    ArchSpec("mistral", "layers", (GATED,), _TINY_LLAMA, "Mistral 7B, Mistral Nemo"),
    ArchSpec(
        "qwen2",
        "layers",
        (GATED,),
        {**_TINY_LLAMA, **_SLIDING, "max_window_layers": 2},
        "Qwen2, Qwen2.5",
    ),
    ArchSpec(
        "qwen3",
        "layers",
        (GATED,),
        {**_TINY_HEAD_DIM, **_SLIDING, "max_window_layers": 3},
        "Qwen3 0.6B to 32B",
    ),
    ArchSpec("gemma2", "layers", (GATED,), _TINY_GEMMA, "Gemma 2 2B, 9B, 27B"),
    ArchSpec("gemma3_text", "layers", (GATED,), _TINY_GEMMA, "Gemma 3 270M, 1B"),
    ArchSpec(
        "phi3",
        "layers",
        (FUSED,),
        {**_TINY_LLAMA, "pad_token_id": 0, "original_max_position_embeddings": 128},
        "Phi-3, Phi-3.5, Phi-4 mini",
    ),
    ArchSpec(
        "mixtral",
        "layers",
        (_MIXTRAL_EXPERTS,),
        {**_TINY_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
        "Mixtral 8x7B, 8x22B",
    ),
    ArchSpec(
        "qwen2_moe",
        "layers",
        (_QWEN_EXPERTS, _SHARED_EXPERT, GATED),  # the last in `mlp_only_layers`
        {
            **_TINY_EXPERTS,
            "shared_expert_intermediate_size": 32,
            "num_experts": 4,
            "mlp_only_layers": [2],
        },
        "Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B",
    ),
    ArchSpec(
        "qwen3_moe",
        "layers",
        (_QWEN_EXPERTS, GATED),
        {
            **_TINY_EXPERTS,
            "head_dim": 8,
            "num_experts": 4,
            "mlp_only_layers": [],
            "decoder_sparse_step": 2,
        },
        "Qwen3-30B-A3B, Qwen3-235B-A22B",
    ),
    ArchSpec(
        "gpt2",
        "h",
        # Conv1D keeps its weight as (in, out): the neurons of c_fc are columns.
        (_CONV1D,),
        {"vocab_size": 272, "n_positions": 128, "n_embd": 16, "n_layer": 4, "n_head": 4},
        "GPT-2, DistilGPT-2",
    ),
    ArchSpec(
        "opt",
        "decoder.layers",
        (_ON_THE_LAYER,),
        {**_TINY_HEADS, "ffn_dim": 40, "word_embed_proj_dim": 16, "dropout": 0.0},
        "OPT 125M to 66B",
    ),
    ArchSpec("gpt_neox", "layers", (_NEOX,), _TINY_NEOX, "Pythia, GPT-NeoX 20B"),
    ArchSpec(
        "falcon",
        "h",
        (_FALCON,),
        {
            **_TINY_HEADS,
            "ffn_hidden_size": 40,
            "alibi": False,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
        },
        "Falcon 7B, 40B",
    ),
    ArchSpec(
        "bloom",
        "h",
        (_BLOOM,),
        {"vocab_size": 272, "hidden_size": 16, "n_layer": 4, "n_head": 4},
        "BLOOM 560M to 176B",
    ),
)

FAMILIES: Mapping[str, ArchSpec] = MappingProxyType({spec.model_type: spec for spec in _ENTRIES})

# Which tokens open and close a text is the same for all toy models (see `optipfair.testing`).
TINY_TOKENS: Mapping[str, Any] = MappingProxyType(
    {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
)

# Families whose forward takes positions, and a mask for each pair of tokens (B, 1, S, S) as it is:
# several texts that begin alike can stand in one row. Slopes and recurrences count places instead.
PAIR_MASKS = frozenset(FAMILIES) - {"bloom", "falcon"} | {
    "cohere", "gemma", "glm", "granite", "helium", "nemotron", "olmo", "olmo2", "phi", "smollm3",
    "stablelm", "starcoder2",
}  # fmt: skip
