"""Optimal brain surgeon: remove the neurons whose loss the others can best make up for.

Pure functions on a projection's weights and its inputs' second moments.

Axes: `H` outputs, `I` inputs (neurons).
"""

from __future__ import annotations

import torch
from torch import Tensor

_BATCHES = 96  # the inputs go in so many batches; scores are taken anew for each
_SHRINKAGE = 1e-2  # relative to the mean of the moments' diagonal


def elimination_order(weight: Tensor, inputs: Tensor, count: int) -> Tensor:
    """The inputs in the order in which to remove them, the first `count`.

    Each step removes a small batch of those with the least |w_i|^2 / [H^-1]_ii, where H is the
    shrunk second moment of the inputs, and updates weights and inverse exactly, so that what is
    left has taken over what it could (Hassibi and Stork 1993; for structures: SlimGPT,
    arXiv 2412.18110, and ZipLM, arXiv 2302.04089).

    Args:
        weight: (H, I).
        inputs: sum of x x^T, (I, I).
        count: how many to remove, below I.

    Returns:
        (count,) indices.
    """
    w = weight.double().clone()
    moments = inputs.double().clone()
    moments.diagonal().add_(_SHRINKAGE * float(moments.diagonal().mean()) + 1e-30)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    gone = torch.zeros(len(moments), dtype=torch.bool, device=w.device)
    order: list[Tensor] = []
    step = max(len(moments) // _BATCHES, 1)
    for first in range(0, count, step):
        scores = (w.square().sum(dim=0) / inverse.diagonal()).masked_fill(gone, float("inf"))
        worst = torch.argsort(scores, stable=True)[: min(step, count - first)]
        _remove(w, inverse, worst)
        gone[worst] = True
        order.append(worst)
    return torch.cat(order) if order else torch.arange(0, device=w.device)


def _remove(w: Tensor, inverse: Tensor, gone: Tensor) -> None:
    """Take inputs out and let the others make up for them, exactly; both change in place."""
    block = torch.linalg.cholesky(inverse[gone][:, gone])
    rows = torch.cholesky_solve(inverse[gone], block)  # [M M]^-1 [M :], (M, I)
    w.addmm_(w[:, gone], rows, alpha=-1)
    inverse.addmm_(inverse[:, gone], rows, alpha=-1)
