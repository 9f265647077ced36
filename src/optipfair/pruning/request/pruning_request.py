"""What was asked for, checked as far as that goes without a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ...arch.spec import ATTENTION_UNITS
from ...checking import check_flag, check_seed, read_scores
from ...errors import ArgumentError, UnknownNameError
from ...registry import unknown_name
from ..importance.criteria import CRITERIA, WEIGHTS, Criterion
from ..importance.given_scores import NeuronScores
from ..layers.strategies import ranked_names, ranks_layers
from ..options.allowed import LAYER_WIDTHS, PRUNING_TYPES
from ..options.prune_options import PruneOptions
from .budget import Budget, read_budget
from .targets import DepthRequest, WidthTarget, depth_request, width_target

_GIVE_DATA = "Give a dataloader (calibration text on the command line: --calibration)"
_NEEDS_DATA = f"compensate=True needs calibration data. {_GIVE_DATA}."
_OF_WIDTH = ("neuron_selection_method", "expansion_rate", "expansion_divisor", "sequential")
_OF_DEPTH = ("num_layers_to_remove", "depth_pruning_percentage", "layer_selection_method")
_OF_MLPS = ("expansion_rate", "expansion_divisor", "layer_indices")
_OF_ATTENTION = ("ATTENTION", ("attention_unit",))
_FOREIGN: dict[
    str, list[tuple[str, tuple[str, ...]]]
] = {  # pruning type → options that belong to another
    "MLP_GLU": [("DEPTH", _OF_DEPTH), _OF_ATTENTION],
    "DEPTH": [("MLP_GLU", _OF_WIDTH), _OF_ATTENTION],
    "BOTH": [_OF_ATTENTION],
    "ATTENTION": [("DEPTH", _OF_DEPTH), ("MLP_GLU", _OF_MLPS)],
}
_WITH_DEPTH = ("DEPTH", "BOTH")
_OF_NEURONS = ("MLP_GLU", "BOTH")


@dataclass(frozen=True)
class PruningRequest:
    """A pruning as it was asked for.

    Attributes:
        width: how many neurons stay (open where a budget decides), None in depth pruning.
        criterion: what scores them, or the caller's scores; None in depth pruning.
        depth: which layers go (open where a budget decides), None in width pruning.
        budget: how large the result may be, None without one.
        compensate: whether the kept neurons make up for the lost ones; where layers go, whether
            those before them make up for them.
        sequential: whether layers see the outputs of the pruned layers before them.
        seed: of what is random.
        layer_widths: `uniform`, or `by_loss` where layers lose different shares.
        attention_unit: what a unit of attention is, `group` or `head`; then `width` says how many
            units stay. None where MLPs are pruned.
    """

    width: WidthTarget | None = None
    criterion: Criterion | NeuronScores | None = None
    depth: DepthRequest | None = None
    budget: Budget | None = None
    compensate: bool = False
    sequential: bool = False
    seed: int = 0
    attention_unit: str | None = None
    layer_widths: str = "uniform"

    @property
    def by_layers(self) -> bool:
        """Whether there is a pass over the layers."""
        return self.compensate or self.decided_by_layers

    @property
    def decided_by_layers(self) -> bool:
        """Whether that pass decides which neurons stay."""
        return isinstance(self.criterion, Criterion) and self.criterion.needs_data

    @property
    def kind(self) -> str:
        """`MLP_GLU`, `DEPTH`, `BOTH` or `ATTENTION`."""
        if self.attention_unit is not None:
            return "ATTENTION"
        if self.width is not None and self.depth is not None:
            return "BOTH"
        return "DEPTH" if self.width is None else "MLP_GLU"


@dataclass(frozen=True)
class _Data:
    """Calibration data under the name that the caller gave it: `dataloader` or `calibration`."""

    name: str
    value: object

    @property
    def given(self) -> bool:
        return self.value is not None

    def __str__(self) -> str:
        return self.name if self.name == "dataloader" else f"{self.name}={self.value!r}"


def check_request(
    options: PruneOptions,
    dataloader: Iterable[Any] | None = None,
    neuron_scores: Mapping[int, Any] | None = None,
) -> PruningRequest:
    """Check what was asked for as far as that goes without a model.

    Args:
        options: its sections about the target and the choice, and whether there is text.
        dataloader: calibration data in the place of text.
        neuron_scores: the caller's scores in the place of a criterion.

    Raises:
        ArgumentError: wrong or conflicting options.
    """
    kind = PRUNING_TYPES.canonical(options.pruning_type)
    budget = read_budget(options.target_params, options.target_size)
    data = _data(dataloader, options.calibration)
    _check_ranking(kind, options.layer_selection_method, data)
    _refuse_other_types(kind, options)
    if neuron_scores is not None and kind not in _OF_NEURONS:
        raise ArgumentError(
            f"neuron_scores do not go with pruning_type={kind!r}. Leave them out, or use "
            "pruning_type='MLP_GLU'."
        )
    if kind == "DEPTH":
        _check_data_of_depth(options, data)
    criterion = None if kind == "DEPTH" else _scores_by(kind, options, data, neuron_scores)
    compensates = isinstance(criterion, Criterion) and criterion.compensates
    request = PruningRequest(
        width=_width(kind, options, budget),
        criterion=criterion,
        depth=_depth(kind, options, budget),
        budget=budget,
        compensate=check_flag("compensate", options.compensate, default=compensates),
        sequential=check_flag("sequential", options.sequential, default=True),
        seed=check_seed(options.seed),
        attention_unit=_attention_unit(options.attention_unit) if kind == "ATTENTION" else None,
        layer_widths=LAYER_WIDTHS.canonical(options.layer_widths),
    )
    method = options.neuron_selection_method if neuron_scores is None else NeuronScores.name
    _check_layer_widths(request, method, data)
    if options.sequential and not request.by_layers:
        _refuse_sequential(method, data)
    return request


def _width(kind: str, options: PruneOptions, budget: Budget | None) -> WidthTarget | None:
    if kind == "DEPTH":
        return None
    return width_target(
        options.pruning_percentage,
        options.expansion_rate,
        options.expansion_divisor,
        options.layer_indices if kind == "MLP_GLU" else None,
        budget=budget,
    )


def _depth(kind: str, options: PruneOptions, budget: Budget | None) -> DepthRequest | None:
    if kind not in _WITH_DEPTH:
        return None
    share, other = options.depth_pruning_percentage, options.pruning_percentage
    if kind == "DEPTH" and other is not None:  # there it is a share of layers too
        if share is not None:
            raise ArgumentError(
                f"pruning_percentage={other!r} and depth_pruning_percentage={share!r} exclude each "
                "other in depth pruning. Give one of them."
            )
        share = other
    return depth_request(
        options.num_layers_to_remove,
        options.layer_indices,
        share,
        options.layer_selection_method,
        budget=budget if kind == "DEPTH" else None,
        may_be_open=budget is not None,
    )


def _scores_by(
    kind: str, options: PruneOptions, data: _Data, neuron_scores: Mapping[int, Any] | None
) -> Criterion | NeuronScores:
    method, compensate = options.neuron_selection_method, options.compensate
    if neuron_scores is None:
        return _criterion(kind, method, data, compensate)
    ranked = kind == "BOTH" and ranks_layers(options.layer_selection_method)
    return _given_scores(neuron_scores, method, data, compensate, ranked=ranked)


def _data(dataloader: object, calibration: str | None) -> _Data:
    given = calibration is not None
    return _Data("calibration", calibration) if given else _Data("dataloader", dataloader)


def _check_ranking(kind: str, layer_selection_method: str, data: _Data) -> None:
    ranked = kind in _WITH_DEPTH and ranks_layers(layer_selection_method)
    if ranked and not data.given:
        raise ArgumentError(
            f"layer_selection_method={layer_selection_method!r} needs calibration data. "
            f"{_GIVE_DATA}, or use 'last' or 'first'."
        )


def _check_data_of_depth(options: PruneOptions, data: _Data) -> None:
    """Layers need data where it ranks them or fits others to them, and only there."""
    method = options.layer_selection_method
    compensate = check_flag("compensate", options.compensate, default=False)
    if compensate and not data.given:
        raise ArgumentError(_NEEDS_DATA)
    if data.given and not compensate and not ranks_layers(method):
        raise ArgumentError(
            f"{data} does not go with layer_selection_method={method!r}, which needs no data. "
            f"Choose layers by {', '.join(map(repr, ranked_names()))}, give "
            f"compensate=True, or leave the {data.name} out."
        )


def _refuse_other_types(kind: str, options: PruneOptions) -> None:
    """Each pruning type takes its own options and no other's; `BOTH` takes those of two."""
    for other, names in _FOREIGN[kind]:
        given = {name: getattr(options, name) for name in names if name in options.not_default()}
        if given:
            listed = ", ".join(f"{name}={value!r}" for name, value in given.items())
            raise ArgumentError(
                f"{listed} does not go with pruning_type={kind!r}. Leave it out, or use "
                f"pruning_type={other!r}."
            )


def _attention_unit(value: object) -> str:
    if not isinstance(value, str) or value not in ATTENTION_UNITS:
        raise UnknownNameError(unknown_name("attention_unit", value, list(ATTENTION_UNITS)))
    return value


def _check_layer_widths(request: PruningRequest, method: str, data: _Data) -> None:
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
            f"compensate=True.{'' if data.given else f' {_GIVE_DATA}.'}"
        )


def _refuse_sequential(method: str, data: _Data) -> NoReturn:
    """Layers come one after the other only where a pass over them decides."""
    if not data.given:
        raise ArgumentError(
            f"sequential=True needs calibration data. {_GIVE_DATA}, or leave sequential out."
        )
    raise ArgumentError(
        f"sequential=True does not go with neuron_selection_method={method!r}, "
        "which scores all layers of the model as it is. Use a method that goes layer by layer, "
        "such as 'AUTO', give compensate=True, or leave sequential out."
    )


def _criterion(kind: str, name: str, data: _Data, compensate: bool | None) -> Criterion:
    entry = CRITERIA[name]
    compensate = check_flag("compensate", compensate, default=False)
    if entry.needs != WEIGHTS:
        if not data.given and (entry.needs_data or compensate):
            raise ArgumentError(
                f"neuron_selection_method={name!r} needs calibration data. {_GIVE_DATA}, or use a "
                "static method such as 'MAW'."
            )
        return entry
    if not data.given and compensate:
        raise ArgumentError(_NEEDS_DATA)
    if data.given and kind == "ATTENTION" and not compensate:
        raise ArgumentError(
            f"{data} does not go with neuron_selection_method={name!r} in attention pruning: the "
            "static methods have no data-driven form there. Use 'AUTO', give compensate=True, or "
            f"leave the {data.name} out."
        )
    if data.given and not entry.accepts_data and not compensate:
        raise ArgumentError(
            f"{data} does not go with neuron_selection_method={name!r}: of the static methods "
            "only 'MAW' (PPM) has a data-driven form. Use 'AUTO' or 'MAW', give compensate=True, "
            f"or leave the {data.name} out."
        )
    return entry


def _given_scores(
    scores: object, method: str, data: _Data, compensate: bool | None, *, ranked: bool
) -> NeuronScores:
    """The caller's scores; then data only ranks layers, or lets kept neurons make up for others."""
    if method != "MAW":
        raise ArgumentError(
            f"neuron_scores and neuron_selection_method={method!r} exclude each other. Give one of "
            "them."
        )
    compensate = check_flag("compensate", compensate, default=False)
    if compensate and not data.given:
        raise ArgumentError(_NEEDS_DATA)
    if data.given and not compensate and not ranked:
        raise ArgumentError(
            f"{data} does not go with neuron_scores, which say which neurons stay. Give "
            "compensate=True, so that these make up for the others, or leave the "
            f"{data.name} out."
        )
    return NeuronScores(read_scores("neuron_scores", scores))
