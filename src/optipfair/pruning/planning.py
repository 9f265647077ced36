"""From a target and a model to a plan: which layers stay, how many neurons, and which.

It only reads the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..arch.units.attention import check_count
from ..arch.units.experts import check_experts_left
from ..arch.view import MLPView, ModelView, check_finite
from ..checking import check_layer_indices
from ..errors import ArgumentError
from ..noted import warn
from ..progress import track
from .calibration.routing import routing_of_model
from .cut.checks import check_sharing, identity
from .cut.plan import PruningPlan, WidthCut
from .importance.criteria import NOTHING, WEIGHTS, Criterion, random_choice
from .importance.expert_scores import ExpertScore
from .importance.expert_weights import squares_by_expert
from .importance.given_scores import NeuronScores, check_scores_fit
from .importance.mlp_scores import hybrid_scorer, score_mlp
from .importance.selection import select_units
from .request.pruning_request import PruningRequest
from .request.shares import small_share
from .request.solving import (
    Sizes,
    Solution,
    check_width_is_prunable,
    exact_width,
    kept_width,
    solve,
    width_multiple,
)
from .request.width_targets import WidthTarget, rate_above

TRAINED_WIDTH = 1024  # narrower models are toys, mostly
_RATE = 10  # percent of the hidden size: no model's MLP is so narrow

Scores = Callable[[Sequence[MLPView]], Iterable[Tensor]]


def plan_counts(
    view: ModelView, request: PruningRequest, sizes: Sizes, *, with_data: bool = False
) -> PruningPlan:
    """Decide which layers stay, and how many neurons of every MLP."""
    if request.width is not None:
        if request.unit is None:
            check_width_is_prunable(view.spec, view.mlps)
        check_sharing(view)
        _chosen(view, request.width, tuple(range(len(view.layers))))  # before it is weighed
    solution = solve(view, request, sizes)
    for each in _small_shares(request):
        warn(each)
    _warn_about_layers_without_data(view, request, data=with_data)
    keep = tuple(index for index in range(len(view.layers)) if index not in set(solution.drop))
    cuts: tuple[WidthCut, ...] = ()
    if solution.width is not None:
        chosen = _chosen(view, solution.width, keep)
        _warn_about_weights_only(request, chosen, data=with_data)
        counts = _kept_counts(view, solution.width, chosen)
        if request.unit is not None:
            check_units_left(view, request, solution.width)
        narrower = [(m, count) for m, count in zip(chosen, counts, strict=True) if count < m.width]
        if isinstance(request.criterion, NeuronScores):
            check_scores_fit(request.criterion, view, [mlp for mlp, _ in narrower])
        cuts = tuple(WidthCut(m.layer, m.spec.name, m.width, count=n) for m, n in narrower)
    given = request.criterion
    reads = request.unit is None and getattr(given, "accepts_data", False)
    reads = reads or (isinstance(given, ExpertScore) and given.needs_data)
    record = _record(request, solution, data_driven=with_data and (request.by_layers or reads))
    plan = PruningPlan(view.spec.model_type, len(view.layers), keep, cuts, record)
    if plan.empty:
        warn("Nothing was removed: the target keeps everything. Give a larger share to remove.")
    return plan


def check_units_left(view: ModelView, request: PruningRequest, target: WidthTarget) -> None:
    """Refuse a number of units to stay that the model cannot do with."""
    for count in sorted({kept_width(view.spec, mlp, target) for mlp in view.mlps}):
        if request.unit == "expert":
            check_experts_left(view, count)
        check_count(view, count)


def choose_neurons(
    view: ModelView, plan: PruningPlan, scores: Scores, show_progress: bool = False
) -> PruningPlan:
    """The plan with the neurons of the highest scores, as many as it says.

    `scores` gives the scores of MLPs in order, each (I,) or (E, I). An MLP that two layers share is
    decided once.
    """
    counts = {cut.key: cut.kept for cut in plan.width_cuts}
    owners: dict[tuple[int, ...], MLPView] = {}
    owner_of = {m.key: owners.setdefault(identity(m), m) for m in view.mlps if m.key in counts}
    kept: dict[tuple[int, str], tuple[tuple[int, ...], ...]] = {}
    todo = track(owners.values(), "scoring", show_progress, unit="MLP")
    for mlp, score in zip(todo, scores(list(owners.values())), strict=True):
        keep = select_units(score, counts[mlp.key], mlp.spec.groups).tolist()
        kept[mlp.key] = tuple(map(tuple, keep)) if mlp.spec.experts else (tuple(keep),)
    cuts = tuple(cut.keeping(kept[owner_of[cut.key].key]) for cut in plan.width_cuts)
    return replace(plan, width_cuts=cuts)


def scorer(
    view: ModelView, request: PruningRequest, batches: Iterable[object] | None, show_progress: bool
) -> Callable[[MLPView], Tensor]:
    """What scores an MLP, where no pass over the layers decides."""
    criterion = request.criterion
    if isinstance(criterion, NeuronScores):
        return partial(_finite_and, criterion.of)
    assert criterion is not None
    if isinstance(criterion, ExpertScore):
        return _expert_scorer(view, criterion, request.seed, batches, show_progress)
    if criterion.needs == NOTHING:
        return partial(_finite_and, partial(random_scores, request.seed))
    if batches is not None and criterion.accepts_data and request.unit is None:
        return hybrid_scorer(view, batches, show_progress)
    return partial(score_mlp, criterion=criterion)


def _expert_scorer(
    view: ModelView,
    score: ExpertScore,
    seed: int,
    batches: Iterable[object] | None,
    show_progress: bool,
) -> Callable[[MLPView], Tensor]:
    """What scores the routed experts of a layer, (E,)."""
    if score.needs == NOTHING:
        return partial(_finite_and, partial(random_scores, seed))
    if score.needs == WEIGHTS:
        return lambda experts: score.function(squares_by_expert(experts)).float()
    assert batches is not None  # `check_request` has seen to it
    found = routing_of_model(view, batches, show_progress=show_progress)
    return partial(_finite_and, lambda experts: score.function(found[experts.key]).float())


def _finite_and(scores: Callable[[MLPView], Tensor], mlp: MLPView) -> Tensor:
    """Scores that do not look at the weights, which must be finite all the same."""
    check_finite(mlp, {slot.role for slot in mlp.tensors})
    return scores(mlp)


def random_scores(seed: int, mlp: MLPView) -> Tensor:
    """Scores that depend on the seed and the MLP's place, not on the order: (I,) or (E, I)."""
    digest = hashlib.sha256(f"{seed} {mlp.layer} {mlp.spec.name} 0".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    shape = (mlp.width,) if mlp.experts is None else (mlp.experts, mlp.width)
    return random_choice(shape, generator)


def _record(request: PruningRequest, solution: Solution, *, data_driven: bool) -> dict[str, Any]:
    """What was asked for and what it came to, for the plan and the model card."""
    record: dict[str, Any] = {"pruning_type": request.kind}
    if request.kind == "ATTENTION":
        record["attention_unit"] = request.unit
    given = request.criterion
    if request.width is not None and isinstance(given, ExpertScore):
        record |= {
            "expert_selection_method": given.name,
            "data_driven": data_driven,
            **({"seed": request.seed} if given.name == "RANDOM" else {}),
            "pruning_percentage": request.width.percentage,
            "num_experts_to_remove": request.width.remove,
            "experts_to_keep": request.width.keep,
        }
    elif request.width is not None and given is not None:
        layers = request.width.layers
        record |= {
            "neuron_selection_method": given.name,
            "data_driven": data_driven,
            "compensate": request.compensate,
            **({"sequential": request.sequential} if request.by_layers else {}),
            **({"reconstruct": True} if request.reconstruct else {}),
            **({"seed": request.seed} if given.name == "RANDOM" else {}),
            **({"scores_digest": given.digest} if isinstance(given, NeuronScores) else {}),
            "pruning_percentage": request.width.percentage,
            "expansion_rate": request.width.expansion_rate,
            "expansion_divisor": request.width.divisor,
            **({"nearest_multiple": request.width.nearest} if request.width.nearest else {}),
            "layer_indices": None if layers is None else list(layers),
        }
    if request.depth is not None:
        record["layer_selection_method"] = request.depth.method
        record["layer_indices"] = list(solution.drop)
    if request.budget is not None:
        record["budget"] = str(request.budget)
    return record


def _chosen(view: ModelView, target: WidthTarget, keep: tuple[int, ...]) -> list[MLPView]:
    """The MLPs of the layers that stay and were asked for."""
    if target.layers is None:
        return [mlp for mlp in view.mlps if mlp.layer in keep]
    layers = set(check_layer_indices("layer_indices", target.layers, len(view.layers)))
    chosen = [mlp for mlp in view.mlps if mlp.layer in layers]
    without = sorted(layers - {mlp.layer for mlp in chosen})
    if without:
        raise ArgumentError(f"layer_indices names {without}, which have no MLP. Leave them out.")
    return chosen


def _kept_counts(view: ModelView, target: WidthTarget, chosen: list[MLPView]) -> list[int]:
    """How many neurons stay in each chosen MLP, with the warnings that are due."""
    exact = [exact_width(mlp, target) for mlp in chosen]
    if all(kept > mlp.width for kept, mlp in zip(exact, chosen, strict=True)):
        current = max(mlp.expansion_rate for mlp in chosen)
        raise ArgumentError(rate_above(target.expansion_rate or 0.0, current))
    counts = [kept_width(view.spec, mlp, target) for mlp in chosen]
    rows = list(zip(chosen, exact, counts, strict=True))
    few = [mlp for mlp, _, kept in rows if kept < mlp.width / 100]
    if few:
        warn(
            f"Fewer than 1 % of the neurons of {few[0].spec.name} stay; the model will not be of "
            "use without retraining."
        )
    rounded = {
        mlp.spec.name: (kept_exactly, kept, width_multiple(view.spec, mlp.spec))
        for mlp, kept_exactly, kept in rows
        if target.divisor is None
        and (target.nearest is None or mlp.width % target.nearest)
        and kept < min(kept_exactly, mlp.width)
    }
    for name, (kept_exactly, kept, multiple) in rounded.items():
        warn(
            f"The kept width of {name} was rounded from {kept_exactly} down to {kept}: the "
            f"kernels of experts need a multiple of {multiple}."
        )
    return counts


def _small_shares(request: PruningRequest) -> list[str]:
    """Percentages that look like fractions, and rates that look like factors."""
    targets = {"pruning_percentage": request.width, "depth_pruning_percentage": request.depth}
    shares = [small_share(name, target.percentage) for name, target in targets.items() if target]
    rate = request.width.expansion_rate if request.width else None
    if rate and rate < _RATE:
        shares.append(
            f"expansion_rate={rate:g} leaves an MLP of {rate:g} percent of the hidden size. For "
            f"{rate:g} times the hidden size give {100 * rate:g}."
        )
    return [each for each in shares if each]


def _warn_about_layers_without_data(
    view: ModelView, request: PruningRequest, *, data: bool
) -> None:
    """Figures: `docs/criteria.md`."""
    depth, made_up_for = request.depth, request.compensate and data
    if depth is None or depth.method not in ("last", "first") or made_up_for:
        return
    if widest(view.mlps) < TRAINED_WIDTH:
        return
    warn(
        f"The {depth.method} layers go whatever they do, which ruins real models: without "
        "its last 2 of 30 layers the perplexity of SmolLM2-135M went from 27.6 to 2,290, without "
        "2 that calibration data chose to 33.4, and made up for to 31.2. "
        + _two_lines(layer_selection_method="auto", compensate=True)
    )


def _two_lines(**choices: object) -> str:
    """The way out of a pruning without data: the text that ships with the package."""
    chosen = "".join(f", {name}={value!r}" for name, value in choices.items())
    return (
        "Better, with the text that ships with OptiPFair (as the command line does by default, "
        "without a static --method and without --calibration none):\n"
        '    dataloader = optipfair.calibration_loader("builtin", tokenizer)\n'
        f"    prune_model(model, dataloader=dataloader{chosen}, ...)"
    )


def widest(mlps: Sequence[MLPView]) -> int:
    return max((mlp.width for mlp in mlps), default=0)


def _warn_about_weights_only(request: PruningRequest, chosen: list[MLPView], *, data: bool) -> None:
    """Figures: `docs/criteria.md`."""
    static = isinstance(request.criterion, Criterion) and request.criterion.needs == WEIGHTS
    if data or not static or widest(chosen) < TRAINED_WIDTH:
        return
    warn(
        "Without calibration data neurons are chosen by their weights alone, which ruins real "
        "models: without a tenth of its neurons the perplexity of SmolLM2-135M went from 27.6 to "
        "183 with MAW and above 5000 with VOW, PON and L2 (without random ones to 48.7, chosen "
        "with data to 29.3). " + _two_lines(neuron_selection_method="AUTO")
    )
