"""Which values of a config's fields are surely accepted, for the fields that change no shape.

A field that is not listed, or another value, proves nothing: then the model has to be built,
which accepts or refuses it. So what is rare may be missing here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_ACTIVATIONS = {"silu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu"}
_DTYPES = {"float32", "float16", "bfloat16"}
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_ROPE_NUMBERS: dict[str, set[str]] = {  # type of rotary embedding → what it needs beside the base
    "default": set(),
    "linear": {"factor"},
    "llama3": {
        *("factor", "low_freq_factor", "high_freq_factor"),
        "original_max_position_embeddings",
    },
}


def is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and value > 0


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _is_rope(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    kind = value.get("rope_type", value.get("type", "default"))
    needed = _ROPE_NUMBERS.get(kind) if isinstance(kind, str) else None
    numbers = {k: v for k, v in value.items() if k not in ("rope_type", "type")}
    return (
        needed is not None
        and needed <= numbers.keys() <= needed | {"rope_theta", "partial_rotary_factor"}
        and all(map(_is_number, numbers.values()))
        and _is_share(numbers.get("partial_rotary_factor", 1))
    )


def _is_plain_rope(value: Any) -> bool:
    return _is_rope(value) and {value.get(k, "default") for k in ("rope_type", "type")} == {
        "default"
    }


def _are_ropes(value: Any) -> bool:
    """One for each type of layer."""
    by_type = isinstance(value, dict) and value.keys() == _LAYER_TYPES
    return by_type and all(map(_is_rope, value.values()))


def _list_of(kind: type | set[str]) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        if not isinstance(value, list):
            return False
        if isinstance(kind, set):
            return all(isinstance(each, str) and each in kind for each in value)
        return all(type(each) is kind for each in value)

    return check


def _one_of(values: set[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in values


KINDS: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "texts": _list_of(str),
    "bool": lambda value: type(value) is bool,
    "no": lambda value: value is False,
    "null": lambda value: value is None,
    "never": lambda value: False,
    "count": is_count,
    "positive count": lambda value: is_count(value) and value > 0,
    "number": _is_number,
    "share": _is_share,
    "part": lambda value: _is_number(value) and _is_share(value),
    "positive float": lambda value: type(value) is float and value > 0,
    "float": lambda value: type(value) is float and 0 <= value <= 1,
    "token": lambda value: type(value) is int,
    "tokens": lambda value: type(value) is int or _list_of(int)(value),
    "activation": _one_of(_ACTIVATIONS),
    "dtype": _one_of(_DTYPES),
    "layer types": _list_of(_LAYER_TYPES),
    "rope": _is_rope,
    "plain rope": _is_plain_rope,
    "ropes": _are_ropes,
    "mapping": lambda value: isinstance(value, dict),
}

# A kind with a question mark may be null.
_BY_KIND = {
    "text": "model_type _name_or_path transformers_version prefix summary_type",
    "texts": "architectures",
    "bool": """use_cache attention_bias mlp_bias qkv_bias use_sliding_window norm_topk_prob
        output_router_logits scale_attn_weights scale_attn_by_inverse_layer_idx
        reorder_and_upcast_attn summary_use_proj summary_proj_to_labels use_parallel_residual
        is_decoder multi_query parallel_attn alibi bias apply_residual_connection_post_layernorm
        slow_but_exact masked_softmax_fusion attention_softmax_in_fp32 skip_bias_add
        skip_bias_add_qkv rope_interleaved is_llama_config""",
    "no?": "use_bidirectional_attention",
    "count": "pretraining_tp num_experts_per_tok max_window_layers n_ctx seq_length offset_alibi",
    "positive count": """query_pre_attn_scalar original_max_position_embeddings
        _sliding_window_pattern""",
    "count?": "sliding_window",
    "number": "rope_theta rope_local_base_freq rotary_emb_base",
    "positive float?": "attn_logit_softcapping final_logit_softcapping",
    "part": "rotary_pct partial_rotary_factor",
    "share": """attention_dropout attn_pdrop embd_pdrop resid_pdrop dropout hidden_dropout
        activation_dropout layerdrop classifier_dropout summary_first_dropout""",
    "float": """initializer_range init_std rms_norm_eps layer_norm_epsilon layer_norm_eps
        router_aux_loss_coef router_jitter_noise""",
    "token?": "bos_token_id pad_token_id",
    "token": "unk_token_id",
    "tokens?": "eos_token_id",
    "activation": "hidden_act hidden_activation activation_function activation",
    "dtype?": "dtype torch_dtype",
    "layer types?": "layer_types",
    "rope?": "rope_parameters rope_scaling",
    "mapping": "auto_map task_specific_params",
}  # fmt: skip
FIELDS: Mapping[str, str] = {
    field: kind for kind, fields in _BY_KIND.items() for field in fields.split()
}


def is_accepted(field: str, value: object, kinds: Mapping[str, str]) -> bool:
    """Whether every config class takes this value of a field that changes no shape.

    Args:
        field: its name.
        value: what the config says.
        kinds: field → kind where a family differs.

    A field that is known to no one may be null.
    """
    kind = kinds.get(field) or FIELDS.get(field, "null")
    if value is None and kind.endswith("?"):
        return True
    return KINDS[kind.removesuffix("?")](value)
