"""What the kept neurons must do for the lost ones: least squares, shrunk towards doing nothing.

A projection `y = W x` loses inputs. From the second moments of its inputs alone follow the weights
of the kept ones that reproduce its outputs best, and the error that is left. Pure functions.

Axes: `H` outputs, `I` inputs (neurons), `k` kept inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from ...distributed import world_size
from ..calibration.moments import Moments

# Relative to the mean of the moments' diagonal; infinity is plain slicing.
SHRINKAGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_TINY = 1e-30


@dataclass(frozen=True)
class Fit:
    """Weights of the kept inputs (H, k), and how well they do on tokens that were held back.

    Errors are relative squared errors of the outputs on these (a little better than on new ones,
    since the last fit uses all tokens); None where none was held back.
    """

    weight: Tensor
    shrinkage: float  # infinity where plain slicing was best
    error: float | None
    sliced_error: float | None  # of plain slicing

    def to_be_sent(self) -> Fit:
        """The same where other processes, which have devices of their own, can take it."""
        return self if world_size() == 1 else replace(self, weight=self.weight.cpu())


def fit_kept(
    weight: Tensor,
    keep: Tensor,
    fitting: Moments,
    held_back: Moments,
    shrinkages: Sequence[float] = SHRINKAGES,
) -> Fit:
    """Find the weights of the kept inputs that reproduce the outputs of `weight` (H, I) best.

    W' = (B[:, S] + l W[:, S]) (C[S, S] + l I)^-1 with S what is kept, sorted, C the inputs' second
    moments and B = W C, or the targets' where other outputs are aimed at: ridge regression that
    shrinks towards plain slicing, so that little data does little harm. l is relative to the mean
    of C's diagonal and is chosen on the held-back tokens; where none beats plain slicing there,
    slicing it is. The chosen one is then solved once more from all tokens.

    With a constant input, which must be kept, its weights are free of shrinkage. This is the same
    as fitting moments about the mean, and the outputs' means then: b = W m - W' m[S].
    """
    fit, judge = _Sums.of(weight, keep, fitting), _Sums.of(weight, keep, held_back)
    sliced = weight.double()[:, keep]
    if judge.power <= 0:  # nothing to judge by
        return Fit(sliced.to(weight.dtype), float("inf"), None, None)
    sliced_error = judge.error(sliced)

    @cache
    def error_of(shrinkage: float) -> float:
        return judge.error(fit.solve(sliced, shrinkage))

    best = _lowest(error_of, sorted(shrinkages))
    if error_of(best) >= sliced_error:
        return Fit(sliced.to(weight.dtype), float("inf"), sliced_error, sliced_error)
    final = (fit + judge).solve(sliced, best)
    error = judge.error(final)
    if error > sliced_error:  # cannot get worse by more tokens, but never trust it
        final, error = fit.solve(sliced, best), error_of(best)
    return Fit(final.to(weight.dtype), best, error, sliced_error)


@dataclass(frozen=True)
class _Sums:
    """What a fit needs of some tokens, in float64."""

    gram: Tensor  # second moments of the kept inputs, (k, k)
    wanted: Tensor  # sum of y x^T over them, (H, k)
    power: float  # sum of |y|^2
    unit: float  # mean second moment of all inputs, in which shrinkage is counted
    constant: bool  # whether the last input is always 1; it is not shrunk

    @classmethod
    def of(cls, weight: Tensor, keep: Tensor, moments: Moments) -> _Sums:
        inputs = moments.inputs.double()
        unit = float(inputs.diagonal()[: len(inputs) - moments.constant].mean())
        gram = inputs[keep][:, keep]
        if moments.targets is not None:
            wanted, power = moments.targets.double(), float(moments.power or 0.0)
        else:
            wanted = weight.double() @ inputs  # (H, I)
            power = float((wanted * weight.double()).sum())
        return cls(gram, wanted[:, keep], power, unit, moments.constant)

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.gram + other.gram,
            self.wanted + other.wanted,
            self.power + other.power,
            self.unit + other.unit,
            self.constant,
        )

    def solve(self, sliced: Tensor, shrinkage: float) -> Tensor:
        """The ridge solution, (H, k)."""
        amounts = torch.full_like(sliced[0], max(shrinkage * self.unit, _TINY))
        if self.constant:
            amounts[-1] = _TINY
        right = self.wanted + amounts * sliced
        gram = self.gram.clone()
        gram.diagonal().add_(amounts)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if bool(failed):  # a semi-definite matrix and a tiny shrinkage
            solution: Tensor = torch.linalg.lstsq(gram, right.T).solution.T
            return solution
        return torch.cholesky_solve(right.T, factor).T

    def error(self, new: Tensor) -> float:
        """Squared error of the outputs with these weights (H, k), over the squared outputs."""
        difference = self.power - 2 * (self.wanted * new).sum() + (new @ self.gram * new).sum()
        return max(float(difference), 0.0) / max(self.power, _TINY)


def _lowest(error_of: Callable[[float], float], candidates: Sequence[float]) -> float:
    """Walk downhill from the middle candidate: errors fall, then rise."""
    place = len(candidates) // 2
    while True:
        near = [i for i in (place - 1, place, place + 1) if 0 <= i < len(candidates)]
        lowest = min(near, key=lambda i: error_of(candidates[i]))
        if lowest == place:
            return candidates[place]
        place = lowest
