"""What the kept neurons must do for the lost ones: least squares, shrunk towards doing nothing.

A projection `y = W x` loses inputs. From the second moments of its inputs alone follow the weights
of the kept ones that reproduce its outputs best, and the error that is left. Pure functions.

Axes: `H` outputs, `I` inputs (neurons), `k` kept inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Relative to the mean of the moments' diagonal; infinity is plain slicing.
SHRINKAGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Moments:
    """Sums over tokens of a projection's inputs x and of what its outputs y should be.

    Attributes:
        inputs: sum of x x^T, (I, I).
        targets: sum of y x^T, (H, I); None where y is the projection's own output.
        power: sum of |y|^2; None where `targets` is.
        tokens: how many tokens.
    """

    inputs: Tensor
    targets: Tensor | None = None
    power: float | None = None
    tokens: int = 0

    def __add__(self, other: Moments) -> Moments:
        both = self.targets is not None and other.targets is not None
        return Moments(
            self.inputs + other.inputs,
            self.targets + other.targets if both else None,  # type: ignore[operator]
            (self.power or 0.0) + (other.power or 0.0) if both else None,
            self.tokens + other.tokens,
        )


@dataclass(frozen=True)
class Fit:
    """Weights of the kept inputs, and how well they do on tokens that were held back.

    Attributes:
        weight: (H, k).
        shrinkage: the one chosen; infinity where plain slicing was best.
        error: relative squared error of the outputs on the held-back tokens (a little better than
            on new ones, since the last fit uses all tokens); None where none was held back.
        sliced_error: the same for plain slicing.
    """

    weight: Tensor
    shrinkage: float
    error: float | None
    sliced_error: float | None


def fit_kept(
    weight: Tensor,
    keep: Tensor,
    fitting: Moments,
    held_back: Moments,
    shrinkages: Sequence[float] = SHRINKAGES,
) -> Fit:
    """Find the weights of the kept inputs that reproduce the outputs best.

    W' = (B[:, S] + l W[:, S]) (C[S, S] + l I)^-1 with C the inputs' second moments and B = W C, or
    the targets' where other outputs are aimed at: ridge regression that shrinks towards plain
    slicing, so that little data does little harm. l is relative to the mean of C's diagonal and is
    chosen on the held-back tokens; where none beats plain slicing there, slicing it is. The chosen
    one is then solved once more from all tokens.

    Args:
        weight: (H, I).
        keep: (k,) kept inputs, sorted.
        fitting: moments of the tokens to fit on.
        held_back: moments of other tokens.
        shrinkages: candidates for l.
    """
    wide = weight.double()
    sliced = wide[:, keep]
    if not bool(held_back.inputs.diagonal().any()):  # nothing to judge by
        return Fit(sliced.to(weight.dtype), float("inf"), None, None)
    sliced_error = relative_error(wide, sliced, keep, held_back)
    best, best_error = float("inf"), sliced_error
    for shrinkage in shrinkages:
        candidate = _solve(wide, keep, fitting, shrinkage)
        error = relative_error(wide, candidate, keep, held_back)
        if error < best_error:
            best, best_error = shrinkage, error
    if best == float("inf"):
        return Fit(sliced.to(weight.dtype), best, sliced_error, sliced_error)
    final = _solve(wide, keep, fitting + held_back, best)
    error = relative_error(wide, final, keep, held_back)
    if error > sliced_error:  # cannot get worse by more tokens, but never trust it
        final, error = _solve(wide, keep, fitting, best), best_error
    return Fit(final.to(weight.dtype), best, error, sliced_error)


def relative_error(weight: Tensor, new: Tensor, keep: Tensor, moments: Moments) -> float:
    """Squared error of `new @ x[keep]` over the squared outputs, from moments alone."""
    inputs = moments.inputs.double()
    gram = inputs[keep][:, keep]
    if moments.targets is None:
        wanted = weight @ inputs  # (H, I): sum of y x^T
        power = float((wanted * weight).sum())
    else:
        wanted, power = moments.targets.double(), float(moments.power or 0.0)
    cross = float((wanted[:, keep] * new).sum())
    own = float((new @ gram * new).sum())
    return max(power - 2 * cross + own, 0.0) / max(power, 1e-30)


def _solve(weight: Tensor, keep: Tensor, moments: Moments, shrinkage: float) -> Tensor:
    """The ridge solution in float64, (H, k)."""
    inputs = moments.inputs.double()
    wanted = weight @ inputs[:, keep] if moments.targets is None else moments.targets[:, keep]
    gram = inputs[keep][:, keep]
    amount = max(shrinkage * float(inputs.diagonal().mean()), 1e-30)
    right = wanted.double() + amount * weight[:, keep]
    gram.diagonal().add_(amount)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed):  # a semi-definite matrix and a tiny shrinkage
        solution: Tensor = torch.linalg.lstsq(gram, right.T).solution.T
        return solution
    return torch.cholesky_solve(right.T, factor).T
