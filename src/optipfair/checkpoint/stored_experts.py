"""Routed experts on disk: where each lies, what its weights weigh, and its name under a new number.

Layers that predict further tokens are no part of the model that runs; where they have experts of
the same names, these are found here too.

Axes: `E` routed experts of a layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..arch.view import MLPView
from ..files.torch_dtypes import TORCH_DTYPES
from ..pruning.importance.selection import select_units
from .pieces import Piece, item_size
from .stored_model import StoredModel
from .stored_rows import CHUNK_BYTES, check_finite_tensor, read_elements

Pieces = Mapping[str, list[Piece]]

_IN_LAYER = re.compile(r"^(?:.*\.)?layers\.\d+\.")


def stored_squares(stored: StoredModel, experts: MLPView) -> Tensor:
    """`squares_by_expert` of experts that lie on disk."""
    pieces = stored.pieces(experts)
    for name in pieces:
        check_finite_tensor(stored.tensors[name])
    return _squares(experts, pieces)


def _squares(experts: MLPView, pieces: Pieces) -> Tensor:
    inside = experts.spec.down.module
    total = torch.zeros(experts.width, dtype=torch.float64)
    for piece in (piece for own in pieces.values() for piece in own):
        if piece.slot.module != inside or piece.slot.tail or piece.info.dtype not in TORCH_DTYPES:
            continue
        if piece.axis == 1:  # columns: rare, and small enough to be read whole
            size = piece.info.numel * item_size(piece.info.dtype)
            values = read_elements(piece.info, piece.offset, size).view(piece.shape)
            total.index_add_(0, torch.from_numpy(piece.neurons), values.double().square().sum(0))
            continue
        row = piece.shape[1] if len(piece.shape) > 1 else 1
        for number, expert in enumerate(piece.neurons.tolist()):
            total[expert] += _sum_of_squares(piece, number * row, row)
    return total


def _sum_of_squares(piece: Piece, first: int, count: int) -> Tensor:
    """Of so many elements of a piece, in order."""
    size = item_size(piece.info.dtype)
    step = max(CHUNK_BYTES // size, 1)
    total = torch.zeros((), dtype=torch.float64)
    for start in range(first, first + count, step):
        some = min(step, first + count - start)
        values = read_elements(piece.info, piece.offset + start * size, some * size)
        total += values.double().square().sum()
    return total


def renumbered(pieces: Pieces, keep: Iterable[int]) -> dict[str, str]:
    """Names of tensors that are each of one expert that stays → with its new number."""
    new = {expert: number for number, expert in enumerate(keep)}
    owned = {n: int(own[0].neurons[0]) for n, own in pieces.items() if own[0].whole}
    if not owned:
        return {}
    place = _place_of_number(owned)
    renamed = {}
    for name, expert in owned.items():
        if expert in new:
            parts = name.split(".")
            parts[place] = re.sub(r"\d+", str(new[expert]), parts[place])
            renamed[name] = ".".join(parts)
    return renamed


def _place_of_number(owned: Mapping[str, int]) -> int:
    """Which part of the names, between dots, is the number of the expert."""
    places: set[int] | None = None
    for name, expert in owned.items():
        own = {
            place
            for place, part in enumerate(name.split("."))
            if re.findall(r"\d+", part) == [str(expert)]
        }
        places = own if places is None else places & own
    assert places, "each of these names differs from the others by the number of its expert"
    return min(places)


def predicting_experts(stored: StoredModel, experts: MLPView) -> dict[str, Pieces]:
    """The experts of layers that predict further tokens, by what stands before their names.

    They are found where a layer has all tensors that `experts`, those of a layer of the model, has,
    of the same names and shapes.
    """
    known = {_IN_LAYER.sub("", name): own for name, own in stored.pieces(experts).items()}
    found: dict[str, dict[str, list[Piece]]] = {}
    for name, info in stored.tensors.items():
        if not stored.predicts_further(name):
            continue
        inside = _IN_LAYER.sub("", name)
        like = known.get(inside)
        if like is not None and like[0].info.shape == info.shape:
            moved = [
                replace(piece, info=info, offset=info.start + piece.offset - piece.info.start)
                for piece in like
            ]
            found.setdefault(name.removesuffix(inside), {})[name] = moved
    return {head: own for head, own in found.items() if len(own) == len(known)}


def without_experts_of_predicting(stored: StoredModel, experts: MLPView) -> bool:
    """Whether layers that predict further tokens have experts that are not found."""
    found = {name for own in predicting_experts(stored, experts).values() for name in own}
    further = {name for name in stored.tensors if stored.predicts_further(name)}
    return any(re.search(r"\bexperts?\b", name) for name in further - found)


def kept_of_predicting(experts: MLPView, pieces: Pieces, count: int) -> tuple[int, ...]:
    """Which experts stay in a layer that predicts further tokens: those of the largest weights.

    transformers does not run these layers, so there is nothing else to choose by.
    """
    scores = _squares(experts, pieces).sqrt().float()
    return tuple(select_units(scores, count, experts.spec.groups).tolist())
