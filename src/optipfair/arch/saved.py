"""What transformers names and shapes a model's tensors when it saves them.

Most tensors are saved as they are; experts, for one, are fused in memory and apart on disk. Which
names files have is asked of the tables by which transformers would load them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    apply_renamings,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)

from .spec import TensorSlot
from .view import MLPView, ModelView


def saved_form(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names in memory as they would be saved, by their names on disk.

    A conversion's inputs must be there all together.
    """
    saved: dict[str, Tensor] = revert_weight_conversion(model, dict(tensors))
    return saved


def saved_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Name on disk → shape, of all that a model saves (tied tensors under each name)."""
    return {
        name: tuple(tensor.shape) for name, tensor in saved_form(model, model.state_dict()).items()
    }


def names_in_files(model: Any, names: Iterable[str]) -> dict[str, str]:
    """What the files' names are, where they are not those of `saved_form`: saved name → file's.

    From then on `saved_form` undoes only the conversions that these files need, as it does for a
    model that was loaded from them. What it does not undo (a base model's prefix, an old name of
    a norm) is in the result.
    """
    tables = _Tables(model)
    in_files = {tables.loaded(name): name for name in sorted(names, key=dot_natural_key)}
    model._weight_conversions = tables.used()
    again = _Tables(model)
    saved = sorted(saved_shapes(model), key=dot_natural_key)
    found = {name: in_files.get(again.loaded(name), name) for name in saved}
    return {name: here for name, here in found.items() if here != name}


class _Tables:
    """The conversions by which transformers loads a model's tensors."""

    def __init__(self, model: Any) -> None:
        self._conversions = get_model_conversion_mapping(model)
        self._renamings = [c for c in self._conversions if isinstance(c, WeightRenaming)]
        self._converters = [c for c in self._conversions if isinstance(c, WeightConverter)]
        self._base, self._live = model.base_model_prefix, model.state_dict()

    def loaded(self, name: str) -> tuple[str, str]:
        """The tensor in memory that a stored one becomes or is a part of, and which part."""
        live, pattern = self._renamed(name, self._renamings, self._converters)
        if live not in self._live and name in self._live:  # as transformers does
            live, pattern = self._renamed(name, [], [])
        if pattern is None:
            return live, ""
        part = apply_renamings(name, self._renamings)
        return live, part.removeprefix(f"{self._base}.")

    def used(self) -> list[Any]:
        """Those that some name needed."""
        return [c for c in self._conversions if getattr(c, "_was_used", True)]

    def _renamed(self, name: str, renamings: Any, converters: Any) -> tuple[str, str | None]:
        return rename_source_key(name, renamings, converters, self._base, self._live)


def layers_head(names_by_layer: Iterable[Iterable[str]]) -> str | None:
    """What stands before a layer's number in the names of each layer's tensors.

    Returns None where the names do not say the layer by its number.
    """
    heads: set[str] | None = None
    for index, names in enumerate(names_by_layer):
        for parts in (name.split(".") for name in names):
            before = {".".join(parts[:i]) for i, part in enumerate(parts) if part == str(index)}
            heads = before if heads is None else heads & before
    return min(heads, key=len) if heads else None


def probe(
    view: ModelView, mlp: MLPView, saved: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
) -> dict[str, tuple[TensorSlot, Tensor]]:
    """Where the neurons of an MLP lie on disk: name → its slot, and marks of hidden size 2.

    `saved` gives tensors their form and names there. Each mark is `neuron + I * (block + blocks *
    expert)`, unique within a slot but for the rows of one unit: where it stands in the saved form,
    that row or column of the tensor in memory is stored.
    """
    found: dict[str, tuple[TensorSlot, Tensor]] = {}
    marks = {slot: _marks(mlp, slot, tensor) for slot, tensor in mlp.tensors.items()}
    for slot, mark in marks.items():
        name = f"{view.layers_path}.{mlp.layer}.{slot.name}"
        found |= {stored: (slot, place) for stored, place in saved({name: mark}).items()}
    return found


def _marks(mlp: MLPView, slot: TensorSlot, tensor: Tensor) -> Tensor:
    """A tensor of the slot's form, two wide along the hidden axis, holding the marks.

    Two, since some releases drop an axis of length one on the way.
    """
    if mlp.spec.routed:
        return _marks_of_experts(mlp, slot, tensor)
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


def _marks_of_experts(mlp: MLPView, slot: TensorSlot, tensor: Tensor) -> Tensor:
    """The number of the expert at each place, -1 where what stands there is of none.

    Four wide along the other axes, so that gate and up can be parted.
    """
    numbers = torch.arange(mlp.width).repeat_interleave(slot.rows)
    marks = torch.cat([numbers, numbers.new_full((slot.tail,), -1)])
    shape = [1] * tensor.dim()
    shape[slot.axis] = len(marks)
    wide = [size if size > 1 or axis == slot.axis else 4 for axis, size in enumerate(shape)]
    return marks.reshape(shape).expand(wide).contiguous()
