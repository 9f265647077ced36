"""How long two models write the same: greedy continuations of beginnings taken from a text.

Axes: `S` tokens of the text, `P` prompts, `T` new tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...certainty.proportions import clopper_pearson
from ...errors import UnsupportedModelError
from ...report.comparison import Generation, SameTokens
from ...uncertainty import Estimate, bootstrap_bounds
from ..intervals import FEWEST_CLUSTERS
from .continuations import Ids, continuations, ends_of, unable

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 32, 32, 32
LENGTHS = (8, 32)  # tokens, from the first on
_FEW = f"an interval needs {FEWEST_CLUSTERS} prompts"
_ALIKE = "resamples of the prompts all give this figure"


def same_text(
    models: Mapping[str, Any],
    tokenizer: Any,
    ids: Sequence[int],
    *,
    seed: int = 0,
    show_progress: bool = False,
) -> Generation:
    """Let two models write on from the same places of a text, and say where they part.

    Args:
        models: two of one vocabulary, by name.
        ids: (S,) tokens of the text.
        seed: of the interval of the median, which is bootstrapped over the prompts.

    Raises:
        UnsupportedModelError: a model cannot write so much, or at all.
        ModelOutputError: a model gives numbers that are not finite.
    """
    prompts = beginnings(ids)
    length = len(prompts[0])
    for model in models.values():
        reason = unable(model, length + NEW_TOKENS)
        if reason is not None:
            raise UnsupportedModelError(f"{reason}.")
    ends = ends_of(tokenizer, *models.values())
    first, second = (
        continuations(
            *(model, prompts, NEW_TOKENS, ends),
            name=name,
            label=f"{name}: generation",
            show_progress=show_progress,
        )
        for name, model in models.items()
    )
    shared = shared_lengths(first, second)
    return Generation(
        prompts=len(prompts),
        prompt_tokens=length,
        new_tokens=NEW_TOKENS,
        until_parting=_median(shared, seed),
        same=[SameTokens(n, _share(shared >= n)) for n in LENGTHS],
    )


def beginnings(
    ids: Sequence[int], count: int = PROMPTS, length: int = PROMPT_TOKENS
) -> list[list[int]]:
    """Prompts of one length, spread evenly over a text without overlap; a short text gives fewer.

    Example:
        >>> beginnings([0, 1, 2, 3, 4, 5, 6], count=2, length=3)
        [[0, 1, 2], [3, 4, 5]]
        >>> beginnings([0, 1], length=3)
        [[0, 1]]
    """
    own = [int(token) for token in ids]
    number = max(1, min(count, len(own) // length))
    return [own[len(own) * n // number :][:length] for n in range(number)]


def shared_lengths(first: Ids, second: Ids) -> NDArray[np.int64]:
    """How many tokens, from the first on, are the same in both; (P, T) each -> (P,).

    Two texts that both end (`OVER`) are the same from there on, so that where they never differ it
    is T.

    Example:
        >>> shared_lengths(np.array([[5, 6, 7], [5, -1, -1]]), np.array([[5, 9, 7], [5, -1, -1]]))
        array([1, 3])
    """
    apart = np.asarray(first != second)
    places = np.where(apart.any(axis=1), apart.argmax(axis=1), apart.shape[1])
    return np.asarray(places, dtype=np.int64)


def _share(same: NDArray[np.bool_]) -> Estimate:
    value = float(same.mean())
    if len(same) < FEWEST_CLUSTERS:
        return Estimate(value, None, None, _FEW)
    return Estimate(value, *clopper_pearson(float(same.sum()), float(len(same))))


def _median(shared: NDArray[np.int64], seed: int) -> Estimate:
    value = float(np.median(shared))
    bounds = bootstrap_bounds(shared.astype(np.float64), np.median, seed=seed)
    if bounds is None or len(shared) < FEWEST_CLUSTERS:
        return Estimate(value, None, None, _FEW)
    low, high = float(bounds[0]), float(bounds[1])
    return Estimate(value, low, high) if low < high else Estimate(value, None, None, _ALIKE)
