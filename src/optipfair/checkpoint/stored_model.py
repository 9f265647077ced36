"""A checkpoint and the model it is of, without weights: where each layer and neuron lies on disk.

Nothing here is known of families: the names on disk are those that transformers gives the twin's
tensors when it saves them, and where the neurons lie is asked the same way (`arch/saved.py`).

Axes: `E` experts, `I` neurons, `H` hidden.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..arch.attention import by_attention
from ..arch.saved import probe, saved_form, saved_layers, saved_shapes
from ..arch.spec import TensorSlot
from ..arch.twin import build_on_meta
from ..arch.view import MLPView, ModelView, describe
from ..errors import CheckpointError, UnsupportedModelError
from ..files.safetensors_reader import DTYPE_BITS, Checkpoint, TensorInfo, open_checkpoint


class NamesUnknownError(UnsupportedModelError):
    """The tensors are not named as transformers 5 names them; the model can be loaded instead."""


@dataclass(frozen=True)
class Piece:
    """The neurons of one expert (or of the dense MLP) in one stored tensor.

    Attributes:
        expert: its number, 0 in a dense MLP.
        slot: the tensor in memory that it belongs to.
        offset: where it begins in the file, in bytes.
        shape: of the piece, (rows, columns) or (rows,).
        axis: the one along which the neurons lie.
        neurons: for each position along `axis` its `neuron + I * block`.
    """

    expert: int
    slot: TensorSlot
    offset: int
    shape: tuple[int, ...]
    axis: int
    neurons: NDArray[np.int64]


@dataclass(frozen=True)
class StoredMLP:
    """One MLP on disk: its tensors, each as one piece or one for each expert, in file order."""

    mlp: MLPView
    tensors: Mapping[str, tuple[TensorInfo, tuple[Piece, ...]]]

    def pieces(self, expert: int, role: str) -> list[tuple[TensorInfo, Piece]]:
        """The pieces of one expert that hold a role (`gate`, `up`, `down`, `bias`)."""
        return [
            (info, piece)
            for info, pieces in self.tensors.values()
            for piece in pieces
            if piece.expert == expert and role in piece.slot.role.split("+")
        ]


class StoredModel:
    """A checkpoint with the twin of its model.

    Attributes:
        checkpoint: its headers.
        view: the twin, described; all its tensors are on `meta`.
    """

    def __init__(self, folder: Path, config: Any) -> None:
        """Open a checkpoint and check it against its config.

        Raises:
            CheckpointError: damaged, tensors missing or of another shape than the config says.
            UnsupportedModelError: quantized, or its decoder layers are not found.
            NamesUnknownError: its tensors have names of another release.
        """
        self.checkpoint: Checkpoint = open_checkpoint(folder)
        if getattr(config, "quantization_config", None) is not None:
            raise UnsupportedModelError(
                "The model is quantized, so its weights cannot be cut. Prune the unquantized "
                "model, and quantize the result."
            )
        self.view: ModelView = describe(build_on_meta(config))
        self._prefix = self._find_prefix()
        self._check_tensors()

    def seen_by(self, attention_unit: str | None) -> None:
        """From now on the view has attention in the place of MLPs, where that is pruned.

        Raises:
            UnsupportedModelError: its attention cannot be cut.
        """
        if attention_unit is not None:
            self.view = by_attention(self.view, attention_unit)

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """By the names in the files."""
        return self.checkpoint.tensors

    @cached_property
    def expected(self) -> dict[str, tuple[int, ...]]:
        """Name on disk → shape, as the config says."""
        return self.named_here(saved_shapes(self.view.model))

    @cached_property
    def layers_head(self) -> str:
        """What stands before a layer's number in the names."""
        found = saved_layers(self.view)
        if found is None:
            raise NamesUnknownError(
                f"The tensors of {self.view.spec.model_type!r} do not name their layer on disk."
            )
        return self._here(found[0])

    def named_here(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors by the names that they have, or would have, in these files."""
        return {self._here(name): value for name, value in tensors.items()}

    def layer_of(self, name: str) -> int | None:
        """The decoder layer that a tensor belongs to, None for the others."""
        match = re.match(rf"{re.escape(self.layers_head)}\.(\d+)\.", name)
        index = int(match[1]) if match else len(self.view.layers)
        return index if index < len(self.view.layers) else None

    def renumbered(self, name: str, layer: int) -> str:
        """The name of a layer's tensor once that layer has another number."""
        return re.sub(
            rf"^{re.escape(self.layers_head)}\.\d+\.", f"{self.layers_head}.{layer}.", name
        )

    def stored_mlp(self, mlp: MLPView) -> StoredMLP:
        """Find the neurons of an MLP in the files."""
        tensors = {}
        for name, (slot, marks) in self.named_here(probe(self.view, mlp)).items():
            if name not in self.tensors:  # tied to another layer's and stored under its name
                raise NamesUnknownError(f"{name} is stored under another name.")
            info = self.tensors[name]
            tensors[name] = (info, tuple(_pieces(mlp, slot, marks, info)))
        return StoredMLP(mlp, tensors)

    def _here(self, name: str) -> str:
        base, here = self._prefix
        return here + name[len(base) :] if name.startswith(base) else name

    def _find_prefix(self) -> tuple[str, str]:
        """Some hub checkpoints lack the base model's prefix, `h.0...` for `transformer.h.0...`."""
        base = f"{self.view.model.base_model_prefix}."
        without = {name.removeprefix(base) for name in saved_shapes(self.view.model)}
        has_base = any(name.startswith(base) for name in self.tensors)
        return (base, "") if not has_base and without & self.tensors.keys() else ("", "")

    def _check_tensors(self) -> None:
        wrong = [
            f"{name} has shape {self.tensors[name].shape}, its config.json says {shape}"
            for name, shape in self.expected.items()
            if name in self.tensors and self.tensors[name].shape != shape
        ]
        where = self.checkpoint.folder
        if wrong:
            raise CheckpointError(
                f"{where}: {wrong[0]}. Restore the config or download the model again."
            )
        missing = sorted(self.expected.keys() - self.tensors.keys() - self._may_be_missing())
        if missing and self.tensors.keys() - self.expected.keys():
            raise NamesUnknownError(f"{missing[0]} is not in {where} under this name.")
        if missing:
            raise CheckpointError(
                f"{where} lacks {len(missing)} tensors of its model ({', '.join(missing[:3])}), so "
                "they would be random. Download it again."
            )

    def _may_be_missing(self) -> set[str]:
        """Tied tensors of which one name is there, and those that transformers does without."""
        model: Any = self.view.model
        state = model.state_dict(keep_vars=True)
        groups: dict[int, list[str]] = {}
        for name, tensor in state.items():
            groups.setdefault(id(tensor), []).append(name)
        free: set[str] = set()
        for names in groups.values():
            stored = {self._here(s) for name in names for s in self._saved_names(name, state)}
            if len(names) > 1 and stored & self.tensors.keys():
                free |= stored
        patterns = list(getattr(model, "_keys_to_ignore_on_load_missing", None) or ())
        return free | {
            name for name in self.expected if any(re.search(each, name) for each in patterns)
        }

    def _saved_names(self, name: str, state: Mapping[str, Tensor]) -> list[str]:
        return list(saved_form(self.view.model, {name: state[name].detach()}))


def _pieces(mlp: MLPView, slot: TensorSlot, marks: Tensor, info: TensorInfo) -> list[Piece]:
    """Split a stored tensor by experts.

    Raises:
        NamesUnknownError: it is stored in a form that cannot be cut piece by piece.
    """
    shape = info.shape
    per_expert = mlp.width * slot.blocks
    stacked = mlp.spec.experts and len(shape) == len(mlp.tensors[slot].shape)
    parts = list(marks) if stacked else [marks]
    inner = shape[1:] if stacked else shape
    size = info.nbytes // len(parts)
    pieces = []
    for number, part in enumerate(parts):
        by_rows = part.dim() == 1 or bool((part == part[:, :1]).all())  # else by columns
        axis = 0 if by_rows else 1
        flat = (part if part.dim() == 1 else part.select(1 - axis, 0)).numpy()
        expert = int(flat[0]) // per_expert
        if len(flat) != inner[axis] or np.any(flat // per_expert != expert):
            raise NamesUnknownError(f"{info.name} is stored in a form that cannot be cut by rows.")
        start = info.start + number * size
        pieces.append(Piece(expert, slot, start, tuple(inner), axis, flat % per_expert))
    return pieces


def item_size(dtype: str) -> int:
    """Bytes of one element.

    Raises:
        UnsupportedModelError: a dtype whose elements are no whole bytes, or an unknown one.
    """
    bits = DTYPE_BITS.get(dtype, 0)
    if bits == 0 or bits % 8:
        raise UnsupportedModelError(f"Tensors of dtype {dtype!r} cannot be cut.")
    return bits // 8
