"""How many bytes a model takes: its weights, its cache, the most that a run needed.

Nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...memory import stated_bytes

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"  # proc(5): the peak resident set starts again from the present one

ON_DEVICE = "most allocated on the device"
PEAK = "peak resident set of the process"
AFTER = "resident set of the process after the run"
UNKNOWN = "not known on this system"
WITHOUT_OTHER = ", less the other model's weights"


def weight_bytes(model: nn.Module) -> int:
    """What parameters and buffers take, tied ones once."""
    return sum(_weights(model).values())


def cache_bytes(cache: object) -> int | None:
    """What the tensors of a cache take: keys and values, states of recurrent layers.

    Any cache is searched, whatever its class: its attributes, lists and dicts. What several layers
    share counts once, counters (single integers) not at all. None where nothing is found.
    """
    sizes = _sizes(t for t in _tensors(cache) if t.numel() > 1 or t.is_floating_point())
    return sum(sizes.values()) if sizes else None


def devices_of(model: nn.Module) -> list[torch.device]:
    """The accelerators that hold a part of a model; none on a CPU."""
    devices = {tensor.device for tensor in model.parameters()}
    return sorted((d for d in devices if d.type not in ("cpu", "meta")), key=str)


@dataclass(frozen=True)
class MemoryMeter:
    """The most memory that is in use between `start` and `read`.

    On an accelerator what torch has allocated on all of the model's devices. On a CPU the resident
    set of the whole process, whose peak Linux forgets when asked to (so `ru_maxrss` starts again
    too); where that is not allowed, the resident set after the run.
    """

    kind: str  # which of these, in words
    devices: list[torch.device]  # of the model
    other: int = 0  # bytes of the other model's weights: in memory too, they are taken off

    def start(self) -> None:
        if self.kind.startswith(PEAK):
            _forget_peak()
        for device in self.devices:
            torch.get_device_module(device).reset_peak_memory_stats(device)

    def read(self) -> int | None:
        """Bytes, None where the system does not say."""
        if self.kind == UNKNOWN:
            return None
        held: int | None
        if self.devices:
            held = sum(
                int(torch.get_device_module(d).max_memory_allocated(d)) for d in self.devices
            )
        else:
            held = stated_bytes(_STATUS, "VmHWM" if self.kind.startswith(PEAK) else "VmRSS")
        return None if held is None else max(held - self.other, 0)


def memory_meter(model: nn.Module, beside: nn.Module | None = None) -> MemoryMeter:
    """A meter for a model, with another one (that may share tensors with it) in memory too."""
    devices = devices_of(model)
    kind = _kind(devices)
    if kind == UNKNOWN:
        return MemoryMeter(kind, [])
    if beside is None or beside is model:
        return MemoryMeter(kind, devices)
    own = _weights(model)
    other = sum(size for key, size in _weights(beside).items() if key not in own)
    return MemoryMeter(kind + WITHOUT_OTHER, devices, other)


def _kind(devices: list[torch.device]) -> str:
    if devices:
        known = all(hasattr(torch.get_device_module(d), "reset_peak_memory_stats") for d in devices)
        return ON_DEVICE if known else UNKNOWN
    if stated_bytes(_STATUS, "VmRSS") is None:
        return UNKNOWN
    return PEAK if stated_bytes(_STATUS, "VmHWM") is not None and _forget_peak() else AFTER


def _forget_peak() -> bool:
    with suppress(OSError):
        _CLEAR.write_text(_FORGET_PEAK, encoding="ascii")
        return True
    return False


def _weights(model: nn.Module) -> dict[object, int]:
    return _sizes((*model.parameters(), *model.buffers()))


def _sizes(tensors: Iterable[Tensor]) -> dict[object, int]:
    """The bytes of tensors, by what is the same for two that are the same memory."""
    return {
        id(t) if t.is_meta or not t.numel() else (t.device, t.data_ptr(), t.nbytes): t.nbytes
        for t in tensors
    }


def _tensors(root: object) -> Iterator[Tensor]:
    """All tensors below an object, modules left out."""
    waiting, seen = [root], set[int]()
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, nn.Module | type):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, Mapping):
            waiting.extend(thing.values())
        elif isinstance(thing, list | tuple | set):
            waiting.extend(thing)
        elif hasattr(thing, "__dict__"):
            waiting.extend(vars(thing).values())
