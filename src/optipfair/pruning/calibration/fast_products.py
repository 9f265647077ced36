"""Products of float32 layers in bfloat16, where the processor has units for them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from ...arch.fast_dtype import faster_in_bfloat16
from ...arch.view import ModelView


def fast_products(view: ModelView) -> AbstractContextManager[object]:
    """Inside the block a float32 model's matrices are multiplied in bfloat16, if that is faster.

    Sums and what flows from layer to layer stay in float32.
    """
    fast = faster_in_bfloat16(view)
    return torch.autocast("cpu", torch.bfloat16) if fast else nullcontext()
