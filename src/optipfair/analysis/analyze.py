"""`analyze_model`: what a model is made of and what pruning would save. No weight is read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..arch import heterogeneous
from ..arch.view import ModelView
from ..errors import ArgumentError, PruningWarning, UnsupportedModelError
from ..loading.sources import find_source
from ..pruning.cut.checks import check_unquantized
from ..pruning.cut.guard import prove
from ..pruning.cut.plan import PruningPlan
from ..pruning.options.prune_options import PruneOptions
from ..pruning.planning import plan_counts
from ..pruning.request.pruning_request import PruningRequest, check_request
from ..pruning.request.solving import Sizes
from .contents import Contents, parameters_by_part, read_contents, removed

SAVINGS_PERCENTAGES = (10, 20, 30, 40, 50)
KINDS = ("MLP_GLU", "DEPTH", "EXPERTS")


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
    """A row for each percentage that is served, and the reason where none is (else empty).

    Every percentage is planned and proved, since one may be served where another is not: with half
    of the layers a whole kind of layer may go, and a config may take only some widths.
    """
    try:
        contents = contents.seen_by(pruning_type)
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
        if percentage is not None and not plan.empty:
            rows.append(_saving(contents, plan, percentage, removed(weights, plan)))
    return rows, "" if possible else reasons[0]


def _requests(pruning_type: str) -> Iterator[tuple[int | None, PruningRequest]]:
    """A request for each percentage; for depth first the least that can go, which is no row.

    A percentage that removes nothing is no row either.
    """
    if pruning_type == "DEPTH":
        yield None, check_request(PruneOptions(pruning_type=pruning_type, num_layers_to_remove=1))
    for percentage in SAVINGS_PERCENTAGES:
        options = PruneOptions(pruning_type, pruning_percentage=percentage)
        if pruning_type == "EXPERTS":  # which ones go does not matter here
            options = replace(options, expert_selection_method="NORM")
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
    if "expert" in plan.units:
        widths = sorted({f"{cut.kept} of {cut.width} experts" for cut in plan.width_cuts})
    return Saving(
        pruning_type=str(plan.request["pruning_type"]),
        percentage=percentage,
        kept=f"{len(plan.keep_layers)} layers" if plan.drop_layers else ", ".join(widths),
        parameters=total - gone,
        bytes=contents.bytes - gone_bytes,
        percentage_reduction=100 * gone / total,
    )


@dataclass(frozen=True)
class Analysis:
    """What a model is made of.

    `refusals` holds, for `MLP_GLU`, `DEPTH` and where there are experts `EXPERTS`, why it is not
    possible; empty where it is.
    """

    source: str
    model_type: str
    architecture: str
    listed: bool
    layers: int
    hidden_size: int | None
    attention_heads: int | None
    key_value_heads: int | None
    head_dim: int | None
    vocabulary: int | None
    context: int | None
    widths: dict[str, list[int]]
    experts: int | None
    expansion_rate: float | None
    parameters: int
    bytes: int
    dtypes: list[str]
    parts: dict[str, int]
    refusals: dict[str, str]
    savings: list[Saving] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def analyze_model(model_path: str | Path, *, trust_remote_code: bool = False) -> Analysis:
    """Say what a model is made of, without loading its weights.

    Args:
        model_path: a folder, a `.gguf` file, `demo`, or a hub id.
        trust_remote_code: whether code from the model's repository may run.

    Returns:
        Sizes, parts, which prunings are possible, and the exact savings of 10 to 50 %.

    Raises:
        CheckpointError: the model cannot be read.
        UnsupportedModelError: its decoder layers are not found.
    """
    source = find_source(model_path)
    contents = read_contents(source, trust_remote_code=trust_remote_code)
    kinds = KINDS if any(mlp.experts for mlp in contents.view.mlps) else KINDS[:2]
    answers = {kind: ask(contents, kind) for kind in kinds}
    view = contents.view
    stated = _whole_numbers(view.text_config)
    heads, hidden = stated("num_attention_heads"), stated("hidden_size")
    widths: dict[str, list[int]] = {}
    for mlp in view.mlps:
        widths.setdefault(mlp.spec.name, []).append(mlp.width)
    return Analysis(
        source=source.given,
        model_type=view.model.config.model_type,
        architecture=type(view.model).__name__,
        listed=view.listed,
        layers=len(view.layers),
        hidden_size=hidden,
        attention_heads=heads,
        key_value_heads=stated("num_key_value_heads"),
        head_dim=stated("head_dim") or (hidden // heads if hidden and heads else None),
        vocabulary=stated("vocab_size"),
        context=stated("max_position_embeddings"),
        widths=widths,
        experts=next((mlp.experts for mlp in view.mlps if mlp.experts), None),
        expansion_rate=view.mlps[0].expansion_rate if view.mlps else None,
        parameters=sum(portion.size for portion in contents.parameters),
        bytes=contents.bytes,
        dtypes=contents.dtypes,
        parts=parameters_by_part(view),
        refusals={kind: refusal for kind, (_, refusal) in answers.items()},
        savings=[row for rows, _ in answers.values() for row in rows],
    )


def _whole_numbers(config: Any) -> Callable[[str], int | None]:
    """What reads a field of the decoder's config; None where it is no one whole number."""
    shared = heterogeneous.with_overrides(config, {}, {})  # where layers differ, reading raises

    def read(name: str) -> int | None:
        value = getattr(shared, name, None)
        return value if type(value) is int else None

    return read
