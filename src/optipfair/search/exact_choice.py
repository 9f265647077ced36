"""The choice of least score that saves enough: a small integer programme, solved exactly.

Scores are added as if parts did not know of each other, which misleads; so what comes of it is
judged together with others afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import ArgumentError
from .choices import Choice


def least_score(
    choices: Sequence[Choice], scores: Mapping[str, float], saving: int
) -> list[Choice] | None:
    """One choice of each part, or none, with the least sum of scores that saves so many parameters.

    None where all together do not save so much.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError as exc:
        raise ArgumentError(
            "The search needs scipy. Install it with: pip install 'optipfair[search]'"
        ) from exc
    if not choices:
        return None
    parts = sorted({choice.block for choice in choices})
    of_part = np.array([[c.block == part for c in choices] for part in parts], dtype=float)
    saved = np.array([[choice.saved for choice in choices]], dtype=float)
    # A score may be a little below zero by chance; then it is as good as nothing.
    costs = np.array([max(scores[choice.name], 0.0) for choice in choices])
    found = milp(
        costs,
        integrality=np.ones(len(choices)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(of_part, 0, 1), LinearConstraint(saved, saving, np.inf)],
    )
    if found.x is None:
        return None
    return [c for c, taken in zip(choices, found.x, strict=True) if taken > 0.5]
