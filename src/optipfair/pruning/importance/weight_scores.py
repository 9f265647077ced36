"""Scores of one MLP: its matrices in row chunks of float32, through a criterion.

Criteria score each row by itself, so a chunk at a time is enough: the memory stays small and the
chunk stays in the cache. It also finds NaN and Inf, in what is scored and in what is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ...arch.finite import check_finite
from ...arch.view import MLPView
from ...errors import UnsupportedModelError
from .criteria import Criterion

CHUNK_ELEMENTS = {"cpu": 2**20}  # 4 MiB of float32: about what stays in the cache
DEVICE_CHUNK_ELEMENTS = 2**26

RowFunction = Callable[..., Tensor]  # rows of each source → their scores


class Matrix(Protocol):
    """A tensor (I, H), or (E, I, H) for experts, or one on disk: its rows are read on demand."""

    @property
    def shape(self) -> Sequence[int]: ...

    @property
    def device(self) -> torch.device: ...

    def __getitem__(self, index: Any, /) -> Any: ...


def score_mlp(mlp: MLPView, criterion: Criterion) -> Tensor:
    """Score the neurons of an MLP by its weights.

    Returns:
        (I,), or (E, I) for experts, float32 on the weights' device.

    Raises:
        UnsupportedModelError: a tensor that is scored or cut holds NaN or Inf.
    """
    scores = score_all(criterion, mlp, mlp.matrices())
    scored = {"gate", "up", "gate+up", "query", "key", "value", "query+key+value", "down"}
    if not bool(torch.isfinite(scores).all()):
        check_finite(mlp, scored)
        raise UnsupportedModelError(overflow(mlp, criterion))
    check_finite(mlp, {"down", "bias", "other"})
    return scores


def score_all(criterion: Criterion, mlp: MLPView, matrices: Mapping[str, Matrix]) -> Tensor:
    """Score the neurons of an MLP, or the units of an attention, by their matrices."""
    if "up" in matrices:
        return score_matrices(criterion, matrices)
    return score_units(criterion, matrices, mlp.width)


def score_units(criterion: Criterion, matrices: Mapping[str, Matrix], units: int) -> Tensor:
    """Score units of several rows: the sum over all their rows (of `down`: columns), (U,).

    A row is scored as the one row of a neuron without a gate.
    """
    scores = [score_matrices(criterion, {"up": matrix}) for matrix in matrices.values()]
    return torch.stack([each.view(units, -1).sum(dim=1) for each in scores]).sum(dim=0)


def score_matrices(criterion: Criterion, matrices: Mapping[str, Matrix]) -> Tensor:
    """Score neurons by their rows of `gate` (if any) and `up`: (I,), or (E, I) for experts."""
    sources = [matrices.get("gate"), matrices["up"]]
    return by_expert(criterion.function, sources)


def overflow(mlp: MLPView, criterion: Criterion) -> str:
    return (
        f"{criterion.name} scores of {mlp.spec.name} in layer {mlp.layer} overflow float32, "
        "though its weights are finite. Use another importance criterion."
    )


def by_expert(function: RowFunction, sources: Sequence[Matrix | None]) -> Tensor:
    """Apply a row function to (I, H) matrices, or to each expert of (E, I, H) ones."""
    first = next(source for source in sources if source is not None)
    if len(first.shape) == 2:
        return _in_chunks(function, sources)
    return torch.stack(
        [
            _in_chunks(function, [None if source is None else source[expert] for source in sources])
            for expert in range(first.shape[0])
        ]
    )


def _in_chunks(function: RowFunction, sources: Sequence[Matrix | None]) -> Tensor:
    first = next(source for source in sources if source is not None)
    elements = CHUNK_ELEMENTS.get(first.device.type, DEVICE_CHUNK_ELEMENTS)
    rows = max(elements // first.shape[1], 1)
    chunks = [
        function(
            *(
                None if source is None else source[start : start + rows].float()
                for source in sources
            )
        )
        for start in range(0, first.shape[0], rows)
    ]
    return torch.cat(chunks)
