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
    known = stated_bytes(_MEMINFO, "MemAvailable"), _below_limit()
    return min((free for free in known if free is not None), default=None)


def stated_bytes(file: Path, field: str) -> int | None:
    """What a file below /proc says of a field, in kB there; None where it does not."""
    with suppress(OSError, ValueError):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None


def _below_limit() -> int | None:
    """What the process's group may still take; what it has of files' pages counts as taken."""
    with suppress(OSError, ValueError):  # no such group, or no limit ("max")
        limit = int(_LIMIT.read_text(encoding="utf-8"))
        return max(limit - int(_USED.read_text(encoding="utf-8")), 0)
    return None
