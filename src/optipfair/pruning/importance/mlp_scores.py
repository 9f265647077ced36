"""Scores of one MLP: by its weights, or by them and by what flows through the model as it is.

Criteria of weights score each row by itself, so they get a chunk of rows at a time, in float32: the
memory stays small and the chunk stays in the cache. NaN and Inf are found in what is scored and in
what is cut.

Axes: `B` batch, `S` sequence, `I` neurons, `E` experts, `H` hidden, `U` units of several rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...arch.view import LayerView, MLPView, ModelView, check_finite, find_mlp
from ...distributed import together
from ...errors import UnsupportedModelError
from ...hooks import evaluating
from ...progress import track
from ..calibration.activations import SquareSums, check_experts, neuron_input_norms, updating
from ..calibration.stream import Batches, run_layer
from .criteria import Criterion, hybrid, ppm

CHUNK_ELEMENTS = {"cpu": 2**20}  # 4 MiB of float32: about what stays in the cache
DEVICE_CHUNK_ELEMENTS = 2**26

Matrix = Any  # a tensor (I, H), (E, I, H) for experts, or one on disk: rows are read on demand


def score_mlp(mlp: MLPView, criterion: Criterion) -> Tensor:
    """Score an MLP by its weights: (I,), or (E, I) for experts, float32 on their device."""
    scores = score_all(criterion, mlp, mlp.matrices())
    scored = {"gate", "up", "gate+up", "query", "key", "value", "query+key+value", "down"}
    if not bool(torch.isfinite(scores).all()):
        check_finite(mlp, scored)
        raise UnsupportedModelError(overflow(mlp, criterion))
    check_finite(mlp, {"down", "bias", "other"})
    return scores


def score_all(criterion: Criterion, mlp: MLPView, matrices: Mapping[str, Matrix]) -> Tensor:
    """Score the neurons of an MLP, (I,) or (E, I), or the units of an attention, (U,).

    A row of a unit is scored as the one row of a neuron without a gate; the scores of a unit's rows
    (of `down`: columns) are summed.
    """
    ungated = partial(criterion.function, None)
    if "gate" in matrices:
        return _by_rows(criterion.function, matrices["gate"], matrices["up"])
    if "up" in matrices:
        return _by_rows(ungated, matrices["up"])
    rows = [_by_rows(ungated, matrix) for matrix in matrices.values()]
    return torch.stack([each.view(mlp.width, -1).sum(dim=1) for each in rows]).sum(dim=0)


def overflow(mlp: MLPView, criterion: Criterion) -> str:
    return (
        f"{criterion.name} scores of {mlp.spec.name} in layer {mlp.layer} overflow float32, "
        "though its weights are finite. Use another importance criterion."
    )


def _by_rows(function: Callable[..., Tensor], *sources: Matrix) -> Tensor:
    """Apply a function of rows to (I, H) matrices, or to each expert of (E, I, H) ones."""
    first = sources[0]
    if len(first.shape) == 3:
        experts = range(first.shape[0])
        return torch.stack(
            [_by_rows(function, *(s[expert] for s in sources)) for expert in experts]
        )
    elements = CHUNK_ELEMENTS.get(first.device.type, DEVICE_CHUNK_ELEMENTS)
    step = max(elements // first.shape[1], 1)
    chunks = [
        function(*(source[row : row + step].float() for source in sources))
        for row in range(0, first.shape[0], step)
    ]
    return torch.cat(chunks)


def hybrid_scorer(
    view: ModelView, batches: Iterable[object], show_progress: bool = False
) -> Callable[[MLPView], Tensor]:
    """What scores an MLP of a model in memory, which runs over all batches first."""
    norms = neuron_input_norms(view, batches, show_progress)
    return lambda mlp: score_mlp_with_data(mlp, norms[mlp.layer, mlp.spec.name])


def score_mlp_with_data(mlp: MLPView, input_norms: Tensor) -> Tensor:
    """Score an MLP by weights and by the L2 norm of each neuron's input to the down projection.

    Norms and scores are (I,) or (E, I); scores are float32.
    """
    check_finite(mlp, {"gate", "up", "gate+up", "down", "bias"})
    parts = {role: _by_rows(ppm, matrix) for role, matrix in mlp.matrices().items()}
    norms = input_norms.to(parts["down"].device, torch.float32)
    if not mlp.spec.experts:
        return hybrid(parts.get("gate"), parts["up"], parts["down"], norms)
    gates = parts.get("gate", [None] * len(norms))
    experts = zip(gates, parts["up"], parts["down"], norms, strict=True)
    return torch.stack([hybrid(*expert) for expert in experts])


def hybrid_by_layers(
    batches: Batches, wanted: Collection[tuple[int, str]], *, show_progress: bool = False
) -> dict[tuple[int, str], Tensor]:
    """The scores of MLPs of a model whose layers come one at a time; `batches` are used up.

    Those of each (layer, MLP) that is wanted are (I,) or (E, I), float32.
    """
    for mlp in batches.view.mlps:
        check_experts(mlp)
    last = max((index for index, _ in wanted), default=-1)
    scores: dict[tuple[int, str], Tensor] = {}
    with evaluating(batches.view.model):
        for layer in track(batches.view.layers, "calibrating", show_progress, unit="layer"):
            if layer.index <= last:
                mlps = [mlp for mlp in layer.mlps if (layer.index, mlp.spec.name) in wanted]
                scores |= _scored(layer, batches, mlps)
    return scores


def _scored(
    layer: LayerView, batches: Batches, mlps: Sequence[MLPView]
) -> dict[tuple[int, str], Tensor]:
    with together():
        copied = batches.source.copied(layer)
    own = [view for mlp in mlps if (view := find_mlp(layer.index, copied, mlp.spec)) is not None]
    sums, mask = [SquareSums(mlp) for mlp in own], list[Tensor]()
    with together(), updating([(each.module, each.update) for each in sums], mask):
        for number, hidden in enumerate(batches.hidden):
            mask[:] = [batches.masks[number]]
            arguments = batches.arguments[number][layer.index]
            batches.hidden[number] = run_layer(copied, hidden, arguments)
    return {
        (layer.index, each.mlp.spec.name): score_mlp_with_data(each.mlp, each.norms()).cpu()
        for each in sums
    }
