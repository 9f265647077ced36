"""Weights that hold NaN or Inf, refused by name."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UnsupportedModelError
from .view import MLPView


def check_finite(mlp: MLPView, roles: set[str]) -> None:
    """Refuse NaN and Inf in the MLP's tensors of these roles, naming the tensor."""
    for slot, tensor in mlp.tensors.items():
        if slot.role in roles and not is_finite(tensor.detach()):
            raise UnsupportedModelError(not_finite(mlp.tensor_name(slot)))


def not_finite(name: str) -> str:
    return (
        f"{name} holds NaN or Inf, so its neurons cannot be ranked. Repair or reload the weights "
        "first."
    )


def is_finite(tensor: Tensor) -> bool:
    # aminmax keeps NaN and Inf and reads once, without the temporary that isfinite() makes.
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))
