"""A plan carried out on files: which tensors go, which get another name, which rows stay.

Deciding what to write and writing it are apart: `rewritten` only reads headers; the bytes flow
when the writer asks for them.

Axes: rows and columns of one piece (`disk.py`); `k` kept positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import VerificationError
from ..files.safetensors_reader import TensorInfo, read_into
from ..files.safetensors_writer import OutputTensor
from ..files.torch_dtypes import TORCH_DTYPES
from ..pruning.cut.plan import PruningPlan, WidthCut
from .replaced import StoredReplacements
from .stored_model import Piece, StoredModel, item_size

CHUNK_BYTES = 2**20
STORED_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class PieceCut:
    """The positions of a piece that stay, (k,), sorted."""

    piece: Piece
    keep: NDArray[np.int64]


def rewritten(
    stored: StoredModel,
    plan: PruningPlan,
    new: Any,
    dtype: str = "auto",
    replaced: StoredReplacements | None = None,
) -> list[OutputTensor]:
    """Say what the new checkpoint holds.

    Args:
        stored: the checkpoint.
        plan: what stays; it fits the model and the guard has proved it.
        new: the twin of the pruned model, without weights.
        dtype: `auto` keeps each tensor's; else the dtype for all floats.
        replaced: tensors that take the place of cut ones.

    Raises:
        VerificationError: what would be written is not what the new config describes.
        UnsupportedModelError: a tensor of a dtype that cannot be cut or converted.
    """
    cuts = cut_tensors(stored, plan)
    renamed, gone = stored.renamed(plan.keep_layers, new), set(plan.drop_layers)
    outputs = []
    for name, info in sorted(stored.tensors.items(), key=_file_order):
        layer = stored.layer_of(name)
        if layer in gone:
            continue
        new_name = name if layer is None else renamed(name, layer)
        output = _output(new_name, info, cuts.get(name, ()), _new_dtype(info, dtype, new))
        if replaced is not None and name in replaced.keys:
            output = replace(output, chunks=partial(replaced.chunks, name, output.dtype))
        outputs.append(output)
    _check(stored, outputs, new)
    return outputs


def _file_order(item: tuple[str, TensorInfo]) -> tuple[str, int]:
    return item[1].file.name, item[1].start


def cut_tensors(stored: StoredModel, plan: PruningPlan) -> dict[str, tuple[PieceCut, ...]]:
    """Name → the cuts of its pieces, in file order."""
    mlps = {(mlp.layer, mlp.spec.name): mlp for mlp in stored.view.mlps}
    found: dict[str, tuple[PieceCut, ...]] = {}
    for cut in plan.width_cuts:
        for name, (_, pieces) in stored.stored_mlp(mlps[cut.layer, cut.mlp]).tensors.items():
            found[name] = tuple(PieceCut(piece, _positions(piece, cut)) for piece in pieces)
    return found


def _positions(piece: Piece, cut: WidthCut) -> NDArray[np.int64]:
    """Where the kept neurons lie along the piece's axis."""
    kept = np.zeros(cut.width, dtype=bool)
    kept[list(cut.keep[piece.expert])] = True
    return np.flatnonzero(kept[piece.neurons % cut.width])


def _new_dtype(info: TensorInfo, dtype: str, model: Any) -> str:
    """The dtype to write; transformers keeps some modules in float32 whatever is asked for."""
    if dtype == "auto" or info.dtype not in TORCH_DTYPES:
        return info.dtype
    kept = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == "float16":
        kept |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    return "F32" if kept & set(info.name.split(".")) else STORED_DTYPES[dtype]


def _output(name: str, info: TensorInfo, cuts: tuple[PieceCut, ...], dtype: str) -> OutputTensor:
    shape = list(info.shape)
    if cuts:
        axis = cuts[0].piece.axis + len(shape) - len(cuts[0].piece.shape)
        shape[axis] = len(cuts[0].keep)
    if not cuts and dtype == info.dtype:
        return OutputTensor(name, dtype, tuple(shape), info)
    chunks = partial(_cut_chunks, info, cuts) if cuts else partial(_all_chunks, info)
    if dtype != info.dtype:
        return OutputTensor(
            name, dtype, tuple(shape), info, partial(_converted, info, chunks, dtype)
        )
    return OutputTensor(name, dtype, tuple(shape), info, lambda: (c.data for c in chunks()))


def _all_chunks(info: TensorInfo) -> Iterator[NDArray[Any]]:
    size = max(CHUNK_BYTES // item_size(info.dtype), 1)
    total = info.numel
    for start in range(0, total, size):
        yield _read(info, info.start + start * item_size(info.dtype), (min(size, total - start),))


def _cut_chunks(info: TensorInfo, cuts: tuple[PieceCut, ...]) -> Iterator[NDArray[Any]]:
    for cut in cuts:
        yield from _cut_piece(info, cut)


def _cut_piece(info: TensorInfo, cut: PieceCut) -> Iterator[NDArray[Any]]:
    """The kept rows or columns, some rows at a time."""
    rows, width = cut.piece.shape[0], int(np.prod(cut.piece.shape[1:], dtype=np.int64))
    row_bytes = width * item_size(info.dtype)
    step = max(CHUNK_BYTES // max(row_bytes, 1), 1)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        keep = cut.keep
        if cut.piece.axis == 0:
            first, last = np.searchsorted(keep, (start, stop))
            keep = keep[first:last] - start
        chunk = _read(info, cut.piece.offset + start * row_bytes, (stop - start, width))
        # mode="clip" writes without a buffer in between; all indices are in range.
        yield np.take(chunk, keep, axis=cut.piece.axis, mode="clip")


def _read(info: TensorInfo, start: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Elements as plain integers of their size, which is all that moving them needs."""
    data = np.empty(shape, dtype=f"u{item_size(info.dtype)}")
    if data.size:
        read_into(info.file, start, data.data.cast("B"))
    return data


def _converted(info: TensorInfo, chunks: Any, dtype: str) -> Iterator[memoryview]:
    for chunk in chunks():
        values = torch.from_numpy(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8))
        cast = values.view(TORCH_DTYPES[info.dtype]).to(TORCH_DTYPES[dtype])
        yield cast.view(torch.uint8).numpy().data


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
