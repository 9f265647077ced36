"""The weights of routed experts, one expert at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ...arch.slots import rows_of
from ...arch.view import MLPView, check_finite


def squares_by_expert(experts: MLPView) -> Tensor:
    """The sum of squares of each expert's weights, without its row of the router, (E,) float64."""
    check_finite(experts, {slot.role for slot in experts.tensors})
    inside = experts.spec.down.module
    total = torch.zeros(experts.width, dtype=torch.float64)
    for slot, tensor in experts.tensors.items():
        if slot.module != inside or slot.tail:
            continue
        for expert in range(experts.width):
            rows = rows_of(torch.tensor([expert], device=tensor.device), slot.rows)
            own = tensor.detach().index_select(slot.axis, rows)
            total[expert] += own.double().square().sum().cpu()
    return total
