"""How much memory is free, as far as the system says."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_LIMIT = Path("/sys/fs/cgroup/memory.max")
_USED = Path("/sys/fs/cgroup/memory.current")


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a device, None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    known = [free for free in (_available(), _below_limit()) if free is not None]
    return min(known, default=None)


def _available() -> int | None:
    with suppress(OSError, ValueError):
        for line in _MEMINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _below_limit() -> int | None:
    """What the process's group may still take; what it has of files' pages counts as taken."""
    with suppress(OSError, ValueError):  # no such group, or no limit ("max")
        limit = int(_LIMIT.read_text(encoding="utf-8"))
        return max(limit - int(_USED.read_text(encoding="utf-8")), 0)
    return None
