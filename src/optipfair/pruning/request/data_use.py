"""Whether calibration data are there where they are read, and only there."""

from __future__ import annotations

from ...errors import ArgumentError
from ..importance.criteria import WEIGHTS, Criterion
from ..importance.expert_scores import ExpertScore
from ..importance.given_scores import NeuronScores
from ..layers.strategies import ranked_names, ranks_layers
from ..options.prune_options import PruneOptions

GIVE_DATA = "Give a dataloader (calibration text on the command line: --calibration)"
WITH_DEPTH = ("DEPTH", "BOTH")


def check_data(
    kind: str,
    options: PruneOptions,
    criterion: Criterion | ExpertScore | NeuronScores | None,
    data: str | None,
    compensate: bool,
) -> None:
    """Calibration data must be there where something is fitted to it, and only where it is read."""
    if compensate and data is None:
        raise ArgumentError(f"compensate=True needs calibration data. {GIVE_DATA}.")
    unread = None if compensate else _unread_by(kind, options, criterion)
    if data is not None and unread is not None:
        name = data.partition("=")[0]
        raise ArgumentError(f"{data} does not go with {unread}, or leave the {name} out.")


def _unread_by(
    kind: str, options: PruneOptions, criterion: Criterion | ExpertScore | NeuronScores | None
) -> str | None:
    """What does not read calibration data, and what would; None where it is read."""
    method, layers_by = options.neuron_selection_method, options.layer_selection_method
    if kind in WITH_DEPTH and ranks_layers(layers_by) and not isinstance(criterion, Criterion):
        return None
    if isinstance(criterion, ExpertScore):
        by = f"expert_selection_method={criterion.name!r}, which needs none"
        return None if criterion.needs_data else f"{by}. Choose experts by 'REAP'"
    return _unread_by_neurons(kind, method, layers_by, criterion)


def _unread_by_neurons(
    kind: str, method: str, layers_by: str, criterion: Criterion | NeuronScores | None
) -> str | None:
    if criterion is None:
        return (
            f"layer_selection_method={layers_by!r}, which needs no data. Choose layers by "
            f"{', '.join(map(repr, ranked_names()))}, give compensate=True"
        )
    if isinstance(criterion, NeuronScores):
        return (
            "neuron_scores, which say which neurons stay. Give compensate=True, so that these make "
            "up for the others"
        )
    if criterion.needs == WEIGHTS and kind == "ATTENTION":
        return (
            f"neuron_selection_method={method!r} in attention pruning: the static methods have no "
            "data-driven form there. Use 'AUTO', give compensate=True"
        )
    if criterion.needs == WEIGHTS and not criterion.accepts_data:
        return (
            f"neuron_selection_method={method!r}: of the static methods only 'MAW' (PPM) has a "
            "data-driven form. Use 'AUTO' or 'MAW', give compensate=True"
        )
    return None
