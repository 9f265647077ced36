"""What a student learns from: for the tokens of a batch, how far its logits are from the teacher's.

Axes: `B` batch, `S` sequence, `T` real tokens of a batch, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from .by_chunks import Parted
from .objectives import forward_kl

# The student's logits (t, V) of some tokens, and where these stand among all → their losses (t,).
Distance = Callable[[Tensor, slice], Tensor]


class Teacher(Protocol):
    """Says for a batch how far logits are from what they should be."""

    def distance(self, input_ids: Tensor, real: Tensor, row: Tensor | None) -> Distance:
        """For ids (B, S) and which of them are real (B, S); `row` numbers the sequences, (B,)."""
        ...


class LiveTeacher:
    """A model that runs beside the student, without gradients; it is never changed."""

    def __init__(self, model: Any) -> None:
        self._parted = Parted(model)

    def distance(self, input_ids: Tensor, real: Tensor, row: Tensor | None) -> Distance:
        """See `Teacher`."""
        del row
        device = next(self._parted.model.parameters()).device
        inputs = {"input_ids": input_ids.to(device)}
        if not bool(real.all()):
            inputs["attention_mask"] = real.to(device, torch.int64)
        with torch.no_grad():
            states = self._parted.states(**inputs)[real.to(device)]  # (T, H)

        def distance(logits: Tensor, place: slice) -> Tensor:
            with torch.no_grad():
                wanted = self._parted.logits(states[place]).to(logits.device)
            return forward_kl(logits, wanted)

        return distance
