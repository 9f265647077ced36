"""`describe(model)`: a live model as a `ModelView` of layers and MLPs. It only reads.

This is the only place that finds layers and MLPs in a model, by the table or by structure.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, UnsupportedModelError
from . import heterogeneous
from .discover import discover
from .families import FAMILIES
from .slots import read, width
from .spec import ArchSpec, MLPSpec, TensorSlot
from .twin import build_uniform

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MLPView:
    """One MLP of one layer: its spec and its tensors, by slot."""

    layer: int
    spec: MLPSpec
    owner: nn.Module
    tensors: Mapping[TensorSlot, nn.Parameter]

    @property
    def key(self) -> tuple[int, str]:
        """Its layer and its name there."""
        return self.layer, self.spec.name

    @property
    def width(self) -> int:
        """Number of neurons `I`."""
        return width(self.tensors[self.spec.down], self.spec.down)

    @property
    def down_inputs(self) -> int:
        """How many inputs the down projection has: more than the width where a unit has several."""
        return self.width * self.spec.down.rows

    @property
    def hidden_size(self) -> int:
        down = read(self.tensors[self.spec.down], self.spec.down)["down"]
        return int(down.shape[-1])

    @property
    def experts(self) -> int | None:
        """Number of experts `E`, or None for a dense MLP."""
        return int(self.tensors[self.spec.down].shape[0]) if self.spec.experts else None

    @property
    def down_bias(self) -> nn.Parameter | None:
        """The bias behind the down projection, (H,) or (E, H); None where there is none."""
        return _parameter(self.owner, self.spec.down_bias)

    @property
    def expansion_rate(self) -> float:
        """Width in percent of the hidden size."""
        return 100 * self.width / self.hidden_size

    def matrices(self) -> dict[str, Tensor]:
        """The scored matrices `gate` (if any), `up`, `down`: (I, H) or (E, I, H), as views."""
        found: dict[str, Tensor] = {}
        for slot, tensor in self.tensors.items():
            if slot.role not in ("bias", "other"):
                found |= read(tensor.detach(), slot)
        return found

    def tensor_name(self, slot: TensorSlot) -> str:
        return f"layer {self.layer}, {slot.name}"


@dataclass(frozen=True)
class LayerView:
    """One decoder layer and its MLPs (none in a layer without)."""

    index: int
    module: nn.Module
    mlps: tuple[MLPView, ...]


@dataclass(frozen=True)
class ModelView:
    """A model as its decoder layers."""

    model: PreTrainedModel
    spec: ArchSpec
    layers_path: str  # from the model's root
    container: nn.ModuleList
    layers: tuple[LayerView, ...]
    listed: bool  # whether the family has an entry of its own; else its structure was read

    @property
    def mlps(self) -> list[MLPView]:
        return [mlp for layer in self.layers for mlp in layer.mlps]

    @property
    def text_config(self) -> Any:
        """The config of the decoder (one level down in multimodal models)."""
        return self.model.config.get_text_config()


def describe(model: PreTrainedModel) -> ModelView:
    """Find the decoder layers and MLPs of a model."""
    _check_is_model(model)
    _check_is_whole(model)
    spec = _find_spec(model)
    listed = spec.model_type in FAMILIES
    base = _base_model(model) if listed else model
    container = base.get_submodule(spec.layers)
    assert isinstance(container, nn.ModuleList)
    prefix = next((name for name, module in model.named_modules() if module is base), "")
    layers = tuple(
        LayerView(index, module, _find_mlps(index, module, spec))
        for index, module in enumerate(container)
    )
    _check_experts(model, layers)
    path = f"{prefix}.{spec.layers}" if prefix else spec.layers
    return ModelView(model, spec, path, container, layers, listed)


def beside(first: ModelView, second: ModelView) -> ModelView:
    """A model seen in two ways at once: what each finds in a layer."""
    pairs = zip(first.layers, second.layers, strict=True)
    layers = tuple(replace(one, mlps=(*one.mlps, *other.mlps)) for one, other in pairs)
    return replace(first, layers=layers)


def _check_is_model(model: object) -> None:
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise UnsupportedModelError(
            f"Cannot read a {type(model).__name__}: a transformers model (PreTrainedModel) is "
            "needed. Load one with AutoModelForCausalLM.from_pretrained."
        )


def _check_is_whole(model: nn.Module) -> None:
    if heterogeneous.lacks_parts(_text_config(model)):
        return
    held = {name: each for name, each in model.named_parameters() if not each.is_meta}
    empty = next((name for name, each in held.items() if each.numel() == 0), None)
    if empty is not None:
        raise UnsupportedModelError(
            f"{empty} is empty. Where FSDP or DeepSpeed has shared a model out among processes, "
            "gather its weights first; or prune its checkpoint instead (optipfair prune)."
        )


def view_at(model: PreTrainedModel, path: str) -> ModelView:
    """A model whose layers are said to be at a path from its root; its MLPs are not looked for."""
    _check_is_model(model)
    try:
        container = model.get_submodule(path)
    except AttributeError:
        container = nn.ModuleList()
    if not isinstance(container, nn.ModuleList) or not len(container):
        lists = {n: len(m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)}
        raise ArgumentError(
            f"layers_path={path!r} is no list of layers of this {type(model).__name__}. It has: "
            f"{', '.join(f'{name} ({count})' for name, count in lists.items()) or 'none'}."
        )
    layers = tuple(LayerView(index, module, ()) for index, module in enumerate(container))
    spec = ArchSpec(_model_type(model), path, ())
    return ModelView(model, spec, path, container, layers, listed=False)


def _check_experts(model: PreTrainedModel, layers: Sequence[LayerView]) -> None:
    for mlp in (mlp for layer in layers for mlp in layer.mlps):
        if mlp.experts == 0:
            raise UnsupportedModelError(
                f"The config of this {_model_type(model)!r} has 0 experts ({mlp.spec.name} of "
                f"layer {mlp.layer}); at least one is needed. Restore the config or download the "
                "model again."
            )


def _base_model(model: nn.Module) -> nn.Module:
    """The model without its head; the model itself where there is none."""
    base = getattr(model, "base_model", model)
    return base if isinstance(base, nn.Module) else model


def _text_config(model: Any) -> Any:
    return model.config.get_text_config()


def _model_type(model: nn.Module) -> str:
    config: Any = model.config
    return str(getattr(config, "model_type", "") or type(model).__name__)


def _find_spec(model: PreTrainedModel) -> ArchSpec:
    """The family's entry, or what the model's structure says."""
    model_type = _model_type(model)
    base = _base_model(model)
    if model_type in FAMILIES:
        spec = FAMILIES[model_type]
        if _holds_layers(base, spec):
            return spec
        raise UnsupportedModelError(
            f"Cannot find the decoder layers of this {type(model).__name__} ({model_type!r}): "
            f"expected a non-empty list at {spec.layers!r} of its base model{_adapter_hint(model)}."
        )
    # Where layers differ already, the model with all alike shows what governs them.
    differs = bool(heterogeneous.overrides(_text_config(model)))
    discovered = discover(build_uniform(model) if differs else model)
    if discovered is not None:
        names = ", ".join(spec.name for spec in discovered.mlps) or "none"
        logger.info("%s is not listed; its MLPs by structure: %s", model_type, names)
        return discovered
    raise UnsupportedModelError(
        f"Cannot find the decoder layers of {model_type!r} ({type(model).__name__}): no module "
        "list is as long as its config says. Families with an entry of their own: "
        f"{', '.join(sorted(FAMILIES))}."
    )


def _adapter_hint(model: nn.Module) -> str:
    if getattr(model, "peft_config", None) is None:
        return ""
    return ". It carries adapters: merge them first (merge_and_unload())"


def _holds_layers(base: nn.Module, spec: ArchSpec) -> bool:
    try:
        container = base.get_submodule(spec.layers)
    except AttributeError:
        return False
    return isinstance(container, nn.ModuleList) and len(container) > 0


def _find_mlps(index: int, layer: nn.Module, spec: ArchSpec) -> tuple[MLPView, ...]:
    views = (find_mlp(index, layer, mlp) for mlp in spec.mlps)
    return tuple(view for view in views if view is not None)


def find_mlp(index: int, layer: nn.Module, spec: MLPSpec) -> MLPView | None:
    """The layer's MLP of this spec, or None if one of its tensors is missing."""
    tensors: dict[TensorSlot, nn.Parameter] = {}
    for slot in spec.slots:
        parameter = _parameter(layer, slot.name)
        if parameter is not None:
            tensors[slot] = parameter
        elif not slot.optional:
            return None
    if tensors[spec.down].shape[spec.down.axis] == 0:  # all of it is gone
        return None
    return MLPView(index, spec, layer, tensors)


def _parameter(layer: nn.Module, name: str) -> nn.Parameter | None:
    """A parameter; or a buffer, which is cut like one."""
    owner: Any = layer
    for part in name.split("."):
        owner = getattr(owner, part, None)
    return owner if isinstance(owner, Tensor) else None  # type: ignore[return-value]


def check_finite(mlp: MLPView, roles: set[str]) -> None:
    """Refuse NaN and Inf in the MLP's tensors of these roles, naming the tensor."""
    for slot, tensor in mlp.tensors.items():
        if slot.role in roles and not is_finite(tensor.detach()):
            raise UnsupportedModelError(not_finite(mlp.tensor_name(slot)))


def not_finite(name: str) -> str:
    return (
        f"{name} holds NaN or Inf, so its neurons cannot be ranked. Repair or reload the weights "
        "first."
    )


def is_finite(tensor: Tensor) -> bool:
    if tensor.numel() == 0:
        return True
    # aminmax keeps NaN and Inf and reads once, without the temporary that isfinite() makes.
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))
