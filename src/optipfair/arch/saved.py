"""What transformers names and shapes a model's tensors when it saves them.

Most tensors are saved as they are; experts, for one, are fused in memory and apart on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from .spec import TensorSlot
from .view import MLPView, ModelView


def saved_form(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they would be saved, by their names on disk.

    Args:
        model: whose tensors they are.
        tensors: by their names in memory; a conversion's inputs must be there all together.
    """
    saved: dict[str, Tensor] = revert_weight_conversion(model, dict(tensors))
    return saved


def saved_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Name on disk → shape, of all that a model saves (tied tensors under each name)."""
    return {
        name: tuple(tensor.shape) for name, tensor in saved_form(model, model.state_dict()).items()
    }


def saved_layers(view: ModelView) -> tuple[str, list[list[str]]] | None:
    """What stands before a layer's number on disk, and what follows it for each layer's tensors.

    Returns None where the names do not say the layer by its number.
    """
    state = view.model.state_dict()
    layers = [_names_of_layer(view, index, state) for index in range(len(view.layers))]
    heads: set[str] | None = None
    for index, names in enumerate(layers):
        for parts in (name.split(".") for name in names):
            found = {".".join(parts[:i]) for i, part in enumerate(parts) if part == str(index)}
            heads = found if heads is None else heads & found
    if not heads:
        return None
    head = min(heads, key=len)
    tails = [
        [name[len(f"{head}.{index}.") :] for name in names] for index, names in enumerate(layers)
    ]
    return head, tails


def _names_of_layer(view: ModelView, index: int, state: Mapping[str, Tensor]) -> list[str]:
    prefix = f"{view.layers_path}.{index}."
    own = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
    return list(saved_form(view.model, own))


def probe(view: ModelView, mlp: MLPView) -> dict[str, tuple[TensorSlot, Tensor]]:
    """Where the neurons of an MLP lie on disk: name → its slot, and marks of hidden size 2.

    Each mark is `neuron + I * (block + blocks * expert)`, unique within a slot but for the rows of
    one unit: where it stands in the saved form, that row or column of the tensor in memory is
    stored.
    """
    found: dict[str, tuple[TensorSlot, Tensor]] = {}
    marks = {slot: _marks(mlp, slot, tensor) for slot, tensor in mlp.tensors.items()}
    for slot, mark in marks.items():
        name = f"{view.layers_path}.{mlp.layer}.{slot.name}"
        found |= {
            stored: (slot, place) for stored, place in saved_form(view.model, {name: mark}).items()
        }
    return found


def _marks(mlp: MLPView, slot: TensorSlot, tensor: Tensor) -> Tensor:
    """A tensor of the slot's form, two wide along the hidden axis, holding the marks.

    Two, since some releases drop an axis of length one on the way.
    """
    experts = mlp.experts or 1
    units = torch.arange(mlp.width * slot.blocks * experts)
    by_block = units.view(experts, slot.blocks, mlp.width)
    in_order = by_block.transpose(1, 2) if slot.interleaved else by_block
    if slot.parts:
        blocks = zip(by_block[0], slot.parts, strict=True)
        in_order = torch.cat([block.repeat_interleave(rows) for block, rows in blocks])
    shape = [1] * tensor.dim()
    shape[slot.axis] = mlp.width * slot.rows
    if mlp.spec.experts:
        shape[0] = experts
    marks = in_order.reshape(shape)
    if slot.role == "bias" or tensor.dim() == 1:
        return marks
    hidden = ({tensor.dim() - 2, tensor.dim() - 1} - {slot.axis}).pop()
    return marks.repeat_interleave(2, dim=hidden)
