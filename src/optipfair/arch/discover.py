"""A family that is not in the table, read off the model itself.

Layers are the module list as long as the config says, MLPs are what has a known layout. Which
config field holds a width or the number of layers is not guessed but asked: a twin is built with
the field changed, and what changes in it is the answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from torch import nn

from ..errors import UnsupportedModelError
from .config_rules import config_after_depth
from .slots import width
from .spec import LAYOUTS, ArchSpec, MLPSpec, TensorSlot, below, experts_layout
from .twin import build_twin

_LAYER_KEYS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
    *("decoder_layers", "num_decoder_layers"),
)
_WIDTH_WORDS = ("intermediate", "ffn", "inner", "mlp", "feed_forward", "expert", "dff", "dim_ff")
_COUNT_WORDS = ("num_", "n_shared", "n_routed")
_NO_MLPS = ("router", "norm")  # small networks of their own inside gates and norms
_EXPERTS_MULTIPLE = 8


@dataclass(frozen=True)
class Found:
    """The decoder layers of a model."""

    path: str  # from the model's root
    container: nn.ModuleList


def find_layers(model: nn.Module) -> Found | None:
    """The module list that is as long as the config's layer count, the largest if several are.

    The text decoder is searched first, then, where it has none, the whole model.
    """
    config: Any = model.config
    counts = set(layer_counts(config.get_text_config()).values())
    for root in _roots(model):
        prefix = next(path for path, module in model.named_modules() if module is root)
        lists = [
            Found(".".join(part for part in (prefix, path) if part), module)
            for path, module in root.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) in counts - {0}
        ]
        if lists:
            return max(lists, key=lambda found: _size(found.container))
    return None


def _roots(model: nn.Module) -> Iterator[nn.Module]:
    if hasattr(model, "get_decoder"):
        decoder: object = model.get_decoder()  # type: ignore[operator]
        if isinstance(decoder, nn.Module):
            yield decoder
    yield model


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def layer_counts(config: Any) -> dict[str, int]:
    """Config fields that may hold the number of decoder layers."""
    values = {key: getattr(config, key, None) for key in _LAYER_KEYS}
    return {key: value for key, value in values.items() if isinstance(value, int)}


def layers_key(model: Any, found: Found) -> str | None:
    """The config field that sets the number of decoder layers, asked of twins."""
    total = len(found.container)
    config = model.config.get_text_config()
    keys = [key for key, value in layer_counts(config).items() if value == total]
    if len(keys) == 1 or total == 1:
        return keys[0]
    for key in keys:
        try:
            twin = build_twin(model, config_after_depth(config, range(total - 1), total, key))
            if len(twin.get_submodule(found.path)) == total - 1:  # type: ignore[arg-type]
                return key
        except (UnsupportedModelError, AttributeError):
            continue
    return keys[0] if keys else None


def discover(model: Any) -> ArchSpec | None:
    """Describe a model by its structure, or return None where no decoder layers are found."""
    found = find_layers(model)
    if found is None:
        return None
    specs: dict[tuple[TensorSlot, ...], MLPSpec] = {}
    for layer in found.container:
        for path, slots in _find_layouts(layer):
            experts = has_expert_axis(slots)
            multiple = _EXPERTS_MULTIPLE if experts else 1
            name = path or "mlp"
            reason = _why_fixed(layer, path, slots)
            specs.setdefault(slots, MLPSpec(name, slots, None, reason, experts, multiple))
    key = layers_key(model, found) or "num_hidden_layers"
    mlps = _with_width_keys(model, found, tuple(specs.values()))
    model_type = str(model.config.model_type)
    return ArchSpec(model_type, found.path, mlps, layers_key=key)


def _find_layouts(layer: nn.Module) -> Iterator[tuple[str, tuple[TensorSlot, ...]]]:
    """MLP modules below a layer that have a known layout, each tensor in one of them."""
    claimed: set[str] = set()
    for path, module in layer.named_modules():
        if any(word in path for word in _NO_MLPS):
            continue
        for layout in (*_experts_of(module), *LAYOUTS):
            slots = below(path, layout)
            tensors = _present(layer, slots)
            if tensors and not claimed & tensors.keys() and _fits(slots, tensors):
                claimed |= tensors.keys()
                yield path, slots
                break


def _why_fixed(layer: nn.Module, path: str, slots: tuple[TensorSlot, ...]) -> str:
    """Why removing neurons would not be the same as zeroing them; empty where it is."""
    if not path:  # tensors on the layer itself: its norms are not the MLP's
        return ""
    known = {slot.name for slot in slots}
    down = next(slot for slot in slots if slot.role == "down")
    neurons = width(layer.get_parameter(down.name), down)
    for name, module in layer.get_submodule(path).named_modules():
        weight = module._parameters.get("weight")
        full = ".".join(part for part in (path, name, "weight") if part)
        if weight is not None and full not in known and tuple(weight.shape) == (neurons,):
            return f"{name} normalizes over its neurons"
    return ""


def _experts_of(module: nn.Module) -> tuple[tuple[TensorSlot, ...], ...]:
    """The layout of a fused experts module, by what transformers notes on it."""
    down = module._parameters.get("down_proj")
    if down is None or down.dim() != 3:
        return ()
    gate = "gate_up_proj" in module._parameters
    transposed = bool(getattr(module, "is_transposed", False))
    interleaved = not getattr(module, "is_concatenated", True)
    noted = experts_layout(gate=gate, transposed=transposed, interleaved=interleaved)
    other = experts_layout(gate=gate, transposed=not transposed, interleaved=interleaved)
    return (noted, other)


def _present(layer: nn.Module, slots: tuple[TensorSlot, ...]) -> dict[str, nn.Parameter]:
    """The tensors of a layout, or nothing if one that is needed is missing."""
    found: dict[str, nn.Parameter] = {}
    for slot in slots:
        try:
            found[slot.name] = layer.get_parameter(slot.name)
        except AttributeError:
            if not slot.optional:
                return {}
    return found


def has_expert_axis(slots: tuple[TensorSlot, ...]) -> bool:
    """Whether the tensors of a layout are (E, ..., ...)."""
    return any(slot.axis == 2 for slot in slots)


def _fits(slots: tuple[TensorSlot, ...], tensors: Mapping[str, nn.Parameter]) -> bool:
    """Whether all tensors agree on the number of neurons, of experts, and on the hidden size."""
    widths, hidden, experts = set(), set(), set()
    dimensions = 3 if has_expert_axis(slots) else 2
    for slot in slots:
        tensor = tensors.get(slot.name)
        if tensor is None:
            continue
        expected = dimensions - 1 if slot.role == "bias" else dimensions
        if tensor.dim() != expected or tensor.shape[slot.axis] % slot.blocks:
            return False
        widths.add(width(tensor, slot))
        if slot.role != "bias":
            other = ({tensor.dim() - 2, tensor.dim() - 1} - {slot.axis}).pop()
            hidden.add(tensor.shape[other])
            experts.add(tensor.shape[0] if dimensions == 3 else 1)
    return len(widths) == len(hidden) == len(experts) == 1


def _with_width_keys(model: Any, found: Found, specs: tuple[MLPSpec, ...]) -> tuple[MLPSpec, ...]:
    """Find the config field behind each MLP's width by changing candidates in twins."""
    before = _widths(found.container, specs)
    widest = max((width for widths in before.values() for width in widths.values()), default=2)
    answers: dict[str, tuple[str, Fraction]] = {}  # MLP name → (key, factor)
    for key, value in _width_candidates(model.config.get_text_config(), found):
        if len(answers) == len(specs):
            break
        wide = widest if value is None else value
        narrow = [each // 2 for each in wide] if isinstance(wide, list) else wide // 2
        try:
            twin = build_twin(model, {key: narrow})
            after = _widths(twin.get_submodule(found.path), specs)
        except (UnsupportedModelError, AttributeError):
            continue
        for name, widths in before.items():
            factor = _factor(widths, after.get(name, {}), wide, narrow)
            if factor and name not in answers:
                answers[name] = (key, factor)
    return tuple(_answered(spec, answers.get(spec.name)) for spec in specs)


def _width_candidates(config: Any, found: Found) -> list[tuple[str, Any]]:
    """Fields whose name may speak of a width and whose value may be one, None if computed."""
    fields = config.to_dict()
    named = {
        key: value
        for key, value in fields.items()
        if any(word in key for word in _WIDTH_WORDS) and not key.startswith(_COUNT_WORDS)
    }
    candidates: list[tuple[str, Any]] = []
    for key, value in named.items():
        if isinstance(value, list | tuple):
            if len(value) == len(found.container) and all(map(_is_width, value)):
                candidates.append((key, list(value)))
        elif value is None or _is_width(value):
            candidates.append((key, value))
    return candidates


def _is_width(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 1


def _widths(container: Any, specs: tuple[MLPSpec, ...]) -> dict[str, dict[int, int]]:
    """MLP name → its width in each layer that holds it."""
    widths: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for index, layer in enumerate(container):
        for spec in specs:
            tensors = _present(layer, spec.slots)
            if tensors:
                widths[spec.name][index] = width(tensors[spec.down.name], spec.down)
    return dict(widths)


def _factor(
    before: Mapping[int, int], after: Mapping[int, int], wide: Any, narrow: Any
) -> Fraction | None:
    """How often the field's value goes into the width, if the width follows it in every layer."""
    if before.keys() != after.keys() or before == after:
        return None
    factors = {Fraction(width, _value(wide, layer)) for layer, width in before.items()}
    factor = factors.pop()
    follows = all(width == factor * _value(narrow, layer) for layer, width in after.items())
    return factor if follows and not factors else None


def _value(field: Any, layer: int) -> int:
    """A width field's value for one layer."""
    return int(field[layer] if isinstance(field, list) else field)


def _answered(spec: MLPSpec, answer: tuple[str, Fraction] | None) -> MLPSpec:
    if spec.why_not:
        return spec
    if answer is None:
        return replace(spec, why_not="no config field states the width of its MLP")
    return replace(spec, width_key=answer[0], width_factor=answer[1])
