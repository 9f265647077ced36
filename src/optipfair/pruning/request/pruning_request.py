"""What was asked for, checked as far as that goes without a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...arch.spec import ATTENTION_UNITS, NEURON
from ...checking import check_flag, check_seed, read_scores
from ...errors import ArgumentError, UnknownNameError
from ...registry import unknown_name
from ..importance.criteria import CRITERIA, WEIGHTS, Criterion
from ..importance.expert_scores import EXPERT_SCORES, ExpertScore
from ..importance.given_scores import NeuronScores
from ..layers.strategies import ranks_layers
from ..options.prune_options import LAYER_WIDTHS, PRUNING_TYPES, PruneOptions
from .block_targets import BlockRequest, block_request
from .budget import Budget, read_budget
from .data_use import GIVE_DATA, WITH_DEPTH, check_data
from .depth_targets import DepthRequest, depth_request
from .option_owners import EXPERT_TARGETS, refuse_other_types, removes_experts
from .width_targets import WidthTarget, width_target

_DEPTH_TARGETS = ("num_layers_to_remove", "layer_indices", "depth_pruning_percentage")
_OF_NEURONS = ("MLP_GLU", "BOTH")


@dataclass(frozen=True)
class PruningRequest:
    """A pruning as it was asked for, checked; the options are explained where they are declared.

    In depth pruning there is neither width nor criterion, in width pruning no depth; where a budget
    decides they are open. Where heads or experts go, `width` says how many of these units stay.
    """

    kind: str  # a pruning type
    width: WidthTarget | None = None
    criterion: Criterion | ExpertScore | NeuronScores | None = None
    depth: DepthRequest | None = None
    budget: Budget | None = None
    compensate: bool = False
    sequential: bool = False
    reconstruct: bool = False
    seed: int = 0
    unit: str | None = None  # `group`, `head` or `expert`; None where neurons go
    layer_widths: str = "uniform"
    blocks: BlockRequest | None = None

    @property
    def units(self) -> frozenset[str]:
        """What may be cut, as `PruningPlan.units` names it."""
        if self.blocks is not None:
            return frozenset({NEURON, "attention"})
        return frozenset({self.unit or NEURON})

    @property
    def by_layers(self) -> bool:
        """Whether there is a pass over the layers."""
        return self.compensate or self.decided_by_layers

    @property
    def decided_by_layers(self) -> bool:
        """Whether that pass decides which neurons stay."""
        return isinstance(self.criterion, Criterion) and self.criterion.needs_data


def check_request(
    options: PruneOptions,
    dataloader: Iterable[Any] | None = None,
    neuron_scores: Mapping[int, Any] | None = None,
) -> PruningRequest:
    """Check what was asked for as far as that goes without a model.

    A dataloader takes the place of calibration text, the caller's scores that of a criterion.
    """
    kind = PRUNING_TYPES.canonical(options.pruning_type)
    unit = _unit(kind, options)
    budget = read_budget(options.target_params, options.target_size)
    data = None if dataloader is None else "dataloader"  # as the caller named it
    if options.calibration is not None:
        data = f"calibration={options.calibration!r}"
    _check_ranking(kind, options.layer_selection_method, data)
    refuse_other_types(kind, options)
    if neuron_scores is not None and (kind not in _OF_NEURONS or unit is not None):
        raise ArgumentError(
            f"neuron_scores do not go with pruning_type={kind!r}. Leave them out, or use "
            "pruning_type='MLP_GLU'."
        )
    compensate = check_flag("compensate", options.compensate, default=False)
    criterion: Criterion | ExpertScore | NeuronScores | None = None
    if neuron_scores is not None:
        criterion = _given_scores(neuron_scores, options.neuron_selection_method)
    elif unit == "expert":
        criterion = _expert_score(options.expert_selection_method, data)
    elif kind not in ("DEPTH", "BLOCKS"):
        criterion = _criterion(options.neuron_selection_method, data, compensate)
    blocks = None
    if kind == "BLOCKS":
        blocks = _blocks(options, budget, data, compensate)
    else:
        check_data(kind, options, criterion, data, compensate)
    compensates = isinstance(criterion, Criterion) and criterion.compensates
    request = PruningRequest(
        kind,
        width=_width(kind, options, budget),
        criterion=criterion,
        depth=_depth(kind, options, budget),
        budget=budget,
        compensate=check_flag("compensate", options.compensate, default=compensates),
        sequential=check_flag("sequential", options.sequential, default=True),
        reconstruct=check_flag("reconstruct", options.reconstruct, default=False),
        seed=check_seed(options.seed),
        unit=unit,
        layer_widths=LAYER_WIDTHS.canonical(options.layer_widths),
        blocks=blocks,
    )
    method = options.neuron_selection_method if neuron_scores is None else NeuronScores.name
    _check_layer_widths(request, method, data)
    if options.sequential and not request.by_layers:
        raise ArgumentError(_not_sequential(method, data))
    if request.reconstruct and not (
        request.compensate and request.sequential and kind in _OF_NEURONS
    ):
        raise ArgumentError(
            "reconstruct=True trains the neurons that are kept after they were fitted, one layer "
            "after the other. It goes with pruning_type 'MLP_GLU' or 'BOTH', with compensation "
            "(method 'AUTO', or compensate=True), and not with sequential=False."
        )
    return request


def _blocks(
    options: PruneOptions, budget: Budget | None, data: str | None, compensate: bool
) -> BlockRequest:
    request = block_request(
        options.num_blocks_to_remove,
        options.pruning_percentage,
        options.blocks,
        options.block_kind,
        budget,
    )
    if compensate and data is None:
        raise ArgumentError(f"compensate=True needs calibration data. {GIVE_DATA}.")
    if request.named is None and data is None:
        raise ArgumentError(
            "Which blocks go is chosen by the loss of calibration text, and there is none. "
            f"{GIVE_DATA}, or name the blocks."
        )
    if request.named is not None and data is not None and not compensate:
        name = data.partition("=")[0]
        raise ArgumentError(
            f"{data} does not go with blocks that are named and only removed. Leave the {name} "
            "out, or give compensate=True."
        )
    return request


def _check_ranking(kind: str, layer_selection_method: str, data: str | None) -> None:
    ranked = kind in WITH_DEPTH and ranks_layers(layer_selection_method)
    if ranked and data is None:
        raise ArgumentError(
            f"layer_selection_method={layer_selection_method!r} needs calibration data. "
            f"{GIVE_DATA}, or use 'last' or 'first'."
        )


def _given_scores(scores: object, method: str) -> NeuronScores:
    name = scores.given_as if isinstance(scores, NeuronScores) else "neuron_scores"
    if method != "MAW":
        raise ArgumentError(
            f"{name} and neuron_selection_method={method!r} are mutually exclusive. Give one of "
            "them."
        )
    return scores if isinstance(scores, NeuronScores) else NeuronScores(read_scores(name, scores))


def _criterion(name: str, data: str | None, compensate: bool) -> Criterion:
    entry = CRITERIA[name]
    if data is None and (entry.needs_data or (compensate and entry.needs != WEIGHTS)):
        raise ArgumentError(
            f"neuron_selection_method={name!r} needs calibration data. {GIVE_DATA}, or use a "
            "static method such as 'MAW'."
        )
    return entry


def _expert_score(name: str, data: str | None) -> ExpertScore:
    entry = EXPERT_SCORES[name]
    if data is None and entry.needs_data:
        raise ArgumentError(
            f"expert_selection_method={name!r} needs calibration data. {GIVE_DATA}, or use "
            "'NORM', which looks at weights alone."
        )
    return entry


def _width(kind: str, options: PruneOptions, budget: Budget | None) -> WidthTarget | None:
    if kind in ("DEPTH", "BLOCKS"):
        return None
    amounts = (options.pruning_percentage, *(getattr(options, name) for name in EXPERT_TARGETS))
    if kind == "EXPERTS" and budget is None and all(each is None for each in amounts):
        raise ArgumentError(
            "Nothing says how many experts go. Give num_experts_to_remove, experts_to_keep, "
            "pruning_percentage, target_params or target_size."
        )
    return width_target(
        options.pruning_percentage,
        options.expansion_rate,
        options.expansion_divisor,
        options.layer_indices if kind == "MLP_GLU" else None,
        nearest_multiple=options.nearest_multiple,
        num_experts_to_remove=options.num_experts_to_remove,
        experts_to_keep=options.experts_to_keep,
        budget=budget,
    )


def _depth(kind: str, options: PruneOptions, budget: Budget | None) -> DepthRequest | None:
    if kind not in WITH_DEPTH:
        return None
    share, other = options.depth_pruning_percentage, options.pruning_percentage
    if kind == "DEPTH" and other is not None:  # there it is a share of layers too
        if share is not None:
            raise ArgumentError(
                f"pruning_percentage={other!r} and depth_pruning_percentage={share!r} are mutually "
                "exclusive in depth pruning. Give one of them."
            )
        share = other
    if kind == "BOTH" and budget is None:
        _check_depth_target(options)
    return depth_request(
        options.num_layers_to_remove,
        options.layer_indices,
        share,
        options.layer_selection_method,
        budget=budget if kind == "DEPTH" else None,
        may_be_open=budget is not None,
    )


def _check_depth_target(options: PruneOptions) -> None:
    """With `BOTH` a percentage alone does not say how many layers go."""
    targets = {name: getattr(options, name) for name in _DEPTH_TARGETS}
    if any(value is not None for value in targets.values()):
        return
    names = (*EXPERT_TARGETS, "expansion_rate", "pruning_percentage")
    width = next((name for name in names if getattr(options, name) is not None), names[-1])
    flags = ", ".join(f"{name} (--{name.replace('_', '-')})" for name in targets)
    raise ArgumentError(
        f"No depth target is given: with pruning_type='BOTH', {width} says how many "
        f"{'experts' if width in EXPERT_TARGETS else 'neurons'} go. "
        f"Say how many layers go too, by one of {flags}."
    )


def _unit(kind: str, options: PruneOptions) -> str | None:
    """What goes in the place of neurons."""
    if kind == "ATTENTION":
        return _attention_unit(options.attention_unit)
    return "expert" if removes_experts(kind, options) else None


def _attention_unit(value: object) -> str:
    if not isinstance(value, str) or value not in ATTENTION_UNITS:
        raise UnknownNameError(unknown_name("attention_unit", value, list(ATTENTION_UNITS)))
    return value


def _check_layer_widths(request: PruningRequest, method: str, data: str | None) -> None:
    if request.layer_widths == "uniform":
        return
    if request.kind != "MLP_GLU":
        raise ArgumentError(
            f"layer_widths={request.layer_widths!r} does not go with "
            f"pruning_type={request.kind!r}. Leave it out, or use pruning_type='MLP_GLU'."
        )
    if not request.by_layers:
        raise ArgumentError(
            f"layer_widths={request.layer_widths!r} goes layer by layer through calibration data, "
            f"which neuron_selection_method={method!r} does not. Use 'AUTO' or give "
            f"compensate=True.{f' {GIVE_DATA}.' if data is None else ''}"
        )


def _not_sequential(method: str, data: str | None) -> str:
    """Layers come one after the other only where a pass over them decides."""
    if data is None:
        return f"sequential=True needs calibration data. {GIVE_DATA}, or leave sequential out."
    return (
        f"sequential=True does not go with neuron_selection_method={method!r}, which scores all "
        "layers of the model as it is. Use a method that goes layer by layer, such as 'AUTO', give "
        "compensate=True, or leave sequential out."
    )
