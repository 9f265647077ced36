"""What pruning would save, and why it may not be possible, from sizes alone. Without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..arch.sizes import MLPSizes, ModelSizes
from ..checking import check_layer_count
from ..errors import ArgumentError, UnsupportedModelError
from ..pruning.request.targets import WidthTarget, removed_count
from ..pruning.request.widths import check_width_is_prunable, kept_width

SAVINGS_PERCENTAGES = (10, 20, 30, 40, 50)
REFUSALS = (UnsupportedModelError, ArgumentError)


@dataclass(frozen=True)
class Saving:
    """What is left after removing a share of neurons or layers."""

    pruning_type: str
    percentage: float
    kept: str
    parameters: int
    bytes: int
    percentage_reduction: float


def kept_widths(sizes: ModelSizes, percentage: float) -> list[tuple[MLPSizes, int]]:
    """The MLPs that get narrower if a share of neurons goes, with how many of each stay.

    Raises:
        UnsupportedModelError: the width cannot be pruned.
        ArgumentError: an MLP is too narrow to be rounded.
    """
    check_width_is_prunable(sizes.spec, sizes.mlps)
    target = WidthTarget(percentage, None)
    counts = [(mlp, kept_width(sizes.spec, mlp, target)) for mlp in sizes.mlps]
    return [(mlp, kept) for mlp, kept in counts if kept < mlp.width]


def kept_layers(sizes: ModelSizes) -> range:
    """The layers that stay if the last one goes.

    Raises:
        ArgumentError: there is no other.
    """
    total = len(sizes.layers)
    return range(check_layer_count("layers to keep", total - 1, total))


def refusals_by_size(sizes: ModelSizes) -> dict[str, str]:
    """Why a pruning is not possible, by its type, as far as sizes say; empty where it is."""
    found = {"MLP_GLU": "", "DEPTH": ""}
    try:
        kept_widths(sizes, SAVINGS_PERCENTAGES[-1])
    except REFUSALS as exc:
        found["MLP_GLU"] = str(exc)
    try:
        kept_layers(sizes)
    except REFUSALS as exc:
        found["DEPTH"] = str(exc)
    return found


def savings(sizes: ModelSizes, refusals: dict[str, str], size: int) -> list[Saving]:
    """What each percentage of each possible pruning saves.

    Args:
        sizes: of the model.
        refusals: by pruning type; a type with a reason saves nothing.
        size: of the model, in bytes.
    """
    rows = []
    if not refusals["MLP_GLU"]:
        rows += [_width_saving(sizes, percentage, size) for percentage in SAVINGS_PERCENTAGES]
    if not refusals["DEPTH"]:
        rows += _depth_savings(sizes, size)
    return rows


def _width_saving(sizes: ModelSizes, percentage: float, size: int) -> Saving:
    cuts = kept_widths(sizes, percentage)
    left = sorted({f"{mlp.spec.name} {kept}" for mlp, kept in cuts})
    gone = sum(
        numbers // mlp.width * (mlp.width - kept) for mlp, kept in cuts for numbers in mlp.tensors
    )
    return _saving("MLP_GLU", percentage, ", ".join(left), sizes.parameters, gone, size)


def _depth_savings(sizes: ModelSizes, size: int) -> Iterator[Saving]:
    """The last layers go; a percentage that removes none is left out."""
    total = len(sizes.layers)
    for percentage in SAVINGS_PERCENTAGES:
        count = removed_count(total, percentage)
        if count:
            left, gone = f"{total - count} layers", sum(sizes.layers[-count:])
            yield _saving("DEPTH", percentage, left, sizes.parameters, gone, size)


def _saving(
    pruning_type: str, percentage: float, kept: str, parameters: int, gone: int, size: int
) -> Saving:
    left = parameters - gone
    share = 100 * gone / parameters
    return Saving(pruning_type, percentage, kept, left, round(size * left / parameters), share)
