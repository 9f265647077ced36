"""Toy configs: one small value for each config field, and what a model type needs beside them.

Covers every model type of `AutoModelForCausalLM` (transformers 5.23) that builds without extra
packages. It is data for tests and `optipfair.testing`, and knows nothing about pruning.

Sizes differ on purpose (hidden 32, MLP 80, expert 48, shared expert 64, vocabulary 272), so that a
tensor cut along the wrong axis does not fit by accident. Layers of two kinds take turns.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any


def _each(names: str, value: Any) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


_FIELDS: Mapping[str, Any] = {
    # Tokens and positions.
    **_each("vocab_size decoder_vocab_size unpadded_vocab_size", 272),
    "vocab_size_per_layer_input": 272,
    **_each("bos_token_id decoder_start_token_id cls_token_id", 256),
    **_each("eos_token_id sep_token_id", 257),
    "forced_eos_token_id": None,
    "pad_token_id": 258,
    "is_decoder": True,
    **_each("max_position_embeddings original_max_position_embeddings n_positions n_ctx", 128),
    **_each("max_seq_len context_length max_target_positions model_max_length", 128),
    **_each("floor_scale log_scaling_n_floor", 128),
    "max_source_positions": 32,
    # Shorter than the texts of the tests, so that windows matter.
    **_each("sliding_window sliding_window_size attention_window_size window_size", 8),
    **_each("attention_chunk_size local_attention local_attention_window_len", 8),
    **_each("keep_window_size mem_len", 8),
    "use_sliding_window": True,
    "max_window_layers": 2,
    # Width.
    **_each("hidden_size d_model n_embd emb_dim embedding_dim embedding_size", 32),
    **_each("word_embed_proj_dim attention_hidden_size lru_width", 32),
    "input_embedding_size": 16,
    "output_embedding_size": 40,
    "hidden_size_per_layer_input": 8,
    "dim_model_base": 16,
    # Depth. The cache of a decoder without its encoder counts the encoder layers.
    **_each("num_hidden_layers n_layer n_layers num_layers decoder_layers", 4),
    **_each("num_decoder_layers encoder_layers num_encoder_layers", 4),
    **_each("num_mtp_layers num_nextn_predict_layers", 0),
    # Attention.
    **_each("num_attention_heads n_head n_heads num_heads attention_heads", 4),
    **_each("decoder_attention_heads encoder_attention_heads swa_num_attention_heads", 4),
    **_each("num_decoder_attention_heads num_encoder_attention_heads", 4),
    **_each("num_key_value_heads num_kv_heads kv_n_heads num_query_groups", 2),
    "swa_num_key_value_heads": 2,
    **_each("head_dim swa_head_dim d_head dim_head d_kv kv_channels v_head_dim", 8),
    **_each("attention_head_size attention_head_dim query_pre_attn_scalar", 8),
    "rotary_dim": 4,
    **_each("linear_head_dim linear_key_head_dim linear_value_head_dim", 8),
    **_each("linear_num_heads linear_num_value_heads linear_conv_kernel_dim", 4),
    "linear_num_key_heads": 2,
    # Latent attention and its indexer.
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "o_lora_rank": 8,
    "o_groups": 2,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    **_each("index_head_dim indexer_head_dim index_topk", 8),
    **_each("index_n_heads indexer_n_heads index_topk_blocks", 2),
    "index_block_size": 4,
    # MLP and experts.
    **_each("intermediate_size ffn_dim ffn_hidden_size n_inner d_inner d_ff dff dim_ff", 80),
    **_each("feed_forward_size decoder_ffn_dim encoder_ffn_dim", 80),
    **_each("intermediate_size_mlp dense_intermediate_size prefix_dense_intermediate_size", 112),
    **_each("moe_intermediate_size expert_ffn_hidden_size", 48),
    **_each("shared_expert_intermediate_size shared_experts_intermediate_size", 64),
    **_each("shared_intermediate_size moe_shared_expert_intermediate_size", 64),
    **_each("num_experts num_local_experts n_routed_experts moe_num_experts", 4),
    **_each("num_experts_per_tok num_experts_per_token moe_topk moe_top_k moe_k", 2),
    **_each("top_k_experts zero_expert_num", 2),
    **_each("n_group topk_group num_expert_group first_k_dense_replace num_dense_layers", 1),
    "mlp_only_layers": [0],
    "router_hidden_size": 16,
    # State-space and recurrent blocks.
    **_each("state_size ssm_state_size mamba_d_state chunk_size mamba_chunk_size", 8),
    **_each("expand mamba_expand", 2),
    **_each("mamba_d_head mamba_head_dim mamba_headdim", 16),
    **_each("mamba_n_heads mamba_num_heads mamba_dt_rank time_step_rank", 4),
    **_each("n_groups mamba_n_groups mamba_ngroups", 1),
    "mamba_d_ssm": 64,
    "use_mamba_kernels": False,  # they run on GPUs only; not every release falls back by itself
    # Dropout.
    **_each("activation_dropout attention_dropout attention_probs_dropout_prob attn_pdrop", 0.0),
    **_each("decoder_layerdrop dropout dropout_p dropout_rate emb_pdrop embd_pdrop", 0.0),
    **_each("embed_dropout embedding_dropout hidden_dropout hidden_dropout_prob", 0.0),
    **_each("layerdrop encoder_layerdrop mlp_dropout resid_dropout resid_pdrop", 0.0),
    **_each("residual_dropout summary_first_dropout summary_last_dropout", 0.0),
    **_each("local_attention_probs_dropout_prob lsh_attention_probs_dropout_prob", 0.0),
}

# Parts that read images or sound (by the prefix of their field) are as small as they go.
_TOWER_PREFIXES = ("vision", "audio", "vq", "text_encoder", "depth_decoder")
_TOWER: Mapping[str, Any] = {
    **_FIELDS,
    **_each("num_hidden_layers num_layers depth num_blocks conf_num_hidden_layers", 2),
    "num_global_layers": 1,
    "conf_num_attention_heads": 4,
    "intermediate_layers_indices": [0],
    "global_attn_indexes": (1,),
    **_each("image_size crop_size", 28),
    "patch_size": 14,
    "window_size": 2,
    **_each("num_position_embeddings position_embedding_size mm_posemb_size", 16),
    **_each("intermediate_size mlp_dim", 40),
    **_each("out_hidden_size output_proj_dims adapter_in_dim adapter_out_dim", 32),
    **_each("adapter_input_size projector_input_dim projector_output_dim mm_embed_dim", 32),
    **_each("ext_pw_out_channel depthwise_separable_out_channel base_channels", 32),
    **_each("output_channels nemo_conv_channels downsample_hidden_size audio_embed_dim", 16),
    **_each("input_feat_size codebook_dim vector_quantization_hidden_dimension", 16),
    **_each("vision_output_dim codebook_size", 64),
    "upsample_groups": 32,
    "num_filters": 4,
    "num_quantizers": 2,
    "sscp_conv_channel_size": (8, 4),
    "mlp_layer_types": ["dense", "sparse"],
}


def _turns(*kinds: str) -> list[str]:
    return [*kinds] * (4 // len(kinds))


_SLIDING = _turns("sliding_attention", "full_attention")
_LINEAR = _turns("linear_attention", "full_attention")
_FIRST_DENSE = ["dense", "sparse", "sparse", "sparse"]

# Latent attention makes one key per query head; its rotary part is the `head_dim` of the caches.
_LATENT = {"num_key_value_heads": 4, "head_dim": 4}
# Positions start at `pad_token_id` + 1.
_AFTER_PADDING = {"max_position_embeddings": 388}
# The defaults stretch more positions than the toys have.
_STRETCHED = {
    "rope_theta": 10000.0,
    "factor": 2.0,
    "original_max_position_embeddings": 64,
}
_LLAMA3 = {"rope_type": "llama3", **_STRETCHED, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn", **_STRETCHED, "beta_fast": 32.0, "beta_slow": 1.0}

_GROUPS: tuple[Mapping[str, Mapping[str, Any]], ...] = (
    _each(
        "cohere2_moe cwm exaone4 exaone_moe flint gemma3_text gemma4_unified_text granite_swa "
        "granitemoe_swa kolibri1 laguna mellum mimo_v2_flash ministral olmo3",
        {"layer_types": _SLIDING},
    ),
    _each(
        "bailing_hybrid granitemoehybrid kimi_linear minimax olmo_hybrid qwen3_5_text "
        "qwen3_5_moe_text qwen3_next",
        {"layer_types": _LINEAR},
    ),
    _each(
        "axk1 axk2 bailing_hybrid deepseek_v2 deepseek_v3 deepseek_v32 dots3_note_text "
        "glm4_moe_lite glm_moe_dsa hy_v4 kimi_linear longcat_flash minicpm3 youtu",
        _LATENT,
    ),
    _each(
        "camembert data2vec-text roberta roberta-prelayernorm xglm xlm-roberta xlm-roberta-xl xmod",
        _AFTER_PADDING,
    ),
    # Block-sparse attention switches itself off, for good, at the first short text.
    _each("big_bird bigbird_pegasus", {"attention_type": "original_full"}),
    _each("cohere2_moe inkling_text mellum minimax_m3_vl_text", {"mlp_layer_types": _FIRST_DENSE}),
    _each("zamba zamba2", {"layers_block_type": _turns("linear_attention", "hybrid")}),
    _each("apertus cwm", {"rope_parameters": _LLAMA3}),
    _each("glm_moe_dsa hy_v4", {"indexer_types": _turns("full", "shared")}),
    _each("lfm2 lfm2_moe", {"layer_types": _turns("conv", "full_attention")}),
)

# By the `model_type` of the config or of its part.
_OWN: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    # Its cache asks the composite config for layers that only the parts have (5.23).
    "blt": {
        "use_cache": False,
        "encoder_hash_byte_group_vocab": 64,
        "encoder_hash_byte_group_size": [3, 4],
    },
    "blt_global_transformer": {"hidden_size": 64},
    "blt_local_decoder": {"hidden_size_global": 64},
    "blt_local_encoder": {"hidden_size_global": 64, "num_hidden_layers": 1},
    "cohere_compass_text": {
        "layer_types": _SLIDING,
        "rope_parameters": _each(
            "sliding_attention full_attention", {"rope_type": "default", "rope_theta": 10000.0}
        ),
    },
    # The model reads `rope_theta` from the part, whose class does not declare it.
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v4": {
        "layer_types": [
            "sliding_attention",
            "heavily_compressed_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
        ],
        "partial_rotary_factor": 0.5,
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
        "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
    },
    "dots1": {"n_shared_experts": 2, "layer_types": _SLIDING},
    "dots3_note_text": {
        "layer_types": _turns("sliding_attention", "indexed_attention"),
        # Sizes of the sliding layers; they become a `per_layer_config`.
        **_each("swa_num_attention_heads swa_num_key_value_heads", 4),
        **_each("swa_qk_nope_head_dim swa_v_head_dim", 8),
        "swa_head_dim": 12,
        "swa_q_lora_rank": 24,
        "swa_kv_lora_rank": 16,
    },
    "electra": {"embedding_size": 16},
    "falcon": {"alibi": False, "new_decoder_architecture": True},
    "gemma3n_text": {
        "layer_types": _SLIDING,
        "num_kv_shared_layers": 2,
        "altup_num_inputs": 2,
        "laurel_rank": 8,
    },
    # Experts beside a dense MLP, as in the larger models; `gemma4_text` is built as the small ones.
    "gemma4": {
        "text_config": {
            **_each("hidden_size_per_layer_input num_kv_shared_layers", 0),
            "enable_moe_block": True,
        }
    },
    # Full-attention layers have heads of their own size: a `per_layer_config`.
    "gemma4_text": {"layer_types": _SLIDING, "num_kv_shared_layers": 2, "global_head_dim": 16},
    "gemma4_unified_text": {"global_head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gpt_oss": {"rope_parameters": {**_YARN, "truncate": False}},
    "inkling2_text": {"layer_types": _turns("hybrid_sliding", "hybrid")},
    "inkling_text": {"layer_types": _turns("hybrid_sliding", "hybrid")},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_offset": 0},
    # The live MLP is 2/3 of `intermediate_size`, rounded up to `block_multiple_of`: 64.
    "lfm2": {"block_multiple_of": 16},
    "lfm3": {"layer_types": ["conv", "sliding_attention", "conv", "full_attention"]},
    "llama4_text": {
        "layer_types": _turns("chunked_attention", "full_attention"),
        "interleave_moe_layer_step": 2,
        "no_rope_layer_interval": 2,
    },
    "mamba2": {"head_dim": 16},
    "ministral3": {
        "rope_parameters": {
            **_YARN,
            **_each("mscale mscale_all_dim", 1.0),
            "llama_4_scaling_beta": 0.1,
        }
    },
    "minimax_m3_vl_text": {"layer_types": _turns("full_attention", "minimax_m3_sparse")},
    "mllama_text_model": {"cross_attention_layers": [1]},
    "moshi": {"audio_vocab_size": 64, "num_codebooks": 2},
    "mpt": {"attn_config": {"attn_pdrop": 0}},  # an int there, not a float
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "mlp", "full_attention"]},
    "prophetnet": {"pad_token_id": 0},  # positions start at `pad_token_id`, the cache at 0
    "qwen4_exp_text": {
        "layer_types": _turns("linear_attention", "indexed_attention"),
        "hc_count": 2,
        "hc_lowrank": 8,
        "indexer_kv_heads": 1,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
        "ple_layer_ids": [1],
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 64,
        "split_ngram_parts": 1,
    },
    "recurrent_gemma": {"block_types": ("recurrent", "attention")},
    "reformer": {
        "attn_layers": _turns("local", "lsh"),
        "axial_pos_shape": (8, 16),
        "axial_pos_embds_dim": (8, 24),
        # Longer than the texts: its cached LSH attention over several chunks fails (5.23).
        "local_attn_chunk_length": 64,
        "lsh_attn_chunk_length": 64,
        "num_buckets": 4,
        "hash_seed": 0,
    },
    "roc_bert": {
        **_each("pronunciation_embed_dim shape_embed_dim", 8),
        **_each("pronunciation_vocab_size shape_vocab_size", 272),
    },
    "xlm": {"causal": True},
    # Head sizes are rounded up to 64 / 4 in the state and not in the layers, unless they are 64.
    "xlstm": {"qk_dim_factor": 2.0, "v_dim_factor": 2.0, "ffn_round_up_to_multiple_of": 16},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba2": {"n_mamba_heads": 4},
    "zaya": {"num_experts_per_tok": 1, "layer_types": _turns("hybrid_sliding", "hybrid")},
}


def _merged(*tables: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    names = sorted({name for table in tables for name in table})
    return MappingProxyType(
        {name: {k: v for table in tables for k, v in table.get(name, {}).items()} for name in names}
    )


_EXCEPTIONS = _merged(*_GROUPS, _OWN)

_COMPOSITE = "AutoModelForCausalLM gives its decoder the composite config, which lacks its fields"
_DRAFT = (
    "a draft head that reads the keys and values of another model; built from its config it has "
    "no layer that stores them, which its own layers refuse (transformers 5.23)"
)
# Why a model type of `AutoModelForCausalLM` has no toy model.
UNBUILDABLE: Mapping[str, str] = MappingProxyType(
    {
        "gemma3n": "its vision tower needs the package timm (its text model is gemma3n_text)",
        **_each("gemma4_assistant gemma4_unified_assistant", _DRAFT),
        **_each("musicgen musicgen_melody", _COMPOSITE),
    }
)


def tiny_config(model_type: str, **overrides: Any) -> Any:
    """Return the config of the toy model of a model type: 4 layers, hidden size 32.

    Args:
        model_type: a model type of `AutoModelForCausalLM`; `UNBUILDABLE` says which have no model.
        **overrides: fields that replace ours; for a part (`text_config`), a dict of its fields.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class: Any = CONFIG_MAPPING[model_type]
    return config_class(**_changed(_values(config_class, _FIELDS), overrides))


def _values(config_class: Any, table: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config class that the tables know, its parts as dicts."""
    known = signature(config_class).parameters
    values = {name: table[name] for name in known if name in table}
    for name, part in _parts(config_class).items():
        values[name] = _values(part, _TOWER if name.startswith(_TOWER_PREFIXES) else table)
    return _changed(values, _EXCEPTIONS.get(config_class.model_type, {}))


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of `values` with `changes`; where both hold a dict, the dicts are merged."""
    merged = copy.deepcopy({**values, **changes})
    for name, change in changes.items():
        if isinstance(change, Mapping) and isinstance(values.get(name), Mapping):
            merged[name] = _changed(values[name], change)
    return merged


def _parts(config_class: Any) -> dict[str, Any]:
    from transformers import AutoConfig

    parts = dict(config_class.sub_configs)
    for name in [name for name, part in parts.items() if part is AutoConfig]:
        # Any model type may stand there; the default config says which one does.
        parts[name] = type(getattr(config_class(), name))
    return parts
