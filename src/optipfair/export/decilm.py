"""DeciLM (`nemotron-nas`): the form in which vLLM and MLX take a Llama whose layers differ.

Each layer states its MLP as a multiple of the hidden size, which both engines round up to 256
neurons, so widths are padded with neurons that give nothing. A part that a layer is without is
`no_op`, and has no tensors. Keys and traps: `docs/export.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..loading.rope_fields import in_both_spellings
from .llama_shaped import (
    NORM_OF,
    constants_left,
    rope,
    sizes,
    theta,
    why_not_llama_shaped,
    why_not_rope,
)
from .source import LayerShape, Source
from .tensors import Made, padded, zeros

_STEP = 256  # to which both engines round a width
_CODE = "configuration_decilm.py"
_ROPES = ("default", "linear", "llama3")


def why_not_decilm(source: Source) -> str:
    """Why a model cannot be written so; empty where it can."""
    reason = why_not_llama_shaped(source) or why_not_rope(source, _ROPES)
    if reason:
        return reason
    heads = source.shared("num_attention_heads")
    if source.head_dim * heads != source.hidden:
        return (
            f"its heads are of {source.head_dim} numbers, and {heads} of them are not the hidden "
            f"size of {source.hidden}"
        )
    for index, layer in enumerate(source.layers):
        if layer.heads not in (0, heads):
            return f"layer {index} has {layer.heads} query heads, others {heads}"
    constant = next(constants_left(source), None)
    if constant is not None:
        return f"{constant[1]} of layer {constant[0]} is gone but for its bias"
    if _has(source, "mlp.down_proj.bias") and not _has(source, "mlp.gate_proj.bias"):
        return "some projections of its MLPs have biases and some have none"
    return ""


def decilm_config(source: Source) -> dict[str, Any]:
    """The fields of its config.json."""
    drop = ("per_layer_config", "intermediate_size", "num_key_value_heads", "quantization_config")
    fields = {name: value for name, value in source.fields.items() if name not in drop}
    heads, parameters = source.shared("num_attention_heads"), rope(source)
    stated = {"rope_type": "default", **parameters, "rope_theta": theta(source)}
    return {
        **in_both_spellings({**fields, "rope_parameters": stated}),
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "auto_map": {"AutoConfig": "configuration_decilm.DeciLMConfig"},
        "head_dim": source.head_dim,
        "attention_bias": _has(source, "self_attn.q_proj.bias"),
        "mlp_bias": _has(source, "mlp.down_proj.bias"),
        "tie_word_embeddings": source.tied,
        "block_configs": [
            _block(index, layer, heads, source.hidden) for index, layer in enumerate(source.layers)
        ],
    }


def _block(index: int, layer: LayerShape, heads: int, hidden: int) -> dict[str, Any]:
    attends = layer.heads > 0 or index == 0
    attention = {
        # A first layer that attends to nothing has one head of zeros: vLLM needs it there.
        "n_heads_in_group": heads // max(layer.groups, 1) if attends else None,
        "no_op": not attends,
        "replace_with_linear": False,
    }
    mlp = {
        "ffn_mult": round(3 * up_to_step(layer.width) / (2 * hidden), 6) if layer.width else None,
        "no_op": not layer.width,
        "replace_with_linear": False,
    }
    return {"attention": attention, "ffn": mlp}


def up_to_step(width: int) -> int:
    """The width that engines read for a layer of so many neurons."""
    return -(-width // _STEP) * _STEP


def decilm_tensors(source: Source) -> Iterator[Made]:
    """The tensors: Llama's, widths padded; those of parts that are gone are left out."""
    head = source.stored.view.layers_path
    for name, info in source.tensors.items():
        if name == "lm_head.weight" and source.tied:
            continue
        if not name.startswith(f"{head}."):
            yield Made(name, info.shape, info)
            continue
        number, own = name[len(head) + 1 :].split(".", 1)
        made = _in_layer(source, int(number), own, Made(name, info.shape, info))
        if made is not None:
            yield made
    if _has(source, "self_attn.q_proj.bias") and not _has(source, "self_attn.o_proj.bias"):
        yield from _biases_out(source)


def _in_layer(source: Source, index: int, own: str, made: Made) -> Made | None:
    layer, part = source.layers[index], own.split(".", maxsplit=1)[0]
    if part in NORM_OF.values():
        part = next(each for each, norm in NORM_OF.items() if norm == part)
    if not sizes(layer)[part]:
        return _of_first(source, own, made) if (index, part) == (0, "self_attn") else None
    width, rows = up_to_step(layer.width), made.shape
    if not own.startswith("mlp.") or width == layer.width or own == "mlp.down_proj.bias":
        return made
    axis = 1 if own == "mlp.down_proj.weight" else 0
    shape = (*rows[:axis], width, *rows[axis + 1 :])
    return Made(made.name, shape, made.source, padded(width, axis))


def _of_first(source: Source, own: str, made: Made) -> Made:
    """A first layer without attention, as an attention of zeros with one key/value head."""
    if own.startswith("input_layernorm"):
        return made
    rows = {"q": source.hidden, "k": source.head_dim, "v": source.head_dim, "o": source.hidden}
    size = rows[own.split(".")[1][0]]
    shape = (size, source.hidden) if own.endswith("weight") else (size,)
    return Made(made.name, shape, made.source, zeros(*shape))


def _biases_out(source: Source) -> Iterator[Made]:
    """Zeros as the biases behind attention, where queries, keys and values alone have some."""
    head = source.stored.view.layers_path
    for index, layer in enumerate(source.layers):
        if layer.heads or index == 0:
            name = f"{head}.{index}.self_attn."
            like = source.tensors[f"{name}q_proj.bias"]
            shape = (source.hidden,)
            yield Made(f"{name}o_proj.bias", shape, like, zeros(*shape))


def _has(source: Source, own: str) -> bool:
    return any(name.endswith(f".{own}") for name in source.tensors)


def write_code(folder: Path) -> None:
    """The class of the config, which vLLM reads; MLX has its own."""
    code = files("optipfair.export").joinpath("code", f"{_CODE}.txt").read_text(encoding="utf-8")
    (folder / _CODE).write_text(code, encoding="utf-8")


def as_json(fields: dict[str, Any]) -> str:
    return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
