"""Which neurons stay: those of the highest scores, or those that step-by-step elimination leaves.

Pure functions; those of the optimal brain surgeon work on a projection's weights and its inputs'
second moments.

Axes: `H` outputs, `I` inputs (neurons), `E` experts, `U` units of inputs that go together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...arch.slots import rows_of

_BATCHES = 96  # the inputs go in so many batches; scores are taken anew for each
_SHRINKAGE = 1e-2  # relative to the mean of the moments' diagonal


def select_neurons(scores: Tensor, kept: int) -> Tensor:
    """The sorted indices of the `kept` highest scores; ties go to the lower index.

    Of scores (I,) that is (kept,); of (E, I), for each expert apart, (E, kept).
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order[..., :kept].sort(dim=-1).values


def select_units(scores: Tensor, kept: int, groups: int = 1) -> Tensor:
    """`select_neurons`, the same number from each of `groups` that follow each other.

    Scores are (U,), or (E, I) where there is one group; `kept` is how many stay in all.
    """
    if groups == 1:
        return select_neurons(scores, kept)
    size = len(scores) // groups
    inside = select_neurons(scores.view(groups, size), kept // groups)  # (groups, kept / groups)
    return (inside + size * inside.new_tensor(range(groups))[:, None]).flatten()


def elimination_order(weight: Tensor, inputs: Tensor, count: int) -> Tensor:
    """The inputs in the order in which to remove them, the first `count`.

    Each step removes a small batch of those with the least |w_i|^2 / [H^-1]_ii, where H is the
    shrunk second moment of the inputs, and updates weights and inverse exactly, so that what is
    left has taken over what it could (Hassibi and Stork 1993; for structures: SlimGPT,
    arXiv 2412.18110, and ZipLM, arXiv 2302.04089). The weight is (H, I), inputs are the sum of
    x x^T, (I, I).
    """
    w = weight.double().clone()
    inverse = _shrunk_inverse(inputs)
    gone = torch.zeros(len(inverse), dtype=torch.bool, device=w.device)
    order: list[Tensor] = []
    step = max(len(inverse) // _BATCHES, 1)
    for first in range(0, count, step):
        scores = (w.square().sum(dim=0) / inverse.diagonal()).masked_fill(gone, float("inf"))
        worst = torch.argsort(scores, stable=True)[: min(step, count - first)]
        _remove(w, inverse, worst)
        gone[worst] = True
        order.append(worst)
    return torch.cat(order) if order else torch.arange(0, device=w.device)


def unit_elimination_order(
    weight: Tensor, inputs: Tensor, count: int, unit: int, groups: int = 1
) -> Tensor:
    """The same for units of neighbouring inputs, one at a time: the first `count` to remove.

    Each step removes the unit u with the least tr(W_u [H^-1]_uu^-1 W_u^T), which is the error that
    the others cannot make up for. A unit takes so many inputs; the units lie in so many groups, one
    after the other, and of each the same number goes.
    """
    w, inverse = weight.double().clone(), _shrunk_inverse(inputs)
    left = torch.arange(len(inverse) // unit, device=w.device)
    size, units = len(left) // groups, len(left)
    missing = left.new_full((groups,), count // groups)
    order: list[Tensor] = []
    for _ in range(count // groups * groups):
        own = inverse.view(units, unit, units, unit)[left, :, left]  # (U, unit, unit)
        parts = w.view(len(w), units, unit)[:, left].permute(1, 2, 0)  # (U, unit, H)
        solved = torch.cholesky_solve(parts, torch.linalg.cholesky(own))
        scores = (solved * parts).sum(dim=(1, 2))
        scores[missing[left // size] == 0] = float("inf")
        worst = left[torch.argsort(scores, stable=True)[:1]]
        _remove(w, inverse, rows_of(worst, unit))
        left = left[left != worst]
        missing[worst // size] -= 1
        order.append(worst)
    return torch.cat(order) if order else left[:0]


def _shrunk_inverse(inputs: Tensor) -> Tensor:
    moments = inputs.double().clone()
    moments.diagonal().add_(_SHRINKAGE * float(moments.diagonal().mean()) + 1e-30)
    return torch.cholesky_inverse(torch.linalg.cholesky(moments))


def _remove(w: Tensor, inverse: Tensor, gone: Tensor) -> None:
    """Take inputs out and let the others make up for them, exactly; both change in place."""
    block = torch.linalg.cholesky(inverse[gone][:, gone])
    rows = torch.cholesky_solve(inverse[gone], block)  # [M M]^-1 [M :], (M, I)
    w.addmm_(w[:, gone], rows, alpha=-1)
    inverse.addmm_(inverse[:, gone], rows, alpha=-1)
