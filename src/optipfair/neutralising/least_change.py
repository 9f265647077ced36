"""The least change of a projection that moves what follows some prompts by given amounts.

Least in what it does to the projection's outputs on ordinary text: tr(D C D^T), with C the second
moments of the projection's inputs there. Pure functions, float64.

Axes: `N` prompts, `P` tokens of all prompts, `I` inputs, `H` outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOMENTS_RIDGE, PROMPTS_RIDGE = 1e-2, 1e-2  # of the mean of a diagonal


@dataclass(frozen=True)
class Seen:
    """What a projection saw of the prompts, and what its outputs are worth there.

    Attributes:
        inputs: what enters it at each token, (P, I).
        gradients: of each prompt's behaviour with respect to its outputs there, (P, H).
        prompts: which prompt each token is of, (P,).
    """

    inputs: Tensor
    gradients: Tensor
    prompts: Tensor


def least_change(moments: Tensor, seen: Seen, wanted: Tensor) -> Tensor:
    """The change (H, I) of a projection's weight that moves the behaviours by `wanted` (N,).

    To first order a change D moves prompt i by the sum over its tokens p of u_ip^T D z_ip. Of all D
    that do so, the one with the least tr(D C D^T) is D = sum_i a_i U_i^T Z_i C^-1, where a solves
    G a = wanted and G_ij = sum_pq (u_ip . u_jq) (z_ip^T C^-1 z_jq). Both C and G get a ridge of a
    hundredth of the mean of their diagonal, so that prompts that contradict each other, or
    directions that text hardly has, are not followed to the end.

    It is the constrained form of the least squares that makes up for removed neurons
    (`pruning/compensation/least_squares.py`): both measure harm in the same second moments.

    Args:
        moments: C, (I, I): sum of x x^T over tokens of ordinary text.
    """
    z, u = seen.inputs.double(), seen.gradients.double()
    count = len(wanted)
    factor = torch.linalg.cholesky(_ridged(moments.double(), MOMENTS_RIDGE))
    whitened = torch.cholesky_solve(z.T, factor).T  # (P, I): Z C^-1
    products = (u @ u.T) * (z @ whitened.T)  # (P, P)
    by_prompt = products.new_zeros(count, len(z)).index_add_(0, seen.prompts, products)
    gram = products.new_zeros(count, count).index_add_(1, seen.prompts, by_prompt)
    shares = torch.linalg.solve(_ridged(gram, PROMPTS_RIDGE), wanted.double())  # (N,)
    change: Tensor = (u * shares[seen.prompts, None]).T @ whitened
    return change


def _ridged(matrix: Tensor, share: float) -> Tensor:
    """The matrix with a share of the mean of its diagonal added to that."""
    ridged = matrix.clone()
    ridged.diagonal().add_(max(share * float(matrix.diagonal().mean()), 1e-30))
    return ridged
