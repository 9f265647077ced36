"""How far two words are from each other before a model has read them: by their input embeddings."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...tokenized import tokenized
from .neutral_swaps import Distance, Length


def word_measures(model: Any, tokenizer: Any) -> tuple[Length, Distance]:
    """Functions of a word as it stands, space before it included: its tokens, and its distance.

    A word's vector is the mean of its tokens' input embeddings, (H,) in float32. The distance of
    two is |a - b| over the mean of |a| and |b|, the measure that activations are compared by: 0
    equal, 2 opposite. Both functions remember what they were asked.
    """
    embeddings = model.get_input_embeddings()
    known = int(embeddings.weight.shape[0])

    @cache
    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenized(tokenizer, text, add_special_tokens=False)["input_ids"])

    @cache
    def vector(text: str) -> tuple[NDArray[np.float64], float]:
        """And its squared length."""
        # A prompt with a token that the model does not know is refused where prompts are read.
        rows = [each for each in ids(text) if 0 <= each < known]
        if not rows:
            return np.zeros(1), 0.0
        with torch.no_grad():
            found: Tensor = embeddings(torch.tensor(rows, device=embeddings.weight.device))
        mean = found.float().mean(dim=0).cpu().numpy().astype(np.float64)
        return mean, float(mean @ mean)

    @cache
    def distance(one: str, two: str) -> float:
        (first, square), (second, other) = vector(one), vector(two)
        size = (math.sqrt(square) + math.sqrt(other)) / 2
        if not square or not other:
            return 2.0 if size else 0.0
        return math.sqrt(max(square + other - 2 * float(first @ second), 0.0)) / size

    return lambda text: len(ids(text)), distance
