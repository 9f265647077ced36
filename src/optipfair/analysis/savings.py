"""What pruning would save, and why it may not be possible: asked of the code that prunes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from ..arch.view import ModelView
from ..errors import ArgumentError, PruningWarning, UnsupportedModelError
from ..pruning.cut.checks import check_unquantized
from ..pruning.cut.guard import prove
from ..pruning.cut.plan import PruningPlan
from ..pruning.options.prune_options import PruneOptions
from ..pruning.planning import plan_counts
from ..pruning.request.pruning_request import PruningRequest, check_request
from ..pruning.request.solving import Sizes
from .contents import Contents, removed

SAVINGS_PERCENTAGES = (10, 20, 30, 40, 50)
KINDS = ("MLP_GLU", "DEPTH")


@dataclass(frozen=True)
class Saving:
    """What is left after removing a share of neurons or layers."""

    pruning_type: str
    percentage: float
    kept: str
    parameters: int
    bytes: int
    percentage_reduction: float


def ask(contents: Contents, pruning_type: str) -> tuple[list[Saving], str]:
    """Say what each percentage of a pruning saves, and why it is not possible.

    Every percentage is planned and proved, since one may be served where another is not: with
    half of the layers a whole kind of layer may go, and a config may take only some widths. A
    proof is a twin on `meta`, which takes tens of milliseconds.

    Returns a row for each percentage that is served, and the reason where none is (else empty).
    """
    try:
        weights = contents.weights(pruning_type)
    except UnsupportedModelError as refusal:
        return [], str(refusal)
    rows, possible, reasons = [], False, []
    for percentage, request in _requests(pruning_type):
        try:
            plan = _served(contents.view, request)
        except (UnsupportedModelError, ArgumentError) as refusal:
            reasons.append(str(refusal))
            continue
        possible = True
        if percentage is not None:
            rows.append(_saving(contents, plan, percentage, removed(weights, plan)))
    return rows, "" if possible else reasons[0]


def _requests(pruning_type: str) -> Iterator[tuple[int | None, PruningRequest]]:
    """A request for each percentage; for depth first the least that can go, which is no row."""
    if pruning_type == "DEPTH":
        yield None, check_request(PruneOptions(pruning_type=pruning_type, num_layers_to_remove=1))
    for percentage in SAVINGS_PERCENTAGES:
        options = PruneOptions(pruning_type=pruning_type, pruning_percentage=percentage)
        yield percentage, check_request(options)


def _served(view: ModelView, request: PruningRequest) -> PruningPlan:
    """How many neurons and layers stay, as the guard accepts it."""
    check_unquantized(view.model)
    with warnings.catch_warnings(action="ignore", category=PruningWarning):  # said when it is done
        plan = plan_counts(view, request, Sizes.of_model(view))
    prove(view, plan)
    return plan


def _saving(contents: Contents, plan: PruningPlan, percentage: int, gone_bytes: int) -> Saving:
    total = sum(portion.size for portion in contents.parameters)
    gone = removed(contents.parameters, plan)
    widths = sorted({f"{cut.mlp} {cut.kept}" for cut in plan.width_cuts})
    return Saving(
        pruning_type="DEPTH" if plan.drop_layers else "MLP_GLU",
        percentage=percentage,
        kept=f"{len(plan.keep_layers)} layers" if plan.drop_layers else ", ".join(widths),
        parameters=total - gone,
        bytes=contents.bytes - gone_bytes,
        percentage_reduction=100 * gone / total,
    )
