"""A student whose own forward gives its loss, so that whatever wraps it sees one forward.

Axes: `B` batch, `S` sequence, `T` real tokens of a batch, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..hooks import running_instead
from .by_chunks import Parted, summed
from .objectives import cross_entropy, pulled
from .teachers import Teacher


@contextmanager
def learning(model: Any, teacher: Teacher) -> Iterator[None]:
    """Inside the block the model's forward takes a batch and gives `{"loss": mean over tokens}`.

    The loss is the distance from the teacher. A `pull` that is given with a batch weighs the
    cross-entropy with the next tokens of the text, whose gradient is added. Without gradients the
    forward gives this cross-entropy too, as `labels`: a mean over the tokens that have a next one.
    """
    parted = Parted(model)
    vocabulary = int(model.config.get_text_config().vocab_size)

    def forward(
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        row: Tensor | None = None,
        pull: float = 0.0,
        **_: Any,
    ) -> dict[str, Tensor]:
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        real = real.bool()
        distance = teacher.distance(input_ids, real, row)
        inputs = {"input_ids": input_ids}
        if attention_mask is not None and not bool(real.all()):
            inputs["attention_mask"] = attention_mask
        states = parted.states(**inputs)[real]  # (T, H)
        following, counted = _following(input_ids, real)
        learns = torch.is_grad_enabled()

        def loss(chunk: Tensor, place: slice) -> Tensor:
            logits = parted.logits(chunk)
            found = distance(logits, place)
            if learns and not pull:
                return found.sum()
            own = cross_entropy(logits, following[place]) * counted[place]
            if learns:
                return pulled(found, own, pull).sum()
            return torch.stack([found.sum(), own.sum()])

        total = summed(loss, states, vocabulary, parted.of_head()) / len(states)
        return {"loss": total} if learns else {"loss": total[0], "labels": total[1]}

    with running_instead({model: forward}):
        yield


def _following(input_ids: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Of each real token of (B, S) the next one, (T,), and what it counts: 0 where there is none.

    The others count alike, so that a mean over all tokens is one over them.
    """
    known = torch.zeros_like(real)
    known[:, :-1] = real[:, :-1] & real[:, 1:]
    counted = known[real].float()
    return input_ids.roll(-1, dims=1)[real], counted / counted.mean().clamp_min(1e-9)
