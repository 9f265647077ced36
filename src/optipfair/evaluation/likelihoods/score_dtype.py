"""In which dtype a model's matrices are multiplied while it is scored.

The head, which makes logits of hidden states, is not concerned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...arch.fast_dtype import faster_in_bfloat16
from ...arch.view import describe
from ...errors import UnsupportedModelError
from ...hooks import running_instead
from ...memory import free_bytes
from ..evaluate_options import AS_LOADED, FAST


def scored_in(model: Any, products: str = FAST) -> torch.dtype:
    """The dtype of its products: bfloat16 for float32 where that is faster, else its weights'.

    `products` is what `EvaluateOptions.score_products` says. It follows from that, the model and
    the processor, so every later run on the same machine has the same.
    """
    own: torch.dtype = model.get_input_embeddings().weight.dtype
    if products == AS_LOADED or own != torch.float32:
        return own
    try:
        return torch.bfloat16 if faster_in_bfloat16(describe(model)) else own
    except UnsupportedModelError:
        return own


@contextmanager
def multiplying(model: Any, dtype: torch.dtype, beside: Sequence[Any] = ()) -> Iterator[None]:
    """Inside the block a model's products are in a dtype; sums between layers stay in its own.

    So do logits: in bfloat16 those of 16 to 32 have steps of 1/8, which a head in float32 spares.
    Weights are rounded once where there is room for them (with those of all that run `beside`),
    else each time, which changes no bit.
    """
    fast = dtype != model.get_input_embeddings().weight.dtype
    size = sum(each.num_parameters() for each in {model, *beside}) * torch.bfloat16.itemsize
    free = free_bytes(torch.device("cpu"))
    room = free is None or 2 * size < free
    head = model.get_output_embeddings()
    own = {head: _plain(head)} if fast and head is not None else {}
    with (
        running_instead(own),
        torch.autocast("cpu", torch.bfloat16, enabled=fast, cache_enabled=room),
    ):
        yield


def _plain(module: torch.nn.Module) -> Callable[[Tensor], Tensor]:
    """What a module computes, outside autocast and in its own dtype."""
    forward = module.forward

    def plain(hidden: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            found: Tensor = forward(hidden.to(next(module.parameters()).dtype))
            return found

    return plain


def in_words(dtypes: Sequence[torch.dtype]) -> str:
    """The dtypes of one model or two: `bfloat16`, or `float32, bfloat16` where they differ."""
    return ", ".join(dict.fromkeys(str(each).removeprefix("torch.") for each in dtypes))
