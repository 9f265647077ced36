"""The config of a `.gguf` file: what transformers makes of it, and what it passes over.

A file states how its model computes in metadata and in a few small tensors. transformers takes some
fields over; each other field that changes what is computed is set here, or the file is refused.
What the fields mean is what llama.cpp computes from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import UnsupportedModelError
from ..files.gguf_header import GgufHeader
from .gguf_names import names_once
from .twin import changed_config

Changes = dict[str, Any]
Rule = Callable[[Any, Any], Changes]  # config, value of the field → fields of the config

FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_ROPE = "rope.scaling."
_BASE = 10000.0  # llama.cpp's, where a file states none
_TOLERANCE = 1e-4  # of factors that are stored in float32


def gguf_config(config: Any, header: GgufHeader) -> Any:
    """The config that transformers read from a file, with all that changes what is computed.

    Raises:
        UnsupportedModelError: the file states something that this config cannot.
    """
    fields = header.fields()
    taken = _taken_over(config.model_type)
    changes: Changes = {}
    for name, value in fields.items():  # zero, false and empty state that there is no such thing
        if name in _RULES:
            changes |= _RULES[name](config, value)
        elif name not in taken and not name.startswith("rope.") and value:
            raise _refusal(header, name, value)
    changes |= _biases(config, header) | _query_scale(config)
    config = changed_config(config, changes)
    return changed_config(config, _rope(config, fields, header))


def _taken_over(model_type: str) -> set[str]:
    """The fields that transformers' own table turns into fields of the config."""
    from transformers.integrations import ggml

    table: Any = ggml.GGUF_CONFIG_MAPPING
    family = table.get(model_type) or table.get(model_type.removesuffix("_text")) or {}
    return {name for name, field in family.items() if field is not None}


def _refusal(header: GgufHeader, name: str, value: object) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{header.path} states {header.architecture}.{name} = {value!r}, which its config in "
        "transformers cannot, so another model would be pruned. Use the model's safetensors files."
    )


def _as(field: str) -> Rule:
    """The value of a field of the config; one that has no such field must not need it."""

    def rule(config: Any, value: Any) -> Changes:
        if getattr(config, field, value) == value and hasattr(config, field):
            return {}
        if not hasattr(config, field):
            raise UnsupportedModelError(
                f"The .gguf file states {value!r} where a config of {config.model_type!r} has no "
                f"field {field}. Use the model's safetensors files."
            )
        return {field: value}

    return rule


def _nothing(_config: Any, _value: Any) -> Changes:
    return {}


def _only(*allowed: object) -> Rule:
    """What every model of the family does anyway; any other value is refused."""

    def rule(config: Any, value: Any) -> Changes:
        if value not in allowed:
            raise UnsupportedModelError(
                f"The .gguf file states {value!r} where a {config.model_type!r} is always "
                f"{' or '.join(map(repr, allowed))}. Use the model's safetensors files."
            )
        return {}

    return rule


def _head_size(config: Any, value: int) -> Changes:
    if value == _head_dim(config):
        return {}
    return _as("head_dim")(config, value)


def _head_dim(config: Any) -> int:
    stated = getattr(config, "head_dim", None)
    return int(stated or config.hidden_size // config.num_attention_heads)


def _gpt2_positions(config: Any, value: int) -> Changes:
    return {"n_positions": value} if config.model_type == "gpt2" else {}


def _width(config: Any, value: Any) -> Changes:
    if config.model_type == "gpt2":
        return {"n_inner": value}
    return {"ffn_hidden_size": value} if config.model_type == "falcon" else {}


def _layer_types(config: Any, value: Any) -> Changes:
    """Which layers see only a window: a list, or every how many one sees all."""
    stated = getattr(config, "layer_types", None)
    if isinstance(value, list):
        types = ["sliding_attention" if each else "full_attention" for each in value]
    else:
        count = config.num_hidden_layers
        whole = [value > 0 and number % value == value - 1 for number in range(count)]
        types = ["full_attention" if each else "sliding_attention" for each in whole]
    return {} if stated == types else _as("layer_types")(config, types)


_RULES: Mapping[str, Rule] = {
    "context_length": _gpt2_positions,
    "feed_forward_length": _width,
    "attention.key_length": _head_size,
    "attention.value_length": _head_size,
    "attention.sliding_window": _as("sliding_window"),
    "attention.sliding_window_pattern": _layer_types,
    "attn_logit_softcapping": _as("attn_logit_softcapping"),
    "final_logit_softcapping": _as("final_logit_softcapping"),
    "attention.causal": _only(True),
    "attention.max_alibi_bias": _only(8.0),
    "expert_feed_forward_length": _as("moe_intermediate_size"),
    "expert_shared_feed_forward_length": _as("shared_expert_intermediate_size"),
    "expert_weights_norm": _as("norm_topk_prob"),
    "expert_weights_scale": _only(0.0, 1.0),
    "expert_gating_func": _only(1),  # softmax
    "use_parallel_residual": _as("use_parallel_residual"),
    "tensor_data_layout": _nothing,
    "vocab_size": _as("vocab_size"),
}


def _biases(config: Any, header: GgufHeader) -> Changes:
    """Biases that configs turn on by a field."""
    fields = {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}
    return {
        field: True
        for field, tensor in fields.items()
        if f"blk.0.{tensor}" in header.tensors and getattr(config, field, None) is False
    }


def _query_scale(config: Any) -> Changes:
    """Gemma divides by the root of a number that files do not state; llama.cpp takes it for 27B
    models, which it knows by their layers, from the width of a head of all."""
    if not hasattr(config, "query_pre_attn_scalar"):
        return {}
    largest = {"gemma2": 46, "gemma3_text": 62}.get(config.model_type)
    by_width = config.hidden_size // config.num_attention_heads
    return {
        "query_pre_attn_scalar": by_width
        if config.num_hidden_layers == largest
        else _head_dim(config)
    }


def _rope(config: Any, fields: Mapping[str, Any], header: GgufHeader) -> Changes:
    """Rotary positions: base, share of the head that turns, and how positions are scaled."""
    stated = getattr(config, "rope_parameters", None)
    if not isinstance(stated, dict) or not stated:
        if any(name.startswith(_ROPE) for name in fields):
            raise _refusal(header, "rope.scaling", fields)
        return {}
    base = float(fields.get("rope.freq_base", _BASE))
    scaling, more = _scaling(config, fields, header)
    known = {"rope.freq_base", "rope.freq_base_swa", "rope.dimension_count"}
    known |= {"rope.scale_linear", *(f"{_ROPE}{each}" for each in _KNOWN_SCALING)}
    for name, value in fields.items():
        if name.startswith("rope.") and name not in known and value:
            raise _refusal(header, name, value)
    turned = _turned(config, fields, header)
    if "sliding_attention" in stated:  # layers with a window keep their own base, unscaled
        local = {
            "rope_type": "default",
            "rope_theta": float(fields.get("rope.freq_base_swa", _BASE)),
        }
        whole = {"rope_theta": base, **scaling, **turned}
        return {"rope_parameters": {"full_attention": whole, "sliding_attention": local}, **more}
    if fields.get("rope.freq_base_swa", base) != base:
        raise _refusal(header, "rope.freq_base_swa", fields["rope.freq_base_swa"])
    return {"rope_parameters": {"rope_theta": base, **scaling, **turned}, **more}


_KNOWN_SCALING = (
    *("type", "factor", "original_context_length", "attn_factor", "finetuned"),
    *("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"),
)


def _turned(config: Any, fields: Mapping[str, Any], header: GgufHeader) -> Changes:
    """The share of each head that is turned, where that is not all of it."""
    count = fields.get("rope.dimension_count")
    head = int(fields.get("attention.key_length", _head_dim(config)))
    before = config.rope_parameters.get("partial_rotary_factor")
    share = before or getattr(config, "partial_rotary_factor", None) or 1.0
    if count is None or count == int(head * share):
        return {} if before is None else {"partial_rotary_factor": before}
    if before is None and not hasattr(config, "partial_rotary_factor"):
        raise _refusal(header, "rope.dimension_count", count)
    return {"partial_rotary_factor": count / head}


def _scaling(config: Any, fields: Mapping[str, Any], header: GgufHeader) -> tuple[Changes, Changes]:
    """How positions are scaled: fields of `rope_parameters`, and others of the config."""
    kind = str(fields.get(f"{_ROPE}type", ""))
    factor = float(fields.get(f"{_ROPE}factor", fields.get("rope.scale_linear", 0.0)))
    length = fields.get(f"{_ROPE}original_context_length") or config.max_position_embeddings
    attention = float(fields.get(f"{_ROPE}attn_factor", 1.0))
    if "rope_factors_long.weight" in header.tensors:
        return _longrope(config, header, length, attention)
    if "rope_freqs.weight" in header.tensors:
        return _by_factors(header, length), {}
    if kind in ("", "none", "linear") and factor in (0.0, 1.0):
        return {"rope_type": "default"}, {}
    if kind in ("", "linear"):
        return {"rope_type": "linear", "factor": factor}, {}
    if kind != "yarn":
        raise _refusal(header, f"{_ROPE}type", kind)
    if fields.get(f"{_ROPE}yarn_ext_factor", 1.0) not in (1.0, -1.0):
        raise _refusal(header, f"{_ROPE}yarn_ext_factor", fields[f"{_ROPE}yarn_ext_factor"])
    yarn = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": length,
        "beta_fast": float(fields.get(f"{_ROPE}yarn_beta_fast", 32.0)),
        "beta_slow": float(fields.get(f"{_ROPE}yarn_beta_slow", 1.0)),
    }
    attention *= float(fields.get(f"{_ROPE}yarn_attn_factor", 1.0))
    if attention != 1.0:
        yarn["attention_factor"] = attention * (1.0 + 0.1 * math.log(factor))
    return yarn, {}


def _longrope(
    config: Any, header: GgufHeader, length: int, attention: float
) -> tuple[Changes, Changes]:
    scaling = {
        "rope_type": "longrope",
        "long_factor": header.floats("rope_factors_long.weight"),
        "short_factor": header.floats("rope_factors_short.weight"),
        "original_max_position_embeddings": length,
        "attention_factor": attention,
    }
    has_field = hasattr(config, "original_max_position_embeddings")
    return scaling, {"original_max_position_embeddings": length} if has_field else {}


def _by_factors(header: GgufHeader, length: int) -> Changes:
    """The scaling of Llama 3, of which a file holds only what each frequency is divided by."""
    factors = header.floats("rope_freqs.weight")
    base = float(header.fields().get("rope.freq_base", _BASE))
    if all(each == 1.0 for each in factors):
        return {"rope_type": "default"}
    for original in (8192, length):
        guess = {
            "rope_type": "llama3",
            "factor": max(factors),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": original,
        }
        made = _llama3_factors(guess, base, len(factors))
        if all(math.isclose(a, b, rel_tol=_TOLERANCE) for a, b in zip(made, factors, strict=True)):
            return guess
    # Any other factors are those of a longrope that is as long for short texts as for long ones.
    return {
        "rope_type": "longrope",
        "long_factor": factors,
        "short_factor": factors,
        "original_max_position_embeddings": length,
        "attention_factor": 1.0,
    }


def _llama3_factors(scaling: Mapping[str, Any], base: float, count: int) -> list[float]:
    """What Llama 3.1 divides each frequency by (Llama 3.1's reference code, `apply_scaling`)."""
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors = []
    for number in range(count):
        turns = original / (2 * math.pi * base ** (number / count))
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return factors


def check_all_taken(header: GgufHeader, model: Any) -> None:
    """Refuse a file with tensors that transformers would pass over while it loads the model.

    Raises:
        UnsupportedModelError: which, and how many.
    """
    from transformers import modeling_gguf_pytorch_utils as reading

    if header.architecture not in reading.GGUF_SUPPORTED_ARCHITECTURES:
        return  # read another way, which reports what it did not expect
    processors: Any = reading.TENSOR_PROCESSORS
    processor = processors.get(header.architecture, reading.TensorProcessor)(model.config.to_dict())
    with names_once():
        taken: Any = reading.get_gguf_hf_weights_map(model, processor)
    left = sorted(set(header.tensors) - set(taken) - set(FACTORS))
    left = [name for name in left if "_exps." not in name and "_shexp." not in name]
    if left:
        raise UnsupportedModelError(
            f"{header.path} holds {len(left)} tensors that transformers does not read "
            f"({', '.join(left[:3])}), so another model would be pruned. Use the model's "
            "safetensors files."
        )
