"""How many neurons stay: what a width target means for the MLPs of a family, and what each layer
keeps where all together lose a given number. Sizes in, sizes out; without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...arch.spec import ArchSpec, MLPSpec
from ...errors import UnsupportedModelError
from .targets import WidthTarget

if TYPE_CHECKING:
    from ...arch.view import MLPView

_LEAST, _MOST = 0.5, 1.5  # of the uniform share


def check_width_is_prunable(spec: ArchSpec, mlps: Sequence[MLPView]) -> None:
    """Refuse MLPs that cannot be pruned, with the reason."""
    reason = next((mlp.spec.why_not for mlp in mlps if mlp.spec.why_not), "")
    if not mlps:
        reason = "its layers hold no MLP of a known form"
    if reason:
        raise UnsupportedModelError(
            f"Cannot prune the MLP width of {spec.model_type!r}: {reason}. "
            'Depth pruning works: pruning_type="DEPTH".'
        )


def kept_width(spec: ArchSpec, mlp: MLPView, target: WidthTarget) -> int:
    """How many neurons of an MLP stay; MLPs that one config field governs are rounded alike."""
    factor = mlp.spec.width_factor * mlp.spec.groups
    field = int(mlp.width / factor)  # the value of the config field, or the size of a group
    return int(factor * target.kept(field, mlp.hidden_size, width_multiple(spec, mlp.spec)))


def exact_width(mlp: MLPView, target: WidthTarget) -> int:
    """The same before anything is rounded to a multiple."""
    groups = mlp.spec.groups
    return groups * target.exact_kept(mlp.width // groups, mlp.hidden_size)


def width_multiple(spec: ArchSpec, mlp: MLPSpec) -> int:
    """What the value of the MLP's config field is rounded to."""
    same = [each.width_multiple for each in spec.mlps if each.width_key == mlp.width_key]
    return math.lcm(*same, mlp.width_factor.denominator)


@dataclass(frozen=True)
class Share:
    """An MLP and what it would lose if all lost alike."""

    layer: int
    width: int
    kept: int  # in the uniform case, below `width`
    multiple: int  # kept widths are multiples of it
    weight: int  # parameters of one neuron (of all experts' where there are)

    def kept_at(self, factor: float) -> int:
        """How many stay where `factor` times the uniform number goes; at least one multiple."""
        wanted = self.width - factor * (self.width - self.kept)
        return max(int(wanted) // self.multiple, 1) * self.multiple


def allocate(shares: Sequence[Share], losses: Mapping[int, float]) -> list[int]:
    """How many neurons stay in each MLP; together at most as many parameters as uniformly.

    A layer whose pruning costs the model twice as much loses half as many neurons, within half and
    one and a half times the uniform number. `losses` says for each layer how much the loss of a
    token rises if it alone is pruned.
    """
    floor = max(max(losses.values()) * 1e-3, 1e-12)  # nothing is missed, or less than nothing
    ease = {layer: 1 / max(loss, floor) for layer, loss in losses.items()}
    wanted = sum(share.weight * share.kept for share in shares)

    def kept(scale: float) -> list[int]:
        factors = [min(max(scale * ease[share.layer], _LEAST), _MOST) for share in shares]
        return [share.kept_at(f) for share, f in zip(shares, factors, strict=True)]

    def fits(scale: float) -> bool:
        left = zip(shares, kept(scale), strict=True)
        return sum(share.weight * count for share, count in left) <= wanted

    low, high = 0.0, _MOST / min(ease.values())  # at `high` every layer loses the most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return kept(high)
