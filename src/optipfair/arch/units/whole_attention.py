"""A model seen by the attention of each layer as one unit, which stays or goes whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import nn

from ...errors import UnsupportedModelError
from .. import heterogeneous
from ..attention_form import attentions_in, has_heads, keeps_keys, projections
from ..spec import UNITS, MLPSpec, Role, TensorSlot
from ..view import LayerView, MLPView, ModelView, find_mlp

ATTENTION = UNITS["attention"]


def by_whole_attention(view: ModelView) -> ModelView:
    """The view with each layer's attention, where it has one of a known form, in place of its MLPs.

    Raises:
        UnsupportedModelError: layers use the keys and values of others.
    """
    if heterogeneous.shared_value(view.text_config, "num_kv_shared_layers"):
        raise UnsupportedModelError(
            f"Cannot remove the attention of layers of {view.spec.model_type!r}: some of them use "
            "the keys and values of others."
        )
    layers = [replace(each, mlps=tuple(_attention_of(each))) for each in view.layers]
    return replace(view, layers=tuple(layers))


def _attention_of(layer: LayerView) -> Iterator[MLPView]:
    found = attentions_in(layer.module)
    if len(found) != 1:  # of several, as beside cross-attention, none is the layer's
        return
    path, attention = found[0], layer.module.get_submodule(found[0])
    if has_heads(attention) and keeps_keys(attention):
        roles = projections(attention)
        spec = MLPSpec(ATTENTION, tuple(_slots(layer.module, path, roles)), None)
        unit = find_mlp(layer.index, layer.module, spec)
        assert unit is not None
        yield unit


def _slots(layer: nn.Module, path: str, roles: Mapping[str, Role]) -> Iterator[TensorSlot]:
    """All rows of the projections into the heads, and all columns of the one out of them."""
    for name, role in roles.items():
        for key, parameter in layer.get_submodule(f"{path}.{name}").named_parameters():
            if key == "bias" and role == "down":
                continue
            axis = 1 if role == "down" else 0
            own: Role = "down" if role == "down" else ("other" if key == "weight" else "bias")
            yield TensorSlot(f"{path}.{name}.{key}", own, axis, parts=(parameter.shape[axis],))
