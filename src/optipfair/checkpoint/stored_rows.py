"""Scores of an MLP that lies on disk: its rows are read in chunks, by offset, and let go.

Axes: `E` experts, `I` neurons, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arch.view import MLPView, is_finite, not_finite
from ..errors import UnsupportedModelError
from ..files.safetensors_reader import TensorInfo, read_into
from ..files.torch_dtypes import TORCH_DTYPES
from ..pruning.importance.criteria import Criterion
from ..pruning.importance.mlp_scores import overflow, score_all
from .pieces import Piece, item_size
from .stored_model import StoredModel

_READERS = 2
_ONLY_CUT = ("down", "bias", "other")  # roles in which no score shows NaN or Inf
CHUNK_BYTES = 8 * 2**20


def score_stored_mlps(
    stored: StoredModel, criterion: Criterion, mlps: Sequence[MLPView]
) -> Iterator[Tensor]:
    """Score MLPs in order, some at a time, each on one core while others read."""
    score = partial(score_stored_mlp, stored, criterion)
    with ExitStack() as stack:
        # Chunks are too small to share between cores; on a busy machine that takes ten times as
        # long or more.
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        readers = stack.enter_context(ThreadPoolExecutor(_READERS))
        try:
            yield from readers.map(score, mlps)
        except BaseException:
            readers.shutdown(cancel_futures=True)
            raise


def score_stored_mlp(stored: StoredModel, criterion: Criterion, mlp: MLPView) -> Tensor:
    """Score an MLP by its weights on disk as `score_mlp` does: (I,) or (E, I), float32."""
    pieces = [piece for own in stored.pieces(mlp).values() for piece in own]
    roles = {role for slot in mlp.spec.slots for role in slot.role.split("+")}
    scored = ("gate", "up") if "up" in roles else ("query", "key", "value", "down")

    def score(expert: int) -> Tensor:  # whose rows are let go with it
        own = [piece for piece in pieces if piece.expert == expert]
        return score_all(criterion, mlp, {r: _rows(mlp, own, r) for r in scored if r in roles})

    experts = mlp.experts
    scores = score(0) if experts is None else torch.stack([score(e) for e in range(experts)])
    if not bool(torch.isfinite(scores).all()):
        check_finite_mlp(stored, mlp)
        raise UnsupportedModelError(overflow(mlp, criterion))
    for info in {p.info.name: p.info for p in pieces if p.slot.role in _ONLY_CUT}.values():
        check_finite_tensor(info)
    return scores


def check_finite_mlp(stored: StoredModel, mlp: MLPView) -> None:
    """Refuse an MLP whose tensors on disk hold NaN or Inf, naming the tensor."""
    for name in stored.pieces(mlp):
        check_finite_tensor(stored.tensors[name])


def check_finite_tensor(info: TensorInfo) -> None:
    """Refuse a tensor on disk that holds NaN or Inf, by its name; what is no float passes."""
    if info.dtype not in TORCH_DTYPES:
        return
    size = CHUNK_BYTES // item_size(info.dtype) * item_size(info.dtype)
    for start in range(info.start, info.end, size):
        chunk = read_elements(info, start, min(size, info.end - start))
        if not is_finite(chunk if chunk.element_size() > 1 else chunk.float()):
            raise UnsupportedModelError(not_finite(info.name))


def read_elements(info: TensorInfo, start: int, size: int) -> Tensor:
    """The elements in `size` bytes of a tensor's file from `start` on, (n,), which are floats."""
    if info.dtype not in TORCH_DTYPES:
        raise UnsupportedModelError(
            f"{info.name} is of dtype {info.dtype!r}, so its neurons cannot be scored."
        )
    data = torch.empty(size, dtype=torch.uint8)
    read_into(info.file, start, data.numpy().data)
    return data.view(TORCH_DTYPES[info.dtype])


def _rows(mlp: MLPView, pieces: Sequence[Piece], role: str) -> StoredRows:
    """The one place where a role (`gate`, `up`, ...) of an expert is stored, among its pieces."""
    for piece in pieces:
        held = piece.slot.role.split("+")
        if role in held:
            positions = np.flatnonzero(piece.neurons // mlp.width == held.index(role))
            if len(positions):
                return StoredRows(piece, positions, mlp.spec.experts)
    raise UnsupportedModelError(f"{role} of {mlp.spec.name} is not found on disk.")


class StoredRows:
    """One matrix (I, H) on disk; a slice reads those rows, in the dtype that they are stored in."""

    device = torch.device("cpu")

    def __init__(self, piece: Piece, positions: NDArray[np.int64], experts: bool) -> None:
        self.piece, self.positions = piece, positions
        self.live_axis = piece.slot.axis - (1 if experts else 0)
        self.shape = (len(positions), piece.shape[1 - piece.axis])

    def __getitem__(self, rows: slice) -> Tensor:
        start, stop, _ = rows.indices(self.shape[0])
        first, last = int(self.positions[start]), int(self.positions[stop - 1])
        adjacent = last - first == stop - 1 - start
        if self.piece.axis == self.live_axis == 0 and adjacent:
            return self._read(first, last + 1)
        return self._whole[start:stop]

    def _read(self, first: int, stop: int) -> Tensor:
        """Rows of the piece as it is stored."""
        info, width = self.piece.info, self.piece.shape[1]
        row = width * item_size(info.dtype)
        data = read_elements(info, self.piece.offset + first * row, (stop - first) * row)
        return data.view(stop - first, width)

    @cached_property
    def _whole(self) -> Tensor:
        """All rows, (I, H), laid out as in memory, so that sums run in the same order."""
        stored = self._read(0, self.piece.shape[0])
        first, last = int(self.positions[0]), int(self.positions[-1])
        step = (last - first) // max(len(self.positions) - 1, 1) or 1
        if np.array_equal(self.positions, np.arange(first, last + 1, step)):
            rows = slice(first, last + 1, step)
            taken = stored[rows] if self.piece.axis == 0 else stored[:, rows]
        else:
            taken = stored.index_select(self.piece.axis, torch.from_numpy(self.positions))
        if self.piece.axis != self.live_axis:
            taken = taken.t().contiguous()
        return taken if self.live_axis == 0 else taken.t()
