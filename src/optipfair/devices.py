"""Devices and dtypes as users name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checking import DTYPES
from .errors import ArgumentError, UnknownNameError
from .registry import unknown_name

if TYPE_CHECKING:
    import torch


def check_device(device: str) -> torch.device:
    """Return the device; `auto` takes an accelerator if there is one."""
    import torch

    available = available_devices()
    if device == "auto":
        return torch.device(available[-1] if len(available) == 1 else available[1])
    named = str(device) if isinstance(device, str | torch.device) else None
    if named not in {*available, *(name.split(":")[0] for name in available)}:
        raise ArgumentError(
            f"The device {device!r} is not available. This machine has: {', '.join(available)} "
            "(or auto)."
        )
    return torch.device(named)


def available_devices() -> list[str]:
    """`cpu` and every accelerator that torch sees."""
    import torch

    devices = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        devices.append("mps")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        devices += [f"xpu:{number}" for number in range(torch.xpu.device_count())]
    return devices


def check_dtype(dtype: str) -> Any:
    """Return the torch dtype, or `auto` as it is."""
    import torch

    if dtype not in DTYPES:
        raise UnknownNameError(unknown_name("dtype", dtype, list(DTYPES)))
    return dtype if dtype == "auto" else getattr(torch, dtype)
