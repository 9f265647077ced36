"""How far two probability distributions are from each other. Knows no models; no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ArgumentError

Floats = NDArray[np.float64]


def jensen_shannon(p: ArrayLike, q: ArrayLike) -> Floats:
    """Measure the Jensen-Shannon divergence of two distributions, in bits.

    JS(p, q) = KL(p, m) / 2 + KL(q, m) / 2 with m = (p + q) / 2 and logarithms to base 2 (Lin 1991,
    "Divergence measures based on the Shannon entropy"). It is symmetric, 0 where p = q and 1 where
    nothing has a probability in both.

    Args:
        p, q: (..., V) weights of 0 or more; each row is divided by its sum.

    Returns:
        (...), 0 to 1; NaN where a weight is NaN.

    Raises:
        ArgumentError: the shapes differ, a weight is negative or infinite, or a row sums to 0.

    Example:
        >>> float(jensen_shannon([1, 0], [0, 1]))
        1.0
        >>> round(float(jensen_shannon([0.5, 0.5], [1, 0])), 4)
        0.3113
    """
    p, q = _distributions(p, q)
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return np.asarray(np.clip(divergence, 0.0, 1.0))


def total_variation(p: ArrayLike, q: ArrayLike) -> Floats:
    """Measure how much probability must move to turn one distribution into the other.

    TV(p, q) = sum |p - q| / 2: the largest difference in the probability of any set.

    Args:
        p, q: as of `jensen_shannon`.

    Returns:
        (...), 0 to 1.

    Raises:
        ArgumentError: as of `jensen_shannon`.

    Example:
        >>> float(total_variation([0.5, 0.5], [1, 0]))
        0.5
    """
    p, q = _distributions(p, q)
    return np.asarray(np.abs(p - q).sum(axis=-1) / 2)


def softmax(logs: ArrayLike) -> Floats:
    """Logarithms of weights (..., V) as a distribution; NaN where all of a row are -infinity."""
    logs = np.asarray(logs, dtype=np.float64)
    top = logs.max(axis=-1, keepdims=True)
    weights = np.exp(logs - np.where(np.isneginf(top), np.nan, top))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _distributions(p: Any, q: Any) -> tuple[Floats, Floats]:
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if p.shape != q.shape or p.ndim == 0 or p.shape[-1] == 0:
        raise ArgumentError(
            f"The distributions have the shapes {p.shape} and {q.shape}. Give two of the same "
            "shape (..., V), with a weight for each of V outcomes."
        )
    if np.isinf([p, q]).any() or np.any(p < 0) or np.any(q < 0):
        raise ArgumentError("A weight is negative or infinite. Give finite weights of 0 or more.")
    of_p, of_q = p.sum(axis=-1, keepdims=True), q.sum(axis=-1, keepdims=True)
    if np.any(of_p == 0) or np.any(of_q == 0):
        raise ArgumentError("All weights of a distribution are 0. Give at least one above 0.")
    return p / of_p, q / of_q


def _relative_entropy(p: Floats, middle: Floats) -> Floats:
    """KL(p, middle) in bits; outcomes without weight add nothing, NaN stays NaN."""
    ratio = np.divide(p, middle, out=np.ones_like(p), where=middle != 0)
    logs = np.log2(ratio, out=np.zeros_like(p), where=ratio != 0)
    return np.asarray((p * logs).sum(axis=-1))
