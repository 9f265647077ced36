"""Which models are built like Llama, so that an engine's form for layers that differ can hold them.

A layer is `x + attention(norm(x))` and then `x + mlp(norm(x))`, with RMS norms, a gated MLP with
SiLU and rotary positions on the whole head.
"""

from __future__ import annotations

from collections.abc import Iterator

from .source import LayerShape, Source

# Families of this form, whatever their config says of biases.
FAMILIES = ("llama", "mistral", "qwen2")
_LAYER = {
    *(f"self_attn.{name}_proj.{kind}" for name in "qkvo" for kind in ("weight", "bias")),
    *(f"mlp.{name}_proj.{kind}" for name in ("gate", "up", "down") for kind in ("weight", "bias")),
    *("input_layernorm.weight", "post_attention_layernorm.weight"),
}
NORM_OF = {"self_attn": "input_layernorm", "mlp": "post_attention_layernorm"}


def why_not_llama_shaped(source: Source) -> str:
    """What of a model no form like Llama's can hold; empty where it is all."""
    if source.family not in FAMILIES:
        return (
            f"its layers differ, and {source.family!r} is not built like Llama "
            f"({', '.join(FAMILIES)}), the only form in which the engine takes layers that differ"
        )
    head = source.stored.view.layers_path
    for name in source.tensors:
        if name.startswith(f"{head}."):
            layer, own = name[len(head) + 1 :].split(".", 1)
            if own not in _LAYER:
                return f"layer {layer} has {own}, which no such layer has"
    return why_not_plain(source)


def why_not_plain(source: Source) -> str:
    """What of a model no entry of an engine's metadata says, so that it would be another model."""
    if source.shared("hidden_act") not in ("silu", "swish"):
        return f"its activation is {source.shared('hidden_act')!r}, not 'silu'"
    window = source.shared("sliding_window") if source.shared("use_sliding_window", True) else None
    if window is not None and window < source.shared("max_position_embeddings"):
        return f"it attends to a window of {window} tokens"
    return ""


def why_not_rope(source: Source, kinds: tuple[str, ...]) -> str:
    """Why its rotary positions are none of these kinds; empty where they are."""
    kind = rope(source).get("rope_type", "default")
    return "" if kind in kinds else f"its rotary positions are of the kind {kind!r}"


def rope(source: Source) -> dict[str, object]:
    """The rotary positions: theta, kind and factors, as transformers 5 writes them."""
    found = source.shared("rope_parameters") or {}
    return dict(found)


def theta(source: Source) -> float:
    """The base of the rotary frequencies."""
    return float(rope(source).get("rope_theta") or source.shared("rope_theta") or 10000.0)  # type: ignore[arg-type]


def constants_left(source: Source) -> Iterator[tuple[int, str]]:
    """Layers and parts that are gone but for a bias out of them, which they still give."""
    head = source.stored.view.layers_path
    for index, layer in enumerate(source.layers):
        for part, size in sizes(layer).items():
            name = f"{head}.{index}.{part}.{'o' if part == 'self_attn' else 'down'}_proj.bias"
            if size == 0 and name in source.tensors:
                yield index, part


def sizes(layer: LayerShape) -> dict[str, int]:
    """The parts of a layer, by the name of their module, and how much there is of each."""
    return {"self_attn": layer.heads, "mlp": layer.width}
