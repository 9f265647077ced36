"""How many neurons each layer loses, where all together lose a given number. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LEAST, _MOST = 0.5, 1.5  # of the uniform share


@dataclass(frozen=True)
class Share:
    """An MLP and what it would lose if all lost alike.

    Attributes:
        layer: which layer it belongs to.
        width: number of neurons.
        kept: how many stay in the uniform case, below `width`.
        multiple: kept widths are multiples of it.
        weight: parameters of one neuron (of all experts' where there are).
    """

    layer: int
    width: int
    kept: int
    multiple: int
    weight: int

    def kept_at(self, factor: float) -> int:
        """How many stay where `factor` times the uniform number goes; at least one multiple."""
        wanted = self.width - factor * (self.width - self.kept)
        return max(int(wanted) // self.multiple, 1) * self.multiple


def allocate(shares: Sequence[Share], losses: Mapping[int, float]) -> list[int]:
    """How many neurons stay in each MLP; together at most as many parameters as uniformly.

    A layer whose pruning costs the model twice as much loses half as many neurons, within half and
    one and a half times the uniform number.

    Args:
        shares: the MLPs.
        losses: for each layer, how much the loss of a token rises if it alone is pruned.
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
