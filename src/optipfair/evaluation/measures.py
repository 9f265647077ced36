"""What a figure over many items is, and how far distributions are apart. No torch.

A measure is a function of sums: each item contributes a few numbers, they are added over the items,
and the figure is computed from the sums. So it is resampled by adding again, without a look at the
items, and a bootstrap of thousands of draws is one product of matrices.

Axes: `N` items, `C` clusters, `K` parts of a
measure, `R` draws, `V` outcomes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..certainty.sharing import Labels
from ..errors import ArgumentError
from ..report.comparison import Better, Change

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]
Clusters = Sequence[Labels]  # items that share a label are not independent
Part = Callable[[Columns], Any]  # (N,) what each item contributes

SHARE, SIGNED = (0.0, 1.0), (-1.0, 1.0)  # scales
_LARGEST = 700.0  # exp of more is not a float


@dataclass(frozen=True)
class Measure:
    """One figure over items."""

    name: str  # as in tables and thresholds, such as `acc`
    help: str  # what it is, in one line, with its range
    parts: Callable[[Columns], Floats]  # columns -> (N, K), what is added over items
    value: Callable[[Floats], Floats]  # sums (..., K) -> (...), NaN where it is not defined
    better: Better  # a number is the value that is best (0.5: neither side is preferred)
    change: Change = "difference"  # how two models are compared: after - before, or after / before
    by: str | None = None  # a column of text; the measure is also given for each of its values
    headline: bool = True  # whether it decides a verdict; others are shown
    tested: bool = True  # whether a test of "no change" makes sense
    scale: tuple[float, float] | None = None  # the least and the most; None: no ends, as of nats
    # What an item gives, if it is an answer: 0 or 1 ("two"), -1, 0 or 1 ("three"), at the ends (and
    # the middle) of the scale; ties lie between.
    answers: Literal["two", "three"] | None = None
    linear: bool = False  # whether it is a sum over a sum, of two parts, in some unit
    undefined: str = "no item counts towards it"  # why there is no figure where there is none
    chance: float | None = None  # what guessing gives, where that is known

    def cost(self, values: Floats) -> Floats:
        """The same figures turned so that lower is better."""
        if self.better == "higher":
            return -values
        return values if self.better == "lower" else np.abs(values - float(self.better))


def groups(measure: Measure, columns: Columns) -> dict[str | None, NDArray[np.bool_]]:
    """The rows of all items (None), and of each group the measure is given for."""
    everything = np.ones(len(next(iter(columns.values()))), dtype=bool)
    rows: dict[str | None, NDArray[np.bool_]] = {None: everything}
    if measure.by is not None:
        labels = columns[measure.by]
        found = sorted(set(labels.tolist()), key=_counted)
        rows |= {str(label): labels == label for label in found}
    return rows


def _counted(label: str) -> str:
    """A key that sorts numbers in labels as numbers: `64-255` before `256-`."""
    return re.sub("[0-9]+", lambda found: found[0].zfill(12), label)


def taken(columns: Columns, rows: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """The columns of some items."""
    return {name: column[rows] for name, column in columns.items()}


def mean_of(column: str) -> dict[str, Any]:
    """`parts` and `value` of a mean; items whose value is NaN do not count."""
    return ratio_of(lambda c: np.nan_to_num(c[column]), lambda c: ~np.isnan(c[column]))


def ratio_of(above: Part, below: Part) -> dict[str, Any]:
    """`parts` and `value` of a sum over a sum."""

    def parts(columns: Columns) -> Floats:
        return np.stack([above(columns), below(columns)], axis=1).astype(np.float64)

    return {"parts": parts, "value": lambda sums: over(sums[..., 0], sums[..., 1]), "linear": True}


def exponential_of(above: Part, below: Part) -> dict[str, Any]:
    """`parts` and `value` of exp of a sum over a sum, as perplexities are."""

    def value(sums: Floats) -> Floats:
        return np.asarray(np.exp(np.minimum(over(sums[..., 0], sums[..., 1]), _LARGEST)))

    return ratio_of(above, below) | {"value": value, "linear": False}


def over(above: Any, below: Any) -> Floats:
    """above / below, NaN where below is 0."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    shape = np.broadcast_shapes(above.shape, below.shape)
    return np.asarray(np.divide(above, below, out=np.full(shape, np.nan), where=below != 0))


def preferred(first: ArrayLike, second: ArrayLike) -> Floats:
    """1 where the first is larger, 0 where the second is, a half for ties, NaN where one is NaN."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    # Not the sign of the difference: two scores of -infinity are equal, their difference is NaN.
    result = np.where(first > second, 1.0, np.where(first == second, 0.5, 0.0))
    result[np.isnan(first) | np.isnan(second)] = np.nan
    return result


def settled(preference: Floats) -> Floats:
    """A preference as an answer of 1 or 0: ties are none (NaN)."""
    return np.where(preference == 0.5, np.nan, preference)


def share_preferred(name: str, told: str, column: str, **more: Any) -> Measure:
    """How often one side of a pair is preferred, of which half is neutral and a coin's."""
    kind: Any = {"better": 0.5, "scale": SHARE, "chance": 0.5, "answers": "two"}
    return Measure(name, told, **mean_of(column), **kind, **more)


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
