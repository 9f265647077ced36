"""From a request to all that is needed to carry it out. The model is only read.

That is the plan and, where kept neurons make up for lost ones, the tensors that take the place of
the cut ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..arch.view import MLPView, ModelView
from ..batches import Batch
from ..distributed import from_first
from ..errors import UnsupportedModelError
from .calibration.activations import own_batches
from .calibration.holding import Holding, Replacements
from .calibration.stream import LIVE, LayerSource, capture
from .compensation.blocks import replace_blocks, with_blocks, with_replaced
from .compensation.by_layers import Calibrated, LayerError, decide_by_layers, with_cuts
from .cut.checks import check_cuttable, seen_by
from .cut.guard import prove
from .cut.plan import PruningPlan
from .importance.selection import RANKED_STRATEGIES
from .layer_decisions import adjust_layer, recipe_of
from .layer_widths import widths_by_loss
from .layers.strategies import Chosen, chosen_layers
from .planning import Scores, plan_request
from .request.pruning_request import PruningRequest
from .request.solving import Sizes


@dataclass(frozen=True)
class Decision:
    """What will be done.

    Attributes:
        plan: which layers and neurons stay.
        replacements: tensors that take the place of cut ones.
        errors: how far each MLP's outputs are from what they were, where that is known.
    """

    plan: PruningPlan
    replacements: Replacements = field(default_factory=dict)
    errors: tuple[LayerError, ...] = ()


@dataclass(frozen=True)
class Means:
    """What a decision draws on beside the structure of the model.

    Attributes:
        sizes: what the model weighs.
        running: the model that calibration runs; what is outside its layers holds weights.
        source: where its layers come from.
        scores: given the data (or None), what scores MLPs; None to score the view's own tensors.
        chosen: given a strategy that ranks layers on data, and the data, what it chooses.
    """

    sizes: Sizes
    running: ModelView
    source: LayerSource
    scores: Callable[[Iterable[Batch] | None], Scores | None]
    chosen: Callable[[str, Iterable[Batch]], Chosen]

    @classmethod
    def of_live(cls, view: ModelView, show_progress: bool) -> Means:
        """Those of a model in memory."""

        def chosen(method: str, batches: Iterable[Batch]) -> Chosen:
            return chosen_layers(method, view, batches, show_progress)

        return cls(Sizes.of_model(view), view, LIVE, lambda batches: None, chosen)


def decide(
    view: ModelView,
    request: PruningRequest,
    dataloader: Iterable[Any] | None = None,
    *,
    means: Means | None = None,
    holding: Holding | None = None,
    show_progress: bool = False,
) -> Decision:
    """Decide what a checked request means for a model.

    Args:
        view: the model.
        request: what was asked for.
        dataloader: calibration data.
        means: what the decision draws on where the model is not in memory; then `view` is its twin.
        holding: where hidden states and replaced tensors are held meanwhile.
        show_progress: whether to show bars.

    Several processes (`distributed`) share the data; each gets the same decision.

    Raises:
        UnsupportedModelError: the model cannot be pruned this way.
        ArgumentError: the target is out of reach.
        DataError: the calibration data cannot be used.
    """
    if means is None:
        check_cuttable(view)
        view = seen_by(view, request.attention_unit)
        means = Means.of_live(view, show_progress)
    holding = holding or Holding()
    batches = dataloader if isinstance(dataloader, Reread) else None
    if dataloader is not None and batches is None:
        batches = Reread(dataloader)
    request = _ranked(request, batches, means)
    plan = plan_request(
        view,
        request,
        means.sizes,
        batches=batches,
        scores=means.scores(batches),
        show_progress=show_progress,
    )
    plan = plan if batches is None else from_first(plan)
    if not request.by_layers or plan.empty or batches is None:
        return Decision(plan)
    _check_not_shared(view, plan)
    if request.layer_widths == "by_loss":
        plan = widths_by_loss(view, request, plan, batches, show_progress)
    return _with_layers(view, request, plan, means, batches, holding, show_progress)


def _with_layers(
    view: ModelView,
    request: PruningRequest,
    plan: PruningPlan,
    means: Means,
    batches: Iterable[object],
    holding: Holding,
    show_progress: bool,
) -> Decision:
    """Go through the layers: make up for those that go, then decide the neurons of the others."""
    rewrite = prove(view, plan)  # the widths are known: refuse before the long work
    entering = partial(capture, means.running, batches, holding=holding)
    source, replaced = means.source, holding.replaced()
    if request.compensate and plan.drop_layers:
        blocks = replace_blocks(
            means.running,
            entering(source=source),
            plan.drop_layers,
            source=source,
            replaced=replaced,
            refuse=request.kind == "DEPTH",
            show_progress=show_progress,
        )
        plan, source = with_blocks(plan, blocks), with_replaced(source, replaced)
    if not plan.width_cuts:
        return Decision(plan, replaced)
    found = decide_by_layers(
        means.running,
        entering(source=source),
        {(cut.layer, cut.mlp): cut.kept for cut in plan.width_cuts},
        recipe_of(request, plan),
        adjust=partial(adjust_layer, view, plan, rewrite),
        layers=plan.keep_layers,
        source=source,
        replaced=replaced,
        show_progress=show_progress,
    )
    return _decision(plan, found)


def _ranked(request: PruningRequest, batches: Reread | None, means: Means) -> PruningRequest:
    """Give a depth request that ranks the layers on data what its strategy chooses."""
    depth = request.depth
    if depth is None or depth.indices is not None or depth.method not in RANKED_STRATEGIES.names():
        return request
    assert batches is not None  # `check_request` has seen to it
    chosen = means.chosen(depth.method, batches)
    return replace(request, depth=replace(depth, chosen=chosen))


def _check_not_shared(view: ModelView, plan: PruningPlan) -> None:
    """A layer is decided by what flows through it, so layers that share an MLP would disagree."""
    cut = {(cut.layer, cut.mlp) for cut in plan.width_cuts}
    owners: dict[int, MLPView] = {}
    for mlp in view.mlps:
        if (mlp.layer, mlp.spec.name) not in cut:
            continue
        tensors = (mlp.tensors[mlp.spec.down], mlp.down_bias)
        own = [owners.setdefault(id(tensor), mlp) for tensor in tensors if tensor is not None]
        first = next((owner for owner in own if owner is not mlp), mlp)
        if first is not mlp:
            raise UnsupportedModelError(
                f"Layers {first.layer} and {mlp.layer} share their {mlp.spec.name}, so they cannot "
                "be decided one at a time. Use a static importance criterion."
            )


class Reread:
    """This process's batches, read once, when they are first asked for, and then kept: ids only."""

    def __init__(self, dataloader: Iterable[Any]) -> None:
        self.dataloader = dataloader
        self.kept: list[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self.kept is None:
            self.kept = own_batches(self.dataloader)
        return iter(self.kept)


def _decision(plan: PruningPlan, found: Calibrated) -> Decision:
    return Decision(with_cuts(plan, found), found.replacements, tuple(found.errors))
