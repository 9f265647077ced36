"""Which neurons stay: scores → kept units. Pure functions."""

from __future__ import annotations

from torch import Tensor


def select_neurons(scores: Tensor, kept: int) -> Tensor:
    """Return the sorted indices of the `kept` highest scores; ties go to the lower index.

    Args:
        scores: (I,), or (E, I) to choose for each expert apart.
        kept: how many stay, 1 to I.

    Returns:
        (kept,) or (E, kept), int64.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order[..., :kept].sort(dim=-1).values


def select_units(scores: Tensor, kept: int, groups: int = 1) -> Tensor:
    """`select_neurons`, the same number from each of `groups` that follow each other.

    Args:
        scores: (U,); (E, I) where there is one group.
        kept: how many stay in all.
        groups: how many there are.

    Returns:
        Sorted, (kept,) or (E, kept), int64.
    """
    if groups == 1:
        return select_neurons(scores, kept)
    size = len(scores) // groups
    inside = select_neurons(scores.view(groups, size), kept // groups)  # (groups, kept / groups)
    return (inside + size * inside.new_tensor(range(groups))[:, None]).flatten()
