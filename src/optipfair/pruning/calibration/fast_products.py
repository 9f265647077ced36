"""Products of float32 layers in bfloat16, where the processor has units for them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from ...arch.view import ModelView

_UNITS = ("amx_bf16", "avx512_bf16")  # as torch names them
_LEAST_HIDDEN = 256  # of smaller models products take no time


def fast_products(view: ModelView) -> AbstractContextManager[object]:
    """Inside the block a float32 model's matrices are multiplied in bfloat16, if that is faster.

    Sums and what flows from layer to layer stay in float32. It is done on a CPU with units for
    bfloat16, for dense models.
    """
    weight = next(iter(view.model.parameters()))
    served = (
        weight.dtype == torch.float32
        and weight.device.type in ("cpu", "meta")  # of a stored model's twin
        and view.text_config.hidden_size >= _LEAST_HIDDEN
        and not any(mlp.experts for mlp in view.mlps)
        and has_units()
    )
    return torch.autocast("cpu", torch.bfloat16) if served else nullcontext()


@cache
def has_units() -> bool:
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(name) for name in _UNITS)
