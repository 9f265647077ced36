"""Optimal brain surgeon: remove the neurons whose loss the others can best make up for.

Pure functions on a projection's weights and its inputs' second moments.

Axes: `H` outputs, `I` inputs (neurons).
"""

from __future__ import annotations

import torch
from torch import Tensor

_BATCHES = 24  # removals before scores are taken anew: a share of the inputs at a time
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
    left = torch.arange(len(moments), device=w.device)
    removed: list[Tensor] = []
    step = max(len(moments) // (4 * _BATCHES), 1)
    while (missing := count - sum(map(len, removed))) > 0:
        scores = w.square().sum(dim=0) / inverse.diagonal()
        worst = torch.argsort(scores, stable=True)[: min(step, missing)]
        removed.append(left[worst])
        w, inverse, left = _remove(w, inverse, left, worst)
    return torch.cat(removed) if removed else left[:0]


def _remove(
    w: Tensor, inverse: Tensor, left: Tensor, gone: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Take inputs out and let the others make up for them, exactly."""
    stay = torch.ones(len(left), dtype=torch.bool, device=left.device)
    stay[gone] = False
    block = torch.linalg.cholesky(inverse[gone][:, gone])
    rows = torch.cholesky_solve(inverse[gone][:, stay], block)  # [M M]^-1 [M S]
    new_w = w[:, stay] - w[:, gone] @ rows
    new_inverse = inverse[stay][:, stay] - inverse[stay][:, gone] @ rows
    return new_w, new_inverse, left[stay]
