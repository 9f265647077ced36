"""A plan carried out on files: tensors that go, are renamed, cut or replaced.

Deciding what to write and writing it are apart: `rewritten` only reads headers; the bytes flow
when the writer asks for them.

Axes: rows and columns of one piece (`pieces.py`); `k` kept positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import VerificationError
from ..files.safetensors_reader import TensorInfo, read_into
from ..files.safetensors_writer import OutputTensor
from ..files.torch_dtypes import TORCH_DTYPES
from ..pruning.calibration.holding import Key
from ..pruning.cut.plan import PruningPlan, WidthCut
from .pieces import Piece, item_size
from .stored_experts import (
    kept_of_predicting,
    predicting_experts,
    renumbered,
    without_experts_of_predicting,
)
from .stored_model import StoredModel, kept_in_float32

_CHUNK_BYTES = 2**20
_STORED_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_KEPT = 2  # layers' tensors in memory while they are written, whose experts are apart on disk


@dataclass(frozen=True)
class PieceCut:
    """The positions of a piece that stay, (k,), sorted."""

    piece: Piece
    keep: NDArray[np.int64]


@dataclass(frozen=True)
class Cuts:
    """What a plan does to the neurons and units that tensors hold."""

    pieces: Mapping[str, tuple[PieceCut, ...]]  # tensors of which a part stays
    gone: Collection[str]  # tensors of units that go
    renamed: Mapping[str, str]  # tensors of units that stay, under their new number


class StoredValues:
    """Tensors that take the place of a checkpoint's, by their names on disk: `names`."""

    def __init__(
        self, names: Collection[str], saved: Callable[[str], Mapping[str, Tensor]]
    ) -> None:
        """`saved` gives for a name tensors as they are stored, that of this name among them."""
        self.names, self._saved = names, saved

    @classmethod
    def of_replacements(cls, stored: StoredModel, tensors: Mapping[Key, Tensor]) -> StoredValues:
        """Those of a plan, in the form that they have in memory; each is made when it is asked."""
        twin, path = stored.view.model, stored.view.layers_path

        def as_stored(key: Key, tensor: Tensor | None = None) -> dict[str, Tensor]:
            name = f"{path}.{key[0]}.{key[2]}"
            return stored.saved(
                {name: twin.get_parameter(name).detach() if tensor is None else tensor}
            )

        keys = {name: key for key in tensors for name in as_stored(key)}
        kept = lru_cache(_KEPT)(lambda key: as_stored(key, tensors[key]))
        return cls(keys.keys(), lambda name: kept(keys[name]))

    @classmethod
    def of_model(cls, stored: StoredModel, tensors: Mapping[str, Tensor]) -> StoredValues:
        """Those of a model of the same shapes, by their names in memory."""
        saved = stored.saved(tensors)
        return cls(saved.keys(), lambda _: saved)

    def elements(self, name: str, dtype: str) -> NDArray[np.uint8]:
        """The bytes of a stored tensor, (n,), in the dtype to store."""
        tensor: Tensor = self._saved(name)[name].to(TORCH_DTYPES[dtype])
        plain: NDArray[np.uint8] = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        return plain

    def chunks(self, name: str, dtype: str) -> Iterator[memoryview]:
        """The same for a writer, made when it asks."""
        yield self.elements(name, dtype).data


def rewritten(
    stored: StoredModel, plan: PruningPlan, new: Any, dtype: str, replaced: StoredValues
) -> list[OutputTensor]:
    """Say what the new checkpoint holds, of whose model `new` is the twin.

    The plan fits the model, and the guard has proved it. The dtype is that of all floats, `auto`
    where each tensor keeps its own.
    """
    cuts = cuts_of(stored, plan)
    renamed, gone = stored.renamed(plan.keep_layers, new), set(plan.drop_layers)
    without_predictions = leaves_out_predictions(stored, plan)
    outputs = []
    by_place = sorted(stored.tensors.values(), key=lambda info: (info.file.name, info.start))
    for info in by_place:
        name = info.name
        layer = stored.layer_of(name)
        if layer in gone or stored.is_left_over(name) or name in cuts.gone:
            continue
        if without_predictions and stored.predicts_further(name):
            continue
        new_name = cuts.renamed.get(name, name)
        new_name = new_name if layer is None else renamed(new_name, layer)
        own, new_dtype = cuts.pieces.get(name, ()), _new_dtype(info, dtype, new)
        chunks = None
        if name in replaced.names:
            chunks = partial(replaced.chunks, name, new_dtype)
        elif own or new_dtype != info.dtype:
            chunks = partial(_chunks, info, own, new_dtype)
        outputs.append(OutputTensor(new_name, new_dtype, _new_shape(info, own), info, chunks))
    _check(stored, outputs, new)
    return outputs


def cuts_of(stored: StoredModel, plan: PruningPlan) -> Cuts:
    """What a plan does to each tensor that it cuts, pieces in file order."""
    mlps = {mlp.key: mlp for mlp in stored.view.mlps}
    parts: dict[str, tuple[PieceCut, ...]] = {}
    gone: set[str] = set()
    renamed: dict[str, str] = {}

    def add(cut: WidthCut, pieces: Mapping[str, Sequence[Piece]]) -> None:
        for name, own in pieces.items():
            cuts = tuple(PieceCut(piece, _positions(piece, cut)) for piece in own)
            if not own[0].whole:
                parts[name] = cuts
            elif not len(cuts[0].keep):
                gone.add(name)

    for cut in plan.width_cuts:
        pieces = stored.pieces(mlps[cut.key])
        add(cut, pieces)
        if "expert" in plan.units:
            renamed |= renumbered(pieces, cut.keep[0])
    if "expert" in plan.units:
        cut = plan.width_cuts[-1]
        experts = mlps[cut.key]
        for further in predicting_experts(stored, experts).values():
            kept = kept_of_predicting(experts, further, cut.kept)
            add(cut.keeping((kept,)), further)
            renamed |= renumbered(further, kept)
    return Cuts(parts, gone, renamed)


def leaves_out_predictions(stored: StoredModel, plan: PruningPlan) -> bool:
    """Whether layers that predict further tokens would not fit the model as it will be.

    They are not cut with neurons or heads. With experts they are, where theirs are found.
    """
    if not plan.width_cuts or "expert" not in plan.units:
        return bool(plan.width_cuts)
    experts = next(mlp for mlp in stored.view.mlps if mlp.key == plan.width_cuts[-1].key)
    return without_experts_of_predicting(stored, experts)


def _positions(piece: Piece, cut: WidthCut) -> NDArray[np.int64]:
    """Where the kept neurons lie along the piece's axis, and what is of none of them."""
    kept = np.zeros(cut.width, dtype=bool)
    kept[list(cut.keep[piece.expert])] = True
    return np.flatnonzero((piece.neurons < 0) | kept[piece.neurons % cut.width])


def _new_dtype(info: TensorInfo, dtype: str, model: Any) -> str:
    """The dtype to write; transformers keeps some modules in float32 whatever is asked for."""
    if dtype == "auto" or info.dtype not in TORCH_DTYPES:
        return info.dtype
    kept = kept_in_float32(model, dtype) & set(info.name.split("."))
    return "F32" if kept else _STORED_DTYPES[dtype]


def _new_shape(info: TensorInfo, cuts: Sequence[PieceCut]) -> tuple[int, ...]:
    shape = list(info.shape)
    if cuts:
        shape[cuts[0].piece.stored_axis] = len(cuts[0].keep)
    return tuple(shape)


def _chunks(info: TensorInfo, cuts: Sequence[PieceCut], dtype: str) -> Iterator[memoryview]:
    """The bytes of a tensor that is cut or converted, in order."""
    if not cuts:
        for _, chunk in rows_of_piece(info, info.start, (info.numel,)):
            yield as_dtype(chunk, info.dtype, dtype).data
    for cut in cuts:
        for chunk in _cut_piece(info, cut):
            yield as_dtype(chunk, info.dtype, dtype).data


def _cut_piece(info: TensorInfo, cut: PieceCut) -> Iterator[NDArray[Any]]:
    """The kept rows or columns, some rows at a time."""
    for rows, chunk in rows_of_piece(info, cut.piece.offset, cut.piece.shape):
        keep = cut.keep
        if cut.piece.axis == 0:
            first, last = np.searchsorted(keep, (rows.start, rows.stop))
            keep = keep[first:last] - rows.start
        # mode="clip" writes without a buffer in between; all indices are in range.
        yield np.take(chunk, keep, axis=cut.piece.axis, mode="clip")


def rows_of_piece(
    info: TensorInfo, offset: int, shape: Sequence[int], nbytes: int = _CHUNK_BYTES
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Some rows at a time: which, and their values, (rows, width).

    Values are plain integers of the elements' size, which is all that moving them needs.
    """
    size, width = item_size(info.dtype), math.prod(shape[1:])
    step = max(nbytes // max(width * size, 1), 1)
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        data = np.empty((stop - start, width), dtype=f"u{size}")
        if data.size:
            read_into(info.file, offset + start * width * size, data.data.cast("B"))
        yield slice(start, stop), data


def as_dtype(values: NDArray[Any], old: str, new: str) -> NDArray[Any]:
    """Elements of one dtype as those of another, as plain bytes, (n,); as they are if it is one."""
    if old == new:
        return values
    plain = torch.from_numpy(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
    cast = plain.view(TORCH_DTYPES[old]).to(TORCH_DTYPES[new])
    converted: NDArray[Any] = cast.view(torch.uint8).numpy()
    return converted


def _check(stored: StoredModel, outputs: list[OutputTensor], new: Any) -> None:
    """What will be written must be what the new config describes, name by name."""
    shapes = {output.name: output.shape for output in outputs}
    expected = stored.saved_shapes(new, shapes)
    wrong = [name for name, shape in shapes.items() if expected.get(name, shape) != shape]
    lost = (expected.keys() & stored.expected.keys() & stored.tensors.keys()) - shapes.keys()
    if wrong or lost or len(shapes) != len(outputs):
        raise VerificationError(
            f"The new checkpoint would not be what its config describes: "
            f"{', '.join([*wrong, *sorted(lost)][:3])}. Nothing was written. Please report this "
            "with the model's name."
        )
