"""How far a student's hidden states are from those of its teacher: one number for each token.

Pure functions of the outputs of mapped layers: a sequence of (T, H) for each model, both of one
length. All sums are in float32.

Axes: `T` tokens, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def trajectory_distance(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """1 - cosine of what both models' layers give, the mean over the layers, (T,), from 0 to 2."""
    pairs = zip(student, teacher, strict=True)
    return torch.stack([cosine_distance(own, wanted) for own, wanted in pairs]).mean(dim=0)


def derivative_distance(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """1 - cosine of what changes from each mapped layer to the next, the mean over them, (T,).

    Source: the first difference along the layers of Feature Dynamics Distillation (ACL 2025), which
    takes the layers of a model for the steps of one trajectory. Two layers at least are needed.
    """
    return trajectory_distance(changes(student), changes(teacher))


def changes(states: Sequence[Tensor]) -> list[Tensor]:
    """What each layer's states (T, H) add to those of the one before in the sequence."""
    return [after.float() - before.float() for before, after in pairwise(states)]


def cosine_distance(own: Tensor, wanted: Tensor) -> Tensor:
    """1 - cosine of each row, (T, H) → (T,); it is 1 where one of them is zero."""
    return 1 - nn.functional.cosine_similarity(own.float(), wanted.float(), dim=-1)
