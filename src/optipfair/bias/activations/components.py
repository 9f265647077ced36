"""Where the components of a decoder layer show while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from ...arch.view import LayerView, MLPView

_ATTENTION_OUT = ("o_proj", "out_proj", "c_proj", "dense", "wo")
_NORMS = {
    "input_norm": (
        *("input_layernorm", "ln_1", "self_attn_layer_norm", "ln_attn", "pre_attention_layernorm"),
        *("input_norm", "attention_norm", "operator_norm", "norm1", "norm_1", "norm"),
    ),
    "post_attention_norm": (
        *("post_attention_layernorm", "ln_2", "final_layer_norm", "ln_mlp", "ffn_norm"),
        *("norm2", "norm_2"),
    ),
}


@dataclass(frozen=True)
class Tap:
    """Where to read a component."""

    module: nn.Module
    inputs: bool = False  # whether its input is the component, else its output
    part: Callable[[Tensor], Tensor] | None = None  # the component of that, (..., X) → (..., U)


def tap(layer: LayerView, component: str) -> Tap | str:
    """Where a component of a layer shows, or why the layer has none."""
    if component == "residual_output":
        return Tap(layer.module)
    if component in _NORMS:
        return _norm(layer, component)
    if component in ("attention_output", "head_output"):
        return _attention(layer, inputs=component == "head_output")
    if not layer.mlps:
        return "it has no MLP of a known form"
    if len(layer.mlps) == 1 and not layer.mlps[0].spec.experts:
        return _mlp(layer.mlps[0], component)
    block = layer.module.get_submodule(layer.mlps[0].spec.down.name.split(".")[0])  # of all MLPs
    return Tap(block) if component == "mlp_output" else "each token has experts of its own"


def first_tensor(value: object) -> Tensor | None:
    """The tensor, or the first one of several."""
    if isinstance(value, Tensor):
        return value
    parts: Iterable[object] = value if isinstance(value, tuple | list) else ()
    return next((part for part in parts if isinstance(part, Tensor)), None)


def _norm(layer: LayerView, component: str) -> Tap | str:
    norm = _first_child(layer.module, _NORMS[component])
    return "it has no norm there of a known name" if norm is None else Tap(norm)


def _attention(layer: LayerView, *, inputs: bool) -> Tap | str:
    for _, child in layer.module.named_children():
        if "attention" in type(child).__name__.lower():
            out = _first_child(child, _ATTENTION_OUT)
            if out is not None:
                return Tap(out, inputs)
    return "it has no attention of a known form"


def _first_child(module: nn.Module, names: Iterable[str]) -> nn.Module | None:
    children = dict(module.named_children())
    return next((children[name] for name in names if name in children), None)


def _mlp(mlp: MLPView, component: str) -> Tap | str:
    down = mlp.owner.get_submodule(mlp.spec.down.module)
    if component in ("mlp_output", "down_proj", "neuron_output"):
        return Tap(down, component == "neuron_output")
    role = component.removesuffix("_proj")
    for slot in mlp.tensors:
        if slot.role == role:
            return Tap(mlp.owner.get_submodule(slot.module))
        if slot.role == "gate+up":
            part = partial(_half, slot.interleaved, int(role == "up"))
            return Tap(mlp.owner.get_submodule(slot.module), part=part)
    return "its MLP has no gate"


def _half(interleaved: bool, which: int, values: Tensor) -> Tensor:
    return values[..., which::2] if interleaved else values.chunk(2, dim=-1)[which]
