"""From a request to a plan that holds all it takes to carry it out. The model is only read.

Widths may differ by layer (`layer_widths`): a layer that is missed more loses fewer neurons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..arch.spec import NEURON, Block
from ..arch.view import MLPView, ModelView
from ..batches import Batch
from ..distributed import from_first
from ..errors import UnsupportedModelError
from ..noted import warn
from .block_planning import check_blocks, plan_blocks
from .calibration.activations import own_batches
from .calibration.holding import Holding
from .calibration.stream import LIVE, LayerSource, Variety, capture, copied_layer
from .compensation.blocks import replace_blocks, with_replaced
from .compensation.by_layers import decide_by_layers
from .compensation.lone_blocks import make_up_for_blocks
from .cut.checks import check_cuttable, check_shared_cuts, check_sharing, seen_by
from .cut.guard import Rewrite, cut_mlps, prove
from .cut.plan import PruningPlan, WidthCut
from .cut.surgery import cut_copy
from .layers.block_loss import choosing_blocks, kind_of
from .layers.removal_loss import TextLoss
from .layers.strategies import LAYER_STRATEGIES, Chosen, ranks_layers
from .planning import TRAINED_WIDTH, Scores, choose_neurons, plan_counts, scorer, widest
from .request.pruning_request import PruningRequest
from .request.solving import Share, Sizes, allocate, width_multiple


@dataclass(frozen=True)
class Means:
    """What a decision draws on beside the structure of the model.

    The last three are given the data: what scores MLPs, None for the view's own tensors; what a
    strategy that ranks layers chooses; and what blocks of some kinds go first.
    """

    sizes: Sizes
    running: ModelView  # what calibration runs; what is outside its layers holds weights
    source: LayerSource  # of its layers
    scores: Callable[[Iterable[Batch] | None], Scores | None]
    chosen: Callable[[str, Iterable[Batch]], Chosen]
    blocks: Callable[[Sequence[str], Iterable[Batch]], Callable[[int], Sequence[Block]]]

    @classmethod
    def of_live(cls, view: ModelView, show_progress: bool) -> Means:
        """Those of a model in memory."""

        def chosen(method: str, batches: Iterable[Batch]) -> Chosen:
            choose: Chosen = LAYER_STRATEGIES[method].function(view, batches, show_progress)
            return choose

        def blocks(kinds: Sequence[str], batches: Iterable[Batch]) -> Any:
            return choosing_blocks(view, batches, kinds, show_progress)

        return cls(Sizes.of_model(view), view, LIVE, lambda batches: None, chosen, blocks)


def decide(
    view: ModelView,
    request: PruningRequest,
    dataloader: Iterable[Any] | None = None,
    *,
    means: Means | None = None,
    holding: Holding | None = None,
    show_progress: bool = False,
    stored_bytes: int | None = None,
) -> tuple[PruningPlan, Rewrite | None]:
    """Decide what a checked request means for a model, and prove that it can be carried out.

    Where the model is not in memory, `view` is its twin, and `means` say what the decision draws
    on; `stored_bytes` what its files take, headers included. Several processes (`distributed`)
    share the data; each gets the same decision. There is no proof of a plan that changes nothing.
    """
    if means is None:
        check_cuttable(view)
        view = seen_by(view, request.units)
        means = Means.of_live(view, show_progress)
        if stored_bytes is not None:
            means = replace(means, sizes=replace(means.sizes, bytes=stored_bytes))
    batches = None
    if dataloader is not None:
        batches = dataloader if isinstance(dataloader, Reread) else Reread(dataloader)
    if request.blocks is not None:
        check_blocks(means.running, request.blocks)
    request = _ranked(request, batches, means)
    return _Decision(view, request, batches, means, holding or Holding(), show_progress).made()


def decide_counts(
    view: ModelView,
    counts: PruningPlan,
    request: PruningRequest,
    dataloader: Iterable[Any],
    *,
    show_progress: bool = False,
) -> tuple[PruningPlan, Rewrite]:
    """Decide which neurons stay where a plan says how many, and which blocks go; all made up for.

    The request says by what neurons are chosen. The model, in memory, is only read.
    """
    check_cuttable(view)
    seen = seen_by(view, {NEURON, "attention"})
    batches = dataloader if isinstance(dataloader, Reread) else Reread(dataloader)
    means = Means.of_live(seen, show_progress)
    todo = _Decision(seen, request, batches, means, Holding(), show_progress)
    check_shared_cuts(seen, counts)
    rewrite = prove(seen, counts)
    return todo.by_layers(counts, rewrite), rewrite


@dataclass(frozen=True)
class _Decision:
    """What a decision works with, and its steps."""

    view: ModelView
    request: PruningRequest
    batches: Reread | None
    means: Means
    holding: Holding
    show_progress: bool

    def made(self) -> tuple[PruningPlan, Rewrite | None]:
        view, request, data = self.view, self.request, self.batches is not None
        plan = self._agreed(self._counted(with_data=data))
        if plan.empty:
            return plan, None
        if self.batches is not None:
            _warn_about_little_data(self.batches, view)
        check_shared_cuts(view, plan)
        if request.by_layers:
            _check_not_shared(view, plan)
            if request.layer_widths == "by_loss":
                plan = self._with_widths_by_loss(plan)
        rewrite = prove(view, plan)  # the counts are known: refuse before the long work
        plan = self._scored(plan)
        return self.by_layers(plan, rewrite) if request.by_layers else plan, rewrite

    def _counted(self, *, with_data: bool) -> PruningPlan:
        """How much of each layer stays."""
        if self.request.blocks is not None:
            check_sharing(self.view)
            return plan_blocks(self.view, self.request, self.means.sizes)
        return plan_counts(self.view, self.request, self.means.sizes, with_data=with_data)

    def _agreed(self, plan: PruningPlan) -> PruningPlan:
        """The first process's plan, where processes share data."""
        return plan if self.batches is None else from_first(plan)

    def _scored(self, plan: PruningPlan) -> PruningPlan:
        """Choose the neurons by their scores, unless a pass over the layers decides them."""
        if all(cut.keep for cut in plan.width_cuts) or self.request.decided_by_layers:
            return plan
        scores = self.means.scores(self.batches)
        if scores is None:
            show = self.show_progress
            scores = partial(map, scorer(self.view, self.request, self.batches, show))
        return self._agreed(choose_neurons(self.view, plan, scores, self.show_progress))

    def _with_widths_by_loss(self, plan: PruningPlan) -> PruningPlan:
        """Share the neurons that go out among the layers, by what each layer's alone cost.

        `plan` says how many stay where all layers lose the same share.
        """
        view, request = self.view, self.request
        shares = [_share(view, request, cut, mlp) for cut, mlp in cut_mlps(view, plan)]
        prove(view, _with_kept(plan, [s.kept_at(1 + s.layer % 2 / 2) for s in shares]))  # may they?
        rewrite = prove(view, plan)
        stream, alone = capture(view, self._data), replace(request, sequential=False)
        alike = decide_by_layers(
            stream, self._scored(plan), alone, rewrite, show_progress=self.show_progress
        )
        losses = TextLoss(view, self._data, self.show_progress).rises(
            {cut.layer for cut in plan.width_cuts},
            lambda layer: cut_copy(layer, copied_layer(layer.module), alike, rewrite),
        )
        record = {
            "layer_widths": request.layer_widths,
            "layer_losses": [[layer, loss] for layer, loss in losses.items()],
        }
        allocated = _with_kept(plan, allocate(shares, losses))
        return replace(allocated, request={**plan.request, **record})

    def by_layers(self, plan: PruningPlan, rewrite: Rewrite) -> PruningPlan:
        """Go through the layers: make up for those that go, then decide the others' neurons."""
        source, request, show = self.means.source, self.request, self.show_progress
        entering = partial(capture, self.means.running, self._data, holding=self.holding)
        replaced = self.holding.replaced()
        gone = {(cut.layer, kind_of(cut.mlp)) for cut in plan.width_cuts if not cut.kept}
        if request.compensate and gone:
            stream = entering(source=source)
            errors = make_up_for_blocks(stream, gone, replaced=replaced, show_progress=show)
            record = {**plan.request, "compensate": True, "replaced_blocks": errors}
            plan = replace(plan, request=record, replacements=replaced)
            source = with_replaced(source, replaced)
        if request.compensate and plan.drop_layers:
            errors = replace_blocks(
                entering(source=source),
                plan.drop_layers,
                replaced=replaced,
                refuse=request.kind == "DEPTH",
                show_progress=show,
            )
            record = {**plan.request, "compensate": True, "replaced_blocks": errors}
            plan = replace(plan, request=record, replacements=replaced)
            source = with_replaced(source, replaced)
        if not any(cut.kept for cut in plan.width_cuts):
            return plan
        stream = entering(source=source)
        return decide_by_layers(
            stream, plan, request, rewrite, replaced=replaced, show_progress=show
        )

    @property
    def _data(self) -> Reread:
        assert self.batches is not None  # `check_request` has seen to it
        return self.batches


def _warn_about_little_data(batches: Reread, view: ModelView) -> None:
    """Data that hold one thing only say nothing of others; toys are calibrated on anything."""
    found = Variety.of(batches)
    if found.tokens == 1 and any(batch.input_ids.shape[1] > 1 for batch in batches):
        what = "one distinct token"
    elif found.sequences == 1 and widest(view.mlps) >= TRAINED_WIDTH:
        what = "one distinct sequence"
    else:
        return
    warn(
        f"The calibration data hold {what}, so what is chosen and fitted on them may be worse for "
        "all other text than neurons chosen by their weights and only removed. Give more data."
    )


def _share(view: ModelView, request: PruningRequest, cut: WidthCut, mlp: MLPView) -> Share:
    multiple = math.lcm(_rounded_to(request, cut, mlp), width_multiple(view.spec, mlp.spec))
    size = sum(tensor.numel() for tensor in mlp.tensors.values()) // cut.width
    return Share(cut.layer, cut.width, cut.kept, int(multiple * mlp.spec.width_factor), size)


def _rounded_to(request: PruningRequest, cut: WidthCut, mlp: MLPView) -> int:
    """What kept widths are multiples of: where it is the nearest one, those that were rounded."""
    target = request.width
    if target is None or target.nearest is None:
        return (target and target.divisor) or 1
    step = target.nearest * mlp.spec.width_factor
    return target.nearest if cut.width % step == 0 == cut.kept % step else 1


def _with_kept(plan: PruningPlan, kept: Sequence[int]) -> PruningPlan:
    """The plan with other numbers of neurons; which ones is decided later."""
    pairs = zip(plan.width_cuts, kept, strict=True)
    cuts = tuple(replace(cut, count=n) for cut, n in pairs if n < cut.width)
    return replace(plan, width_cuts=cuts)


def _ranked(request: PruningRequest, batches: Reread | None, means: Means) -> PruningRequest:
    """Give a request that ranks layers, or blocks, on data what these choose."""
    depth, blocks = request.depth, request.blocks
    if blocks is not None and blocks.named is None:
        assert batches is not None  # `check_request` has seen to it
        return replace(request, blocks=replace(blocks, chosen=means.blocks(blocks.kinds, batches)))
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
