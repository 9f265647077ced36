"""One run in several processes, which torchrun or `accelerate launch` has started.

Each process works on its share; sums are taken over all, and what is decided is the same in each,
bit for bit. In a single process everything here does nothing, and torch is not loaded. Processes
that are only launched, without a process group, are single ones: `launched` starts the group for
the command line, a script does it through accelerate or `torch.distributed`.

A process that fails inside `together`, `divided` or `in_first` makes the others fail too, so that
none waits in vain. One that dies ends the run: the launcher stops the others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ArgumentError, DistributedError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_PATIENCE = timedelta(days=1)  # while one process solves or writes; launchers notice dead ones


def world_size() -> int:
    """How many processes share the work; 1 without a process group."""
    group = _group()
    return 1 if group is None else int(group.get_world_size())


def rank() -> int:
    """The number of this process among them, from 0."""
    group = _group()
    return 0 if group is None else int(group.get_rank())


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


def is_first_here() -> bool:
    """Whether this process is the first of its machine."""
    return world_size() == 1 or int(os.environ.get("LOCAL_RANK", "0")) == 0


def launched_rank() -> int:
    """The number that the launcher gave this process, whether or not a group is started."""
    return int(os.environ["RANK"]) if _is_launched() else 0


def own_device(device: str) -> str:
    """`auto` and `cuda` become this process's own accelerator, another device stays."""
    if device not in ("auto", "cuda") or not _is_launched():
        return device
    import torch

    count = torch.cuda.device_count()
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if count == 0:
        return device
    if number >= count:
        raise ArgumentError(
            f"Process {number} of this machine has no device: there are {count}. Launch at most "
            f"{count} processes on it."
        )
    return f"cuda:{number}"


@contextmanager
def launched(device: str) -> Iterator[None]:
    """Start the process group inside the block if a launcher has started several processes.

    The kind of device that the model will be on decides how they talk.
    """
    state = start(device)
    yield
    if state is not None:
        state.destroy_process_group()  # after an error this could wait for the others


def start(device: str) -> Any:
    """Start the process group if a launcher has started several processes and none is there.

    What was started is returned.
    """
    if not _is_launched() or _group() is not None:
        return None
    try:
        from accelerate import PartialState
    except ImportError as exc:
        raise ArgumentError(
            "Several processes need accelerate. Install it with: pip install accelerate"
        ) from exc
    return PartialState(cpu=device == "cpu", timeout=_PATIENCE)


def sum_(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over all processes."""
    if world_size() == 1:
        return
    import torch

    for tensor in tensors:
        place = _place(tensor)
        moved = tensor.to(place).contiguous()
        torch.distributed.all_reduce(moved)
        if moved is not tensor:
            tensor.copy_(moved)


def copy_from_first(*tensors: Tensor) -> None:
    """Replace each tensor by the first process's."""
    if world_size() == 1:
        return
    import torch

    for tensor in tensors:
        moved = tensor.detach().to(_place(tensor)).contiguous()
        torch.distributed.broadcast(moved, src=0)
        tensor.detach().copy_(moved)


def total(*values: float) -> list[float]:
    """The sum of each number over all processes."""
    if world_size() == 1:
        return list(values)
    import torch

    tensor = torch.tensor(values, dtype=torch.float64)
    sum_(tensor)
    return [float(value) for value in tensor]


def gathered(value: T) -> list[T]:
    """The values of all processes, which must be small."""
    if world_size() == 1:
        return [value]
    import torch

    found: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def from_first(value: T) -> T:
    """The first process's value."""
    return _from(0, value)


@contextmanager
def together() -> Iterator[None]:
    """Leave the block in every process, or fail in every process. Inside, none waits for another.

    Where another process failed it is a `DistributedError`; its own error says why.
    """
    if world_size() == 1:
        yield
        return
    try:
        yield
    except Exception as exc:
        gathered(f"{type(exc).__name__}: {exc}")
        raise
    failed = [(number, text) for number, text in enumerate(gathered("")) if text]
    if failed:
        raise DistributedError("Process {} failed. {}".format(*failed[0]))


def divided(work: Callable[[int], T], count: int) -> list[T]:
    """`[work(0), ..., work(count - 1)]`, each done by one process and known to all.

    What `work` returns is sent, so its tensors should be on the CPU.
    """
    size, own = world_size(), rank()
    with together():
        done = {number: work(number) for number in range(count) if number % size == own}
    for owner in range(min(size, count)) if size > 1 else ():
        done |= _from(owner, done if owner == own else {})
    return [done[number] for number in range(count)]


def in_first(work: Callable[[], T]) -> T:
    """Let the first process do the work, alone; all get what it returns, or fail with it."""
    with together():
        result = work() if is_first() else None
    return from_first(result)  # type: ignore[return-value]


def share(items: Sequence[T]) -> list[T]:
    """Every process's own part of what all of them have."""
    return list(items[rank() :: world_size()])


def is_shared_out(dataloader: object) -> bool:
    """Whether a DataLoader gives each process its own part already."""
    if world_size() == 1:
        return False
    from torch.utils.data.distributed import DistributedSampler

    own = {kind.__name__ for kind in type(dataloader).__mro__}
    sampler = getattr(dataloader, "sampler", None)
    return bool(own & {"DataLoaderShard", "DataLoaderDispatcher"}) or isinstance(
        sampler, DistributedSampler
    )


def _from(owner: int, value: T) -> T:
    if world_size() == 1:
        return value
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=owner)
    return box[0]


def _place(tensor: Tensor) -> Any:
    """The device on which the processes can exchange a tensor."""
    import torch

    if tensor.device.type != "cpu" or "cpu:" in torch.distributed.get_backend_config():
        return tensor.device
    return torch.accelerator.current_accelerator()


def _is_launched() -> bool:
    """Whether a launcher says so; what is no number is no launcher's word."""
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
    stated = {name: os.environ.get(name, "0" if name == "LOCAL_RANK" else "") for name in names}
    numbers = all(text.isdecimal() for text in stated.values())
    return numbers and int(stated["WORLD_SIZE"]) > 1


def _group() -> Any:
    """`torch.distributed` where a process group is there, else None; never loads torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available():
        return None
    return torch.distributed if torch.distributed.is_initialized() else None
