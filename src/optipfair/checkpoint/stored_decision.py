"""A pruning of a checkpoint decided without loading its model: by rows, or layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..arch.view import MLPView
from ..batches import Batch
from ..distributed import together
from ..pruning.calibration.holding import Holding
from ..pruning.calibration.routing import routing_by_layers
from ..pruning.calibration.stream import LIVE, Batches, capture
from ..pruning.cut.plan import PruningPlan
from ..pruning.decision import Means, decide
from ..pruning.importance.criteria import NOTHING, WEIGHTS
from ..pruning.importance.expert_scores import ExpertScore
from ..pruning.importance.given_scores import NeuronScores
from ..pruning.importance.mlp_scores import hybrid_by_layers
from ..pruning.layers.influence import by_influence, influence_by_layers
from ..pruning.layers.strategies import LAYER_STRATEGIES, MODEL, Chosen
from ..pruning.planning import Scores, random_scores
from ..pruning.request.pruning_request import PruningRequest
from .pruned import stored_sizes
from .stored_experts import stored_squares
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

    Without data, rows of the scored tensors are read; with data, layers come one at a time, on
    `device`. After a `NeedsModelError` the model must be loaded, for what is asked; after a
    `NotByLayersError` too, or it cannot be pruned so.
    """
    sizes, layers = stored_sizes(stored, dtype, max_shard_bytes), None
    if dataloader is not None:
        _refuse_what_needs_the_model(request)
        with together():
            place = device or torch.device("cpu")
            layers = StoredLayers(stored, place, dtype, request.units)
    on_disk = _OnDisk(stored, request, layers, holding, show_progress)
    means = Means(
        sizes,
        stored.view if layers is None else layers.view,
        LIVE if layers is None else layers.source,
        on_disk.scores,
        on_disk.chosen,
        _no_blocks,
    )
    return decide(
        stored.view, request, dataloader, means=means, holding=holding, show_progress=show_progress
    )[0]


def _refuse_what_needs_the_model(request: PruningRequest) -> None:
    depth = request.depth
    if request.blocks is not None:
        _no_blocks((), ())
    if request.layer_widths == "by_loss":
        raise NeedsModelError("layers lose neurons by what each costs the model")
    if depth is None or depth.indices is not None:
        return
    if LAYER_STRATEGIES[depth.method].needs == MODEL:
        raise NeedsModelError(f"layers are chosen by {depth.method!r}")


def _no_blocks(_kinds: Sequence[str], _batches: Iterable[Batch]) -> NoReturn:
    raise NeedsModelError("blocks are chosen by the loss of the whole model")


@dataclass(frozen=True)
class _OnDisk:
    """What scores and ranks: rows of the files, and with data the layers one at a time."""

    stored: StoredModel
    request: PruningRequest
    layers: StoredLayers | None
    holding: Holding | None
    show_progress: bool

    def scores(self, batches: Iterable[Batch] | None) -> Scores | None:
        criterion = self.request.criterion
        if criterion is None:
            return None
        if isinstance(criterion, NeuronScores):
            return partial(self._checked, criterion.of)
        if isinstance(criterion, ExpertScore):
            return self._of_experts(criterion, batches)
        if batches is not None and criterion.accepts_data and self.request.unit is None:
            return partial(self._hybrid, batches)
        if criterion.needs == WEIGHTS:
            return partial(score_stored_mlps, self.stored, criterion)
        return partial(self._checked, partial(random_scores, self.request.seed))  # without data

    def _of_experts(self, score: ExpertScore, batches: Iterable[Batch] | None) -> Scores:
        if score.needs == NOTHING:
            return partial(self._checked, partial(random_scores, self.request.seed))
        if score.needs == WEIGHTS:
            return lambda layers: (
                score.function(stored_squares(self.stored, each)).float() for each in layers
            )
        assert batches is not None  # `check_request` has seen to it
        return partial(self._by_routing, score, batches)

    def _by_routing(
        self, score: ExpertScore, batches: Iterable[Batch], layers: Sequence[MLPView]
    ) -> Iterator[Tensor]:
        keys = [each.key for each in layers]
        stream = self._entering(batches)
        found = routing_by_layers(stream, keys, show_progress=self.show_progress)
        by_key = {key: score.function(routing).float().cpu() for key, routing in found.items()}
        return self._checked(lambda experts: by_key[experts.key], layers)

    def _checked(
        self, scores: Callable[[MLPView], Tensor], mlps: Sequence[MLPView]
    ) -> Iterator[Tensor]:
        """Scores that do not look at the weights, which must be finite all the same."""
        for mlp in mlps:
            check_finite_mlp(self.stored, mlp)
            yield scores(mlp)

    def _hybrid(self, batches: Iterable[Batch], mlps: Sequence[MLPView]) -> Iterator[Tensor]:
        keys = [(mlp.layer, mlp.spec.name) for mlp in mlps]
        scores = hybrid_by_layers(self._entering(batches), keys, show_progress=self.show_progress)
        return (scores[key] for key in keys)

    def chosen(self, _method: str, batches: Iterable[Batch]) -> Chosen:
        stream = self._entering(batches)
        return by_influence(influence_by_layers(stream, show_progress=self.show_progress))

    def _entering(self, batches: Iterable[Batch]) -> Batches:
        layers = self.layers
        assert layers is not None  # what needs data is refused before without any
        return capture(layers.view, batches, layers.source, self.holding)
