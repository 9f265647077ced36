"""A student whose own forward gives its loss, so that whatever wraps it sees one forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .by_chunks import Parted, summed
from .teachers import Teacher


@contextmanager
def learning(model: Any, teacher: Teacher) -> Iterator[None]:
    """Inside the block the model's forward takes a batch and gives `{"loss": mean over tokens}`."""
    parted = Parted(model)
    vocabulary = int(model.config.get_text_config().vocab_size)

    def forward(
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        row: Tensor | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        real = real.bool()
        distance = teacher.distance(input_ids, real, row)
        inputs = {"input_ids": input_ids}
        if attention_mask is not None and not bool(real.all()):
            inputs["attention_mask"] = attention_mask
        states = parted.states(**inputs)[real]  # (T, H)

        def loss(chunk: Tensor, place: slice) -> Tensor:
            return distance(parted.logits(chunk), place).sum()

        return {"loss": summed(loss, states, vocabulary, parted.of_head()) / len(states)}

    before = vars(model).get("forward")
    model.forward = forward
    try:
        yield
    finally:
        del model.forward
        if before is not None:
            model.forward = before
