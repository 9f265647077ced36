"""A pruning of a checkpoint decided without loading its model: by rows, or layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..arch.view import MLPView
from ..batches import Batch
from ..distributed import together
from ..pruning.calibration.holding import Holding
from ..pruning.calibration.stream import LIVE, capture
from ..pruning.cut.plan import PruningPlan
from ..pruning.decision import Means, decide
from ..pruning.importance.criteria import WEIGHTS, Criterion
from ..pruning.importance.given_scores import NeuronScores
from ..pruning.importance.mlp_scores import hybrid_by_layers
from ..pruning.layers.influence import by_influence, influence_by_layers
from ..pruning.layers.strategies import LAYER_STRATEGIES, MODEL, Chosen
from ..pruning.planning import Scores, random_scores
from ..pruning.request.pruning_request import PruningRequest
from .pruned import stored_sizes
from .stored_layers import NeedsModelError, StoredLayers
from .stored_model import StoredModel
from .stored_rows import check_finite_mlp, score_stored_mlps


def decide_stored(
    stored: StoredModel,
    request: PruningRequest,
    dtype: str = "auto",
    max_shard_bytes: int = 5 * 10**9,
    *,
    dataloader: Iterable[Any] | None = None,
    device: torch.device | None = None,
    holding: Holding | None = None,
    show_progress: bool = False,
) -> PruningPlan:
    """Decide what a request means for a checkpoint.

    Without data, rows of the scored tensors are read. With data, the layers come into memory one
    at a time, on `device`.

    After a `NeedsModelError` the model must be loaded, for what is asked; after a
    `NotByLayersError` too, or it cannot be pruned so.
    """
    means = Means(
        stored_sizes(stored, dtype, max_shard_bytes),
        stored.view,
        LIVE,
        lambda _batches: _weight_scores(stored, request),
        _no_ranking,
    )
    if dataloader is not None:
        _refuse_what_needs_the_model(request)
        with together():
            place = device or torch.device("cpu")
            layers = StoredLayers(stored, place, dtype, request.attention_unit)
        means = _means_with_data(layers, request, means, holding, show_progress)
    return decide(
        stored.view, request, dataloader, means=means, holding=holding, show_progress=show_progress
    )[0]


def _weight_scores(stored: StoredModel, request: PruningRequest) -> Scores | None:
    criterion = request.criterion
    if criterion is None:
        return None
    if isinstance(criterion, NeuronScores):
        return partial(_checked, stored, criterion.of)
    if criterion.needs == WEIGHTS:
        return partial(score_stored_mlps, stored, criterion)
    return partial(_checked, stored, partial(random_scores, request.seed))  # without data: random


def _checked(
    stored: StoredModel, scores: Callable[[MLPView], Tensor], mlps: Sequence[MLPView]
) -> Iterator[Tensor]:
    """Scores that do not look at the weights, which must be finite all the same."""
    for mlp in mlps:
        check_finite_mlp(stored, mlp)
        yield scores(mlp)


def _means_with_data(
    layers: StoredLayers,
    request: PruningRequest,
    without: Means,
    holding: Holding | None,
    show_progress: bool,
) -> Means:
    source = layers.source
    entering = partial(capture, layers.view, source=source, holding=holding)

    def hybrid(batches: Iterable[Batch], mlps: Sequence[MLPView]) -> Iterator[Tensor]:
        keys = [(mlp.layer, mlp.spec.name) for mlp in mlps]
        stream = entering(batches)
        by_mlp = hybrid_by_layers(layers.view, stream, source, keys, show_progress=show_progress)
        return (by_mlp[key] for key in keys)

    def scores(batches: Iterable[Batch] | None) -> Scores | None:
        criterion = request.criterion
        reads_data = isinstance(criterion, Criterion) and criterion.accepts_data
        if batches is not None and reads_data and request.attention_unit is None:
            return partial(hybrid, batches)
        return without.scores(batches)

    def chosen(_method: str, batches: Iterable[Batch]) -> Chosen:
        stream = entering(batches)
        scores = influence_by_layers(layers.view, stream, source, show_progress=show_progress)
        return by_influence(scores)

    return Means(without.sizes, layers.view, source, scores, chosen)


def _no_ranking(method: str, _batches: Iterable[Batch]) -> Chosen:
    raise AssertionError(f"{method} without data is refused before")


def _refuse_what_needs_the_model(request: PruningRequest) -> None:
    depth = request.depth
    if request.layer_widths == "by_loss":
        raise NeedsModelError("layers lose neurons by what each costs the model")
    if depth is None or depth.indices is not None:
        return
    if LAYER_STRATEGIES[depth.method].needs == MODEL:
        raise NeedsModelError(f"layers are chosen by {depth.method!r}")
