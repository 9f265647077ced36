"""From a request to a plan that holds all it takes to carry it out. The model is only read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..arch.view import MLPView, ModelView
from ..batches import Batch
from ..distributed import from_first
from ..errors import UnsupportedModelError
from .calibration.activations import own_batches
from .calibration.holding import Holding
from .calibration.stream import LIVE, LayerSource, capture
from .compensation.blocks import replace_blocks, with_replaced
from .compensation.by_layers import decide_by_layers
from .cut.checks import check_cuttable, check_shared_cuts, seen_by
from .cut.guard import Rewrite, prove
from .cut.plan import PruningPlan
from .layer_widths import widths_by_loss
from .layers.strategies import LAYER_STRATEGIES, Chosen, ranks_layers
from .planning import Scores, choose_neurons, plan_counts, scorer
from .request.pruning_request import PruningRequest
from .request.solving import Sizes


@dataclass(frozen=True)
class Means:
    """What a decision draws on beside the structure of the model.

    `scores` and `chosen` are given the data: what scores MLPs, None for the view's own tensors, and
    what a strategy that ranks layers chooses.
    """

    sizes: Sizes
    running: ModelView  # what calibration runs; what is outside its layers holds weights
    source: LayerSource  # of its layers
    scores: Callable[[Iterable[Batch] | None], Scores | None]
    chosen: Callable[[str, Iterable[Batch]], Chosen]

    @classmethod
    def of_live(cls, view: ModelView, show_progress: bool) -> Means:
        """Those of a model in memory."""

        def chosen(method: str, batches: Iterable[Batch]) -> Chosen:
            choose: Chosen = LAYER_STRATEGIES[method].function(view, batches, show_progress)
            return choose

        return cls(Sizes.of_model(view), view, LIVE, lambda batches: None, chosen)


def decide(
    view: ModelView,
    request: PruningRequest,
    dataloader: Iterable[Any] | None = None,
    *,
    means: Means | None = None,
    holding: Holding | None = None,
    show_progress: bool = False,
) -> tuple[PruningPlan, Rewrite | None]:
    """Decide what a checked request means for a model, and prove that it can be carried out.

    Where the model is not in memory, `view` is its twin, and `means` say what the decision draws
    on. Several processes (`distributed`) share the data; each gets the same decision. There is no
    proof of a plan that changes nothing.
    """
    if means is None:
        check_cuttable(view)
        view = seen_by(view, request.attention_unit)
        means = Means.of_live(view, show_progress)
    batches = None
    if dataloader is not None:
        batches = dataloader if isinstance(dataloader, Reread) else Reread(dataloader)
    request = _ranked(request, batches, means)
    plan = plan_counts(view, request, means.sizes, with_data=batches is not None)
    plan = plan if batches is None else from_first(plan)
    if plan.empty:
        return plan, None
    check_shared_cuts(view, plan)
    choose = partial(_scored, view, request, means, batches, show_progress)
    if request.by_layers and batches is not None:
        _check_not_shared(view, plan)
        if request.layer_widths == "by_loss":
            plan = widths_by_loss(view, request, plan, batches, choose, show_progress)
    rewrite = prove(view, plan)  # the counts are known: refuse before the long work
    plan = choose(plan)
    if request.by_layers and batches is not None:
        plan = _by_layers(request, plan, rewrite, means, batches, holding, show_progress)
    return plan, rewrite


def _scored(
    view: ModelView,
    request: PruningRequest,
    means: Means,
    batches: Iterable[Batch] | None,
    show_progress: bool,
    plan: PruningPlan,
) -> PruningPlan:
    """Choose the neurons by their scores, unless a pass over the layers decides them."""
    if not plan.width_cuts or request.decided_by_layers:
        return plan
    scores = means.scores(batches)
    scores = scores or partial(map, scorer(view, request, batches, show_progress))
    plan = choose_neurons(view, plan, scores, show_progress)
    return plan if batches is None else from_first(plan)


def _by_layers(
    request: PruningRequest,
    plan: PruningPlan,
    rewrite: Rewrite,
    means: Means,
    batches: Iterable[object],
    holding: Holding | None,
    show_progress: bool,
) -> PruningPlan:
    """Go through the layers: make up for those that go, then decide the neurons of the others."""
    holding = holding or Holding()
    entering = partial(capture, means.running, batches, holding=holding)
    source, replaced = means.source, holding.replaced()
    if request.compensate and plan.drop_layers:
        errors = replace_blocks(
            means.running,
            entering(source=source),
            plan.drop_layers,
            replaced=replaced,
            source=source,
            refuse=request.kind == "DEPTH",
            show_progress=show_progress,
        )
        record = {**plan.request, "compensate": True, "replaced_blocks": errors}
        plan = replace(plan, request=record, replacements=replaced)
        source = with_replaced(source, replaced)
    if not plan.width_cuts:
        return plan
    return decide_by_layers(
        means.running,
        entering(source=source),
        plan,
        request,
        rewrite,
        source=source,
        replaced=replaced,
        show_progress=show_progress,
    )


def _ranked(request: PruningRequest, batches: Reread | None, means: Means) -> PruningRequest:
    """Give a depth request that ranks the layers on data what its strategy chooses."""
    depth = request.depth
    if depth is None or depth.indices is not None or not ranks_layers(depth.method):
        return request
    assert batches is not None  # `check_request` has seen to it
    chosen = means.chosen(depth.method, batches)
    return replace(request, depth=replace(depth, chosen=chosen))


def _check_not_shared(view: ModelView, plan: PruningPlan) -> None:
    """A layer is decided by what flows through it, so layers that share an MLP would disagree."""
    cut = {cut.key for cut in plan.width_cuts}
    owners: dict[int, MLPView] = {}
    for mlp in view.mlps:
        for tensor in (mlp.tensors[mlp.spec.down], mlp.down_bias) if mlp.key in cut else ():
            first = mlp if tensor is None else owners.setdefault(id(tensor), mlp)
            if first is not mlp:
                raise UnsupportedModelError(
                    f"Layers {first.layer} and {mlp.layer} share their {mlp.spec.name}, so they "
                    "cannot be decided one at a time. Use a static importance criterion."
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
