"""A model as llama.cpp reads it: its architecture, metadata and tensors in a `.gguf` file.

Layers that are alike are written in the family's own architecture. Layers that differ are written
as `deci`, which has an entry for each layer: a Llama whose widths and heads may be any. Facts and
traps: `docs/export.md`.

Axes: `I` neurons, `H` hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..arch.fixed_patterns import PERIODS
from .llama_shaped import (
    FAMILIES,
    constants_left,
    rope,
    theta,
    why_not_llama_shaped,
    why_not_plain,
    why_not_rope,
)
from .source import LayerShape, Source
from .tensors import Change, Made, halves_interleaved, ones, padded, zeros

DECI = "deci"
_ROPES = ("default", "linear", "llama3")
_BLOCK = 32  # values that Q8_0 quantizes together, along a row


@dataclass(frozen=True)
class Form:
    """How llama.cpp holds a family whose layers are alike."""

    architecture: str
    interleaved: bool = False  # whether it turns neighbouring positions of a head together
    biases: bool = True  # whether projections may have biases


FORMS: Mapping[str, Form] = {
    "llama": Form("llama", interleaved=True),
    "mistral": Form("llama", interleaved=True),
    "qwen2": Form("qwen2"),
    "qwen3": Form("qwen3", biases=False),
}


@dataclass(frozen=True)
class Row:
    """A tensor to write: `made`, under its name in llama.cpp."""

    name: str
    made: Made


def why_not_gguf(source: Source) -> str:
    """Why a model cannot be written so; empty where it can."""
    if source.family in PERIODS:
        return (
            f"llama.cpp has the pattern of the layers of {source.family!r} in its code; convert it "
            "with convert_hf_to_gguf.py of llama.cpp if no layer was removed"
        )
    if source.family not in FORMS:
        return (
            f"{source.family!r} is not written here ({', '.join(FORMS)} are); a model whose layers "
            "are alike is converted by convert_hf_to_gguf.py of llama.cpp"
        )
    reason = why_not_rope(source, _ROPES) or why_not_plain(source)
    if reason:
        return reason
    if source.uniform:
        return _why_no_biases(source)
    constant = next(constants_left(source), None)
    if constant is not None:
        return f"{constant[1]} of layer {constant[0]} is gone but for its bias"
    return why_not_llama_shaped(source)


def _why_no_biases(source: Source) -> str:
    found = next((name for name in source.tensors if name.endswith("_proj.bias")), None)
    if found is None or FORMS[source.family].biases:
        return ""
    return f"it has {found}, which llama.cpp does not read of {source.family!r}"


def form_of(source: Source) -> Form:
    """The form to write a model in."""
    if source.uniform:
        return FORMS[source.family]
    assert source.family in FAMILIES
    return Form(DECI, interleaved=True)


def metadata(source: Source, *, padded_to: int = 1) -> dict[str, Any]:
    """The fields of the architecture: name behind it → value."""
    layers, deci = source.layers, not source.uniform
    heads, groups = source.shared("num_attention_heads"), source.shared("num_key_value_heads")
    widths = [_width(each, padded_to) for each in layers]
    found: dict[str, Any] = {
        "vocab_size": int(source.shared("vocab_size")),
        "context_length": int(source.shared("max_position_embeddings")),
        "embedding_length": source.hidden,
        "block_count": len(layers),
        "feed_forward_length": widths if deci else widths[0],
        # The first layer says the size of a head for all, so that it has heads in any case.
        "attention.head_count": [
            each.heads or (heads if not index else 0) for index, each in enumerate(layers)
        ]
        if deci
        else heads,
        "attention.head_count_kv": [each.groups for each in layers] if deci else groups or heads,
        "attention.layer_norm_rms_epsilon": float(source.shared("rms_norm_eps")),
        "rope.freq_base": theta(source),
        "rope.dimension_count": source.head_dim,
    }
    if source.head_dim * heads != source.hidden or source.family == "qwen3":
        found |= {"attention.key_length": source.head_dim}
        found |= {"attention.value_length": source.head_dim}
    parameters = rope(source)
    if parameters.get("rope_type") == "linear":
        found |= {"rope.scaling.type": "linear"}
        found |= {"rope.scaling.factor": float(parameters["factor"])}  # type: ignore[arg-type]
    return found


def _width(layer: LayerShape, padded_to: int) -> int:
    """The neurons of a layer in the file. One without any has one that gives nothing: where there
    is none, llama.cpp leaves the attention of the layer out too.
    """
    return max(-(-layer.width // padded_to) * padded_to, padded_to)


def rows(source: Source, names: Any, *, padded_to: int = 1) -> Iterator[Row]:
    """All tensors, in the order of the checkpoint; `names` are gguf's for the architecture."""
    head = source.stored.view.layers_path
    form = form_of(source)
    for name, info in source.tensors.items():
        if name == "lm_head.weight" and source.tied:
            continue
        base, _, kind = name.rpartition(".")
        found = names.get_name(base)
        assert found is not None, name
        made: Made | None = Made(name, info.shape, info)
        if name.startswith(f"{head}."):
            number, own = name[len(head) + 1 :].split(".", 1)
            made = _in_layer(source, form, int(number), own, info, padded_to)
        if made is not None:
            yield Row(f"{found}.{kind}", made)


def _in_layer(
    source: Source, form: Form, index: int, own: str, info: Any, padded_to: int
) -> Made | None:
    layer, part = source.layers[index], own.split(".", maxsplit=1)[0]
    if part in ("self_attn", "input_layernorm") and not layer.heads:
        return _of_no_attention(own, info, source.hidden) if index == 0 else None
    if part == "mlp":
        return _of_mlp(own, info, layer, padded_to)
    made = Made(own, info.shape, info)
    if part == "post_attention_layernorm" and not layer.width:
        return replace(made, change=ones(*info.shape))
    turned: dict[str, int] = {"self_attn.q_proj": layer.heads, "self_attn.k_proj": layer.groups}
    owner = own.rpartition(".")[0]
    if form.interleaved and owner in turned:
        return replace(made, change=halves_interleaved(turned[owner]))
    return made


def _of_no_attention(own: str, info: Any, hidden: int) -> Made | None:
    """A first layer that attends to nothing: in llama.cpp a projection of zeros in its place."""
    if own == "self_attn.o_proj.weight":
        return Made(own, (hidden, hidden), info, zeros(hidden, hidden))
    return Made(own, (hidden,), info, ones(hidden)) if own.startswith("input_layernorm") else None


def _of_mlp(own: str, info: Any, layer: LayerShape, padded_to: int) -> Made:
    width = _width(layer, padded_to)
    if own == "mlp.down_proj.bias" or width == layer.width:
        return Made(own, info.shape, info)
    axis = 1 if own == "mlp.down_proj.weight" else 0
    shape = (*info.shape[:axis], width, *info.shape[axis + 1 :])
    change: Change = padded(width, axis) if layer.width else zeros(*shape)
    return Made(own, shape, info, change)


def rope_factors(source: Source) -> np.ndarray[Any, Any] | None:
    """What the frequencies are divided by, (D / 2,), as Llama 3 lengthens its context; else None.

    Frequencies that turn often in the original length stay, those that hardly turn are divided by
    the factor, and those between by something between (Llama 3.1's reference code).
    """
    parameters = rope(source)
    if parameters.get("rope_type") != "llama3":
        return None
    factor, low, high, length = (
        float(parameters[name])  # type: ignore[arg-type]
        for name in (
            *("factor", "low_freq_factor", "high_freq_factor"),
            "original_max_position_embeddings",
        )
    )
    size = source.head_dim
    frequencies = theta(source) ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    found = []
    for frequency in frequencies.tolist():
        turns = length * frequency / (2 * math.pi)
        if turns < low:
            found.append(factor)
        elif turns > high:
            found.append(1.0)
        else:
            share = (turns - low) / (high - low)
            found.append(1 / ((1 - share) / factor + share))
    return np.array(found, dtype=np.float32)


def block_of(dtype: str) -> int:
    """What widths are padded to, so that each row holds whole blocks."""
    return _BLOCK if dtype == "q8_0" else 1
