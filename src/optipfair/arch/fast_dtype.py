"""Whether products are faster in bfloat16: what the processor has, and what the model is."""

from __future__ import annotations

from functools import cache

import torch

from .view import ModelView

_UNITS = ("amx_bf16", "avx512_bf16")  # as torch names them
_LEAST_HIDDEN = 256  # of smaller models products take no time


@cache
def has_units() -> bool:
    """Whether the processor multiplies bfloat16 by itself."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(name) for name in _UNITS)


def faster_in_bfloat16(view: ModelView) -> bool:
    """On a CPU with units for it, for dense float32 models."""
    weight = next(iter(view.model.parameters()))
    return (
        weight.dtype == torch.float32
        and weight.device.type in ("cpu", "meta")  # of a stored model's twin
        and view.text_config.hidden_size >= _LEAST_HIDDEN
        and not any(mlp.experts for mlp in view.mlps)
        and has_units()
    )
