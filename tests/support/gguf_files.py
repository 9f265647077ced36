"""Toy `.gguf` files in the shape in which llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from optipfair.testing import byte_tokenizer, tiny_model

NAMES = {
    "gemma3_text": "gemma3",
    "qwen3_moe": "qwen3moe",
    "gpt_neox": "gptneox",
    "mistral": "llama",
}


def write_gguf(
    path: Path,
    model: Any,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, list[float]] | None = None,
) -> Path:
    """Write a model with further fields of its architecture, and small tensors of floats."""
    config = model.config
    architecture = NAMES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("toy")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    for name, value in metadata.items():
        _add(writer, f"{architecture}.{name}", value)
    _add_tokenizer(writer, config.vocab_size)
    kind = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        head, _, own = name.rpartition(".")
        stored = f"{names.get_name(head)}.{own}"
        writer.add_tensor(stored, _as_stored(name, tensor, config).float().numpy())
    for name, numbers in (tensors or {}).items():
        writer.add_tensor(name, np.array(numbers, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


def _add_tokenizer(writer: gguf.GGUFWriter, size: int) -> None:
    vocabulary = byte_tokenizer().get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    more = size - len(tokens)
    tokens += ["ab", *(f"<unused{number}>" for number in range(1, more))][
        :more
    ]  # what a merge gives
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3] * (size - 256))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_pad_token_id(258)


def _as_stored(name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """Llama's queries and keys are stored with the halves of each head interleaved."""
    if config.model_type in ("llama", "mistral"):
        for part, heads in (("q", config.num_attention_heads), ("k", config.num_key_value_heads)):
            if f".{part}_proj." in name:
                halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
                return halves.swapaxes(1, 2).reshape(tensor.shape)
    if config.model_type.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    return tensor


_LLAMA: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
_ALL_FULL = {"use_sliding_window": False, "max_window_layers": 4}
_GEMMA = {**_LLAMA, "head_dim": 32, "sliding_window": 8}
_BASE = {"rope.freq_base": 500000.0}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
# Frequencies that turn 4 times or more in the original length stay, those that turn less than once
# are divided by 8, between them 1 / ((1 - s) / 8 + s) with s = (turns - 1) / 3.
_FACTORS_8192 = [1.0, 1.0, 1.0, 1.0, 2.6945297, 8.0, 8.0, 8.0]
_FACTORS_256 = [1.0, 1.0, 3.568533, 8.0, 8.0, 8.0, 8.0, 8.0]
_LONG, _SHORT = [1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 9.0], [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500000.0, **more}}


def _gemma3_rope(**scaling: Any) -> dict[str, Any]:
    whole = {"rope_theta": 500000.0, **({"rope_type": "default"} | scaling)}
    local = {"rope_type": "default", "rope_theta": 10000.0}
    return {"rope_parameters": {"full_attention": whole, "sliding_attention": local}}


# Name → family, fields of its config, metadata of the file, and its small tensors.
GGUF_TOYS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, list[float]]]] = {
    "llama": ("llama", {**_LLAMA, **_rope("default")}, {**_BASE, "rope.dimension_count": 16}, {}),
    "linear": (
        "llama",
        {**_LLAMA, **_rope("linear", factor=4.0)},
        {
            **_BASE,
            "rope.dimension_count": 16,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 4.0,
        },
        {},
    ),
    "yarn": (
        "qwen2",
        {**_LLAMA, **_ALL_FULL, **_rope("yarn", factor=4.0, original_max_position_embeddings=128)},
        {
            **_BASE,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 128,
        },
        {},
    ),
    "heads of their own size": (
        "qwen3",
        {**_LLAMA, **_ALL_FULL, "head_dim": 32, **_rope("default")},
        {**_BASE, "attention.key_length": 32, "attention.value_length": 32},
        {},
    ),
    "biases": (
        "llama",
        {**_LLAMA, "attention_bias": True, **_rope("default")},
        {**_BASE, "rope.dimension_count": 16},
        {},
    ),
    "gemma2": (
        "gemma2",
        {
            **_GEMMA,
            "query_pre_attn_scalar": 32,
            "attn_logit_softcapping": 20.0,
            "final_logit_softcapping": 10.0,
            **_rope("default", rope_theta=10000.0),
        },
        {
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.sliding_window": 8,
            "attn_logit_softcapping": 20.0,
            "final_logit_softcapping": 10.0,
        },
        {},
    ),
    "gemma2 27B": (
        "gemma2",
        {
            **_GEMMA,
            "num_hidden_layers": 46,
            "layer_types": ["sliding_attention", "full_attention"] * 23,
            "query_pre_attn_scalar": 16,
            **_rope("default", rope_theta=10000.0),
        },
        {
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.sliding_window": 8,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        {},
    ),
    "gemma3 1B": (
        "gemma3_text",
        {
            **_GEMMA,
            "num_hidden_layers": 26,
            "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 4
            + ["sliding_attention"] * 2,
            "query_pre_attn_scalar": 32,
            **_gemma3_rope(),
        },
        {
            **_BASE,
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.sliding_window": 8,
        },
        {},
    ),
    "gemma3 27B": (
        "gemma3_text",
        {
            **_GEMMA,
            "num_hidden_layers": 62,
            "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 10
            + ["sliding_attention"] * 2,
            "query_pre_attn_scalar": 16,
            **_gemma3_rope(rope_type="linear", factor=8.0),
        },
        {
            **_BASE,
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.sliding_window": 8,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
        {},
    ),
    "llama 3.1": (
        "llama",
        {
            **_LLAMA,
            "max_position_embeddings": 16384,
            "rope_parameters": {**_LLAMA3, "original_max_position_embeddings": 8192},
        },
        {**_BASE, "rope.dimension_count": 16},
        {"rope_freqs.weight": _FACTORS_8192},
    ),
    "other factors": (
        "llama",
        {**_LLAMA, "rope_parameters": {**_LLAMA3, "original_max_position_embeddings": 256}},
        {**_BASE, "rope.dimension_count": 16},
        {"rope_freqs.weight": _FACTORS_256},
    ),
    "longrope": (
        "phi3",
        {
            **_LLAMA,
            "original_max_position_embeddings": 300,
            **_rope(
                "longrope",
                rope_theta=10000.0,
                long_factor=_LONG,
                short_factor=_SHORT,
                original_max_position_embeddings=300,
                attention_factor=1.1,
            ),
        },
        {
            "rope.freq_base": 10000.0,
            "rope.dimension_count": 16,
            "rope.scaling.original_context_length": 300,
            "rope.scaling.attn_factor": 1.1,
        },
        {"rope_factors_long.weight": _LONG, "rope_factors_short.weight": _SHORT},
    ),
}


def gguf_toy(path: Path, name: str) -> Any:
    """Write a toy's file; the model that it holds is returned."""
    family, fields, metadata, tensors = GGUF_TOYS[name]
    model: Any = tiny_model(family, **fields)
    write_gguf(path, model, metadata, tensors)
    return model
