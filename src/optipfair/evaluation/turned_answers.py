"""Answers of yes or no that turned from one model to the other. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..certainty.proportions import ALPHA, FEWEST, least_p, mcnemar_p
from ..certainty.sharing import sharing_of
from .intervals import FEWEST_CLUSTERS, Mean, student_test
from .measures import Clusters, Columns


def answers_turned(
    original: Columns, pruned: Columns, column: str, clusters: Clusters
) -> dict[str, Any]:
    """How many answers of yes or no turned in each direction, and whether more in one of them.

    Of `lost` (1 became 0) and `gained` (0 became 1), out of those `answered` by both, p is that of
    McNemar's exact test; where items share something, not smaller than that of Student's t with
    the variance that this gives. None, with the reason, where so few answers turned that no p
    could be below 0.05.
    """
    before, after = original[column], pruned[column]
    known = np.isfinite(before) & np.isfinite(after)
    lost = int(np.sum((before == 1) & (after == 0)))
    gained = int(np.sum((before == 0) & (after == 1)))
    about = {"lost": lost, "gained": gained, "answered": int(known.sum())}
    if lost + gained < FEWEST:
        least = f"{least_p(lost + gained):.2g}" if lost + gained else "1"
        told = f"{lost + gained} turned, too few to tell: p would be {least} at least"
        return about | {"p": None, "untested": f"{told}, and {ALPHA:g} takes {FEWEST}"}
    p = mcnemar_p(lost, gained)
    sharing = sharing_of(clusters).taken(known)
    if sharing.independent:
        return about | {"p": p, "untested": None}
    if sharing.clusters() < FEWEST_CLUSTERS:
        told = f"{sharing.clusters()} clusters of items are too few: a test needs {FEWEST_CLUSTERS}"
        return about | {"p": None, "untested": told}
    mean = Mean((after - before)[known], np.ones(int(known.sum())), sharing)
    return about | {"p": max(p, student_test(mean.value, mean.errors, sharing)), "untested": None}
