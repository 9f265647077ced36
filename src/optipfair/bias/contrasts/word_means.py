"""The difference of two kinds of words, with an interval over words: templates of one word are no
independent witnesses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ...uncertainty import student_quantile
from ..attribution_result import Interval
from .contrast_prompts import Prompt, interaction

FEWEST = 3  # words of each kind, so that there is an interval


def difference_of_kinds(values: Tensor, prompts: Sequence[Prompt]) -> Interval:
    """The weighted sum of the prompts' values (N,), and its 95 % interval.

    Each word counts once, by the mean over its templates; the interval is Welch's for the
    difference of two means (Welch 1947), so it speaks of other words like these in the same
    templates.
    """
    value = interaction(values, prompts)
    by_word: dict[tuple[int, str], list[float]] = defaultdict(list)
    for prompt, each in zip(prompts, values.tolist(), strict=True):
        by_word[prompt.kind, prompt.word].append(each)
    kinds = [[np.mean(v) for (kind, _), v in by_word.items() if kind == k] for k in (0, 1)]
    sizes = [len(kind) for kind in kinds]
    if min(sizes) < FEWEST:
        return Interval(value, None, None)
    parts = [float(np.var(kind, ddof=1)) / len(kind) for kind in kinds]
    if not sum(parts):
        return Interval(value, value, value)
    below = sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    wide = student_quantile(0.975, sum(parts) ** 2 / below) * sum(parts) ** 0.5
    return Interval(value, value - wide, value + wide)
