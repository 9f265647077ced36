"""What a width target means for the MLPs of a family: sizes in, sizes out. Without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from ...arch.spec import ArchSpec, MLPSpec
from ...errors import UnsupportedModelError
from .targets import WidthTarget


class SizedMLP(Protocol):
    """An MLP as far as its sizes go."""

    @property
    def spec(self) -> MLPSpec: ...
    @property
    def width(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...


def check_width_is_prunable(spec: ArchSpec, mlps: Sequence[SizedMLP]) -> None:
    """Check that the MLPs of a model can be pruned.

    Raises:
        UnsupportedModelError: they cannot, with the reason.
    """
    reason = width_refusal(mlps)
    if reason:
        raise UnsupportedModelError(
            f"Cannot prune the MLP width of {spec.model_type!r}: {reason}. "
            'Depth pruning works: pruning_type="DEPTH".'
        )


def width_refusal(mlps: Sequence[SizedMLP]) -> str:
    """Why the MLP width cannot be pruned; empty where it can."""
    if not mlps:
        return "its layers hold no MLP of a known form"
    return next((mlp.spec.why_not for mlp in mlps if mlp.spec.why_not), "")


def kept_width(spec: ArchSpec, mlp: SizedMLP, target: WidthTarget) -> int:
    """How many neurons of an MLP stay; MLPs that one config field governs are rounded alike.

    Raises:
        ArgumentError: its width is below what it is rounded to.
    """
    factor = mlp.spec.width_factor * mlp.spec.groups
    field = int(mlp.width / factor)  # the value of the config field, or the size of a group
    return int(factor * target.kept(field, mlp.hidden_size, width_multiple(spec, mlp.spec)))


def exact_width(mlp: SizedMLP, target: WidthTarget) -> int:
    """The same before anything is rounded to a multiple."""
    groups = mlp.spec.groups
    return groups * target.exact_kept(mlp.width // groups, mlp.hidden_size)


def width_multiple(spec: ArchSpec, mlp: MLPSpec) -> int:
    """What the value of the MLP's config field is rounded to."""
    same = [each.width_multiple for each in spec.mlps if each.width_key == mlp.width_key]
    return math.lcm(*same, mlp.width_factor.denominator)
