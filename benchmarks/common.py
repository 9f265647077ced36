"""What several benchmarks share."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def timed(function: Callable[[], object], device: str) -> float:
    """Seconds that a call takes, what it queued on the device included."""
    synchronize(device)
    started = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize(device)
