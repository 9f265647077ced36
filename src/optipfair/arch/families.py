"""THE table: `model_type` → `ArchSpec`. All knowledge of model families is data in this file.

To add a family, add one entry with its tiny config; width and depth pruning, calibration,
`analyze`, the parity tests and the docs table find it by themselves. A model type that is not
listed is served by structure (`discover.py`).

Tensor names are those of the live modules of transformers 5. `stored` says what checkpoints of
the family hold, so that `analyze` knows them without building the model; an entry works without.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .layouts import below, conv1d, experts_layout, fused, gated, plain
from .spec import ArchSpec, MLPSpec, StoredSpec, StoredTensors
from .stored import (
    ATTENTION_BIAS,
    FOUR_NORMS,
    HIDDEN,
    KEYS,
    O_PROJ,
    QK_NORMS,
    QUERIES,
    biases,
    layer_norms,
    linear,
    llama_like,
    mlp_biases,
    mlp_weights,
    qkv,
    weights,
)

_GATED = gated("gate_proj", "up_proj", "down_proj")


GATED = MLPSpec("mlp", below("mlp", _GATED), "intermediate_size")
BARE_GATED = MLPSpec("mlp", _GATED, None)  # a gated MLP module by itself
FUSED = MLPSpec(
    "mlp",
    fused("mlp.gate_up_proj", "mlp.down_proj"),
    "intermediate_size",
)


def _experts(width_key: str, *stored: str) -> MLPSpec:
    """Fused experts as transformers 5 keeps them: (E, 2I, H) and (E, H, I).

    Grouped matrix products want rows of 16 bytes: an odd width loads and then fails in forward,
    so kept widths are multiples of 8 (16 bytes of a 16-bit dtype).
    """
    slots = below("mlp.experts", experts_layout(gate=True, transposed=False, interleaved=False))
    return MLPSpec(
        "experts", slots, width_key, experts=True, width_multiple=8, stored_experts=stored
    )


_MIXTRAL_EXPERTS = _experts(
    "intermediate_size",
    *(f"block_sparse_moe.experts.{{}}.{name}.weight" for name in ("w1", "w3", "w2")),
)
_QWEN_EXPERTS = _experts(
    "moe_intermediate_size",
    *(f"mlp.experts.{{}}.{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")),
)
_SHARED_EXPERT = MLPSpec(
    "shared_expert", below("mlp.shared_expert", _GATED), "shared_expert_intermediate_size"
)
_CONV1D = MLPSpec("mlp", conv1d("mlp.c_fc", "mlp.c_proj"), "n_inner")
_ON_THE_LAYER = MLPSpec("mlp", plain("fc1", "fc2"), "ffn_dim")  # there is no `mlp`
_NEOX_SLOTS = plain("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
_NEOX = MLPSpec("mlp", _NEOX_SLOTS, "intermediate_size")
_FALCON = MLPSpec("mlp", _NEOX_SLOTS, "ffn_hidden_size")
_BLOOM = MLPSpec(
    "mlp",
    _NEOX_SLOTS,
    None,
    why_not="its config has no intermediate size (fixed at 4 x hidden)",
)

_ROUTER = weights("mlp.gate", axes=f"num_experts {HIDDEN}")
_DENSE = StoredTensors(mlp_weights(GATED))
_DENSE_AMONG_SPARSE = StoredTensors(mlp_weights(GATED), {"sparse": False})
_HEAD_DIM = {"head_dim": f"{HIDDEN}/num_attention_heads"}
_SPARSE_DEFAULTS = {"mlp_only_layers": [], "decoder_sparse_step": 1}
_NO_ROPE = {"rope_parameters": "null", "rope_scaling": "null"}
_HEADS = {"num_key_value_heads": "num_attention_heads"}


_TINY = {"vocab_size": 272, "max_position_embeddings": 128}
_TINY_LLAMA = {
    **_TINY,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_TINY_HEAD_DIM = {**_TINY_LLAMA, "head_dim": 8}
_TINY_EXPERTS = {**_TINY_LLAMA, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
_SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2}

_ENTRIES = (
    ArchSpec(
        "llama",
        "layers",
        (GATED,),
        _TINY_LLAMA,
        "Llama 2, 3, 3.2; SmolLM2; TinyLlama",
        stored=llama_like(
            "LlamaForCausalLM",
            (_DENSE, StoredTensors(mlp_biases(GATED), {"mlp_bias": True})),
            extra=(ATTENTION_BIAS,),
            defaults={**_HEADS, **_HEAD_DIM, "attention_bias": False, "mlp_bias": False},
            nullable=("num_key_value_heads", "head_dim"),
        ),
    ),
    ArchSpec(
        "mistral",
        "layers",
        (GATED,),
        _TINY_LLAMA,
        "Mistral 7B, Mistral Nemo",
        stored=llama_like(
            "MistralForCausalLM",
            (_DENSE,),
            defaults=_HEAD_DIM,
            nullable=("head_dim",),
            kinds={"layer_types": "never"},  # transformers takes it for Ministral then
        ),
    ),
    ArchSpec(
        "qwen2",
        "layers",
        (GATED,),
        {**_TINY_LLAMA, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
        "Qwen2, Qwen2.5",
        stored=llama_like(
            "Qwen2ForCausalLM",
            (_DENSE,),
            extra=(StoredTensors(qkv(bias=True)),),
            defaults=_HEAD_DIM,
        ),
    ),
    ArchSpec(
        "qwen3",
        "layers",
        (GATED,),
        {
            **_TINY_HEAD_DIM,
            "use_sliding_window": True,
            "sliding_window": 16,
            "max_window_layers": 3,
        },
        "Qwen3 0.6B to 32B",
        stored=llama_like(
            "Qwen3ForCausalLM",
            (_DENSE,),
            extra=(StoredTensors(QK_NORMS), ATTENTION_BIAS),
            defaults={"attention_bias": False},
        ),
    ),
    ArchSpec(
        "gemma2",
        "layers",
        (GATED,),
        {**_TINY_HEAD_DIM, **_SLIDING, "query_pre_attn_scalar": 8},
        "Gemma 2 2B, 9B, 27B",
        stored=llama_like(
            "Gemma2ForCausalLM",
            (_DENSE,),
            norms=FOUR_NORMS,
            extra=(ATTENTION_BIAS,),
            defaults={"tie_word_embeddings": True, "attention_bias": False},
        ),
    ),
    ArchSpec(
        "gemma3_text",
        "layers",
        (GATED,),
        {**_TINY_HEAD_DIM, **_SLIDING, "query_pre_attn_scalar": 8},
        "Gemma 3 270M, 1B",
        stored=llama_like(
            "Gemma3ForCausalLM",
            (_DENSE,),
            norms=FOUR_NORMS,
            extra=(StoredTensors(QK_NORMS), ATTENTION_BIAS),
            defaults={"tie_word_embeddings": True, "attention_bias": False},
            kinds={"rope_parameters": "ropes?"},
        ),
    ),
    ArchSpec(
        "phi3",
        "layers",
        (FUSED,),
        {**_TINY_LLAMA, "pad_token_id": 0, "original_max_position_embeddings": 128},
        "Phi-3, Phi-3.5, Phi-4 mini",
        stored=llama_like(
            "Phi3ForCausalLM",
            (StoredTensors(mlp_weights(FUSED)),),
            attention=weights("self_attn.qkv_proj", axes=f"{QUERIES}+2*{KEYS} {HIDDEN}") | O_PROJ,
            defaults={**_HEADS, **_HEAD_DIM, "pad_token_id": 32000},
            nullable=("num_key_value_heads",),
            kinds={"rope_parameters": "plain rope?", "rope_scaling": "null"},
        ),
    ),
    ArchSpec(
        "mixtral",
        "layers",
        (_MIXTRAL_EXPERTS,),
        {**_TINY_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
        "Mixtral 8x7B, 8x22B",
        stored=llama_like(
            "MixtralForCausalLM",
            (StoredTensors(mlp_weights(_MIXTRAL_EXPERTS) | _ROUTER),),
            defaults=_HEAD_DIM,
            nullable=("head_dim",),
            names={"num_experts": ("num_local_experts", "num_experts")},
            renamed={".block_sparse_moe.gate.": ".mlp.gate."},
        ),
    ),
    ArchSpec(
        "qwen2_moe",
        "layers",
        (
            _QWEN_EXPERTS,
            _SHARED_EXPERT,
            GATED,  # layers in `mlp_only_layers`
        ),
        {
            **_TINY_EXPERTS,
            "shared_expert_intermediate_size": 32,
            "num_experts": 4,
            "mlp_only_layers": [2],
        },
        "Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B",
        stored=llama_like(
            "Qwen2MoeForCausalLM",
            (
                StoredTensors(
                    mlp_weights(_QWEN_EXPERTS)
                    | mlp_weights(_SHARED_EXPERT)
                    | weights("mlp.shared_expert_gate", axes=f"1 {HIDDEN}")
                    | _ROUTER,
                    {"sparse": True},
                ),
                _DENSE_AMONG_SPARSE,
            ),
            extra=(StoredTensors(qkv(bias=True), {"qkv_bias": True}),),
            defaults={**_HEAD_DIM, **_SPARSE_DEFAULTS, "qkv_bias": True},
            nullable=("mlp_only_layers",),
        ),
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
        stored=llama_like(
            "Qwen3MoeForCausalLM",
            (
                StoredTensors(mlp_weights(_QWEN_EXPERTS) | _ROUTER, {"sparse": True}),
                _DENSE_AMONG_SPARSE,
            ),
            extra=(StoredTensors(QK_NORMS), ATTENTION_BIAS),
            defaults={**_HEAD_DIM, **_SPARSE_DEFAULTS, "attention_bias": False},
            nullable=("mlp_only_layers",),
            names={"num_experts": ("num_local_experts", "num_experts")},
        ),
    ),
    ArchSpec(
        "gpt2",
        "h",
        # Conv1D keeps its weight as (in, out): the neurons of c_fc are columns.
        (_CONV1D,),
        {"vocab_size": 272, "n_positions": 128, "n_embd": 16, "n_layer": 4, "n_head": 4},
        "GPT-2, DistilGPT-2",
        stored=StoredSpec(
            "GPT2LMHeadModel",
            "transformer",
            "wte.weight",
            (
                StoredTensors(
                    weights("wpe", axes=f"max_position_embeddings {HIDDEN}") | layer_norms("ln_f")
                ),
            ),
            (
                StoredTensors(
                    linear("attn.c_attn", f"3*{HIDDEN}", transposed=True)
                    | linear("attn.c_proj", HIDDEN)
                    | layer_norms("ln_1", "ln_2")
                    | mlp_weights(_CONV1D)
                    | mlp_biases(_CONV1D)
                ),
            ),
            names={
                "hidden_size": ("n_embd",),
                "num_attention_heads": ("n_head",),
                "num_hidden_layers": ("n_layer",),
                "max_position_embeddings": ("n_positions",),
            },
            defaults={
                **_HEAD_DIM,
                "n_inner": f"4*{HIDDEN}",
                "tie_word_embeddings": True,
                "add_cross_attention": False,
            },
            nullable=("n_inner",),
            required={"add_cross_attention": False},
            kinds=_NO_ROPE,
            buffers=("attn.bias", "attn.masked_bias"),
        ),
    ),
    ArchSpec(
        "opt",
        "decoder.layers",
        (_ON_THE_LAYER,),
        {
            **_TINY,
            "hidden_size": 16,
            "ffn_dim": 40,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 16,
            "dropout": 0.0,
        },
        "OPT 125M to 66B",
        stored=StoredSpec(
            "OPTForCausalLM",
            "model",
            "decoder.embed_tokens.weight",
            (
                StoredTensors(
                    weights("decoder.embed_positions", axes=f"max_position_embeddings+2 {HIDDEN}")
                    | layer_norms("decoder.final_layer_norm")
                ),
            ),
            (
                StoredTensors(
                    weights(
                        *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj")),
                        "self_attn.out_proj",
                        axes=f"{HIDDEN} {HIDDEN}",
                    )
                    | layer_norms("self_attn_layer_norm", "final_layer_norm")
                    | mlp_weights(_ON_THE_LAYER)
                ),
                StoredTensors(
                    biases(*(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj")))
                    | biases("self_attn.out_proj")
                    | mlp_biases(_ON_THE_LAYER),
                    {"enable_bias": True},
                ),
            ),
            defaults={
                **_HEAD_DIM,
                "enable_bias": True,
                "tie_word_embeddings": True,
                "do_layer_norm_before": True,
                "_remove_final_layer_norm": False,
                "layer_norm_elementwise_affine": True,
                "word_embed_proj_dim": HIDDEN,
            },
            nullable=("word_embed_proj_dim",),
            required={
                "do_layer_norm_before": True,
                "_remove_final_layer_norm": False,
                "layer_norm_elementwise_affine": True,
                "word_embed_proj_dim": HIDDEN,
            },
            kinds=_NO_ROPE,
        ),
    ),
    ArchSpec(
        "gpt_neox",
        "layers",
        (_NEOX,),
        {k: v for k, v in _TINY_LLAMA.items() if k != "num_key_value_heads"},
        "Pythia, GPT-NeoX 20B",
        stored=StoredSpec(
            "GPTNeoXForCausalLM",
            "gpt_neox",
            "embed_in.weight",
            (StoredTensors(layer_norms("final_layer_norm")),),
            (
                StoredTensors(
                    weights("attention.query_key_value", axes=f"3*{HIDDEN} {HIDDEN}")
                    | weights("attention.dense", axes=f"{HIDDEN} {HIDDEN}")
                    | layer_norms("input_layernorm", "post_attention_layernorm")
                    | mlp_weights(_NEOX)
                    | mlp_biases(_NEOX)
                ),
                StoredTensors(
                    biases("attention.query_key_value", axes=f"3*{HIDDEN}")
                    | biases("attention.dense"),
                    {"attention_bias": True},
                ),
            ),
            defaults={**_HEAD_DIM, "attention_bias": True, "tie_word_embeddings": False},
            buffers=("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"),
            renamed={"embed_out.": "lm_head."},
        ),
    ),
    ArchSpec(
        "falcon",
        "h",
        (_FALCON,),
        {
            **_TINY,
            "hidden_size": 16,
            "ffn_hidden_size": 40,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "alibi": False,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
        },
        "Falcon 7B, 40B",
        stored=StoredSpec(
            "FalconForCausalLM",
            "transformer",
            "word_embeddings.weight",
            (StoredTensors(layer_norms("ln_f")),),
            (
                StoredTensors(
                    weights("self_attention.dense", axes=f"{HIDDEN} {HIDDEN}")
                    | mlp_weights(_FALCON)
                ),
                StoredTensors(
                    weights(
                        "self_attention.query_key_value",
                        axes=f"{QUERIES}+2*num_kv_heads*head_dim {HIDDEN}",
                    ),
                    {"new_decoder_architecture": True},
                ),
                StoredTensors(
                    weights("self_attention.query_key_value", axes=f"{HIDDEN}+2*head_dim {HIDDEN}"),
                    {"new_decoder_architecture": False},
                ),
                StoredTensors(layer_norms("ln_attn", "ln_mlp"), {"num_ln_in_parallel_attn": 2}),
                StoredTensors(layer_norms("input_layernorm"), {"num_ln_in_parallel_attn": (0, 1)}),
            ),
            names={"head_dim": ()},
            defaults={
                **_HEAD_DIM,
                "bias": False,
                "parallel_attn": True,
                "multi_query": True,
                "new_decoder_architecture": False,
                "num_ln_in_parallel_attn": "2*new_decoder_architecture",
                "num_kv_heads": "num_attention_heads",
                "ffn_hidden_size": f"4*{HIDDEN}",
                "max_position_embeddings": 2048,
                "tie_word_embeddings": True,
            },
            nullable=("num_ln_in_parallel_attn", "num_kv_heads", "ffn_hidden_size"),
            required={"bias": False, "parallel_attn": True, "multi_query": True},
        ),
    ),
    ArchSpec(
        "bloom",
        "h",
        (_BLOOM,),
        {"vocab_size": 272, "hidden_size": 16, "n_layer": 4, "n_head": 4},
        "BLOOM 560M to 176B",
        stored=StoredSpec(
            "BloomForCausalLM",
            "transformer",
            "word_embeddings.weight",
            (StoredTensors(layer_norms("word_embeddings_layernorm", "ln_f")),),
            (
                StoredTensors(
                    linear("self_attention.query_key_value", f"3*{HIDDEN}")
                    | linear("self_attention.dense", HIDDEN)
                    | layer_norms("input_layernorm", "post_attention_layernorm")
                    | mlp_weights(_BLOOM, f"4*{HIDDEN}")
                    | mlp_biases(_BLOOM, f"4*{HIDDEN}")
                ),
            ),
            names={
                "hidden_size": ("hidden_size", "n_embed"),
                "num_attention_heads": ("n_head", "num_attention_heads"),
                "num_hidden_layers": ("n_layer", "num_hidden_layers"),
            },
            kinds=_NO_ROPE,
            defaults={
                **_HEAD_DIM,
                "max_position_embeddings": None,
                "tie_word_embeddings": True,
            },
        ),
    ),
)

FAMILIES: Mapping[str, ArchSpec] = MappingProxyType({spec.model_type: spec for spec in _ENTRIES})

# Which tokens open and close a text is the same for all toy models (see `optipfair.testing`).
TINY_TOKENS: Mapping[str, Any] = MappingProxyType(
    {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
)
