"""Safetensors files: laid out in shards, written by several hands, flushed to disk.

It knows bytes, names and shapes, nothing of models. What does not change is copied by the kernel
from file to file; what is cut passes through small buffers.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import VerificationError
from .safetensors_reader import DTYPE_BITS, INDEX_FILE, SINGLE_FILE, TensorInfo, read_into

COPY_BYTES = 32 * 2**20
_COMPARE_BYTES = 2 * 2**20
_WRITERS = 3  # more than this machine's cores: one is often waiting for the disk
_FLUSH_BYTES = 256 * 2**20
_NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)

Report = Callable[[int], None]
Chunks = Callable[[], Iterator[memoryview]]


@dataclass(frozen=True)
class OutputTensor:
    """A tensor to write."""

    name: str  # in the new checkpoint
    dtype: str  # its safetensors name, `BF16`
    shape: tuple[int, ...]  # of the result
    source: TensorInfo  # the tensor that it is made of
    chunks: Chunks | None = None  # gives its bytes in order; None where they are the source's

    @property
    def nbytes(self) -> int:
        return -(-math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8)


@dataclass(frozen=True)
class Shard:
    """One file: its name, its header with the length before it, and its tensors in order."""

    file: str
    header: bytes
    tensors: tuple[OutputTensor, ...]

    @property
    def nbytes(self) -> int:
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


def lay_out(tensors: Sequence[OutputTensor], max_shard_bytes: int) -> list[Shard]:
    """Fill shards in the order of the tensors; one that is larger than a shard has its own."""
    groups: list[list[OutputTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.nbytes > max_shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.nbytes
    if len(groups) == 1:
        return [_shard(SINGLE_FILE, groups[0])]
    return [
        _shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", group)
        for number, group in enumerate(groups, 1)
    ]


def _shard(file: str, group: Sequence[OutputTensor]) -> Shard:
    # Wide elements first, so that every tensor begins at a multiple of its element's size.
    tensors = tuple(sorted(group, key=lambda tensor: -DTYPE_BITS[tensor.dtype]))
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.nbytes],
        }
        position += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return Shard(file, len(text).to_bytes(8, "little") + text, tensors)


def write_shards(folder: Path, shards: Sequence[Shard], report: Report) -> None:
    """Write all files and the index into a folder that exists, and flush them to disk."""
    with ThreadPoolExecutor(_WRITERS) as writers, ThreadPoolExecutor(1) as flusher:
        flushed: list[Future[None]] = []
        try:
            for shard in shards:
                path = folder / shard.file
                _write_shard(path, shard, writers, flusher, report)
                flushed.append(flusher.submit(_check_and_flush, path, shard))
            for each in flushed:
                each.result()
        except BaseException:
            writers.shutdown(cancel_futures=True)
            flusher.shutdown(cancel_futures=True)
            raise
    if len(shards) > 1:
        _write_index(folder / INDEX_FILE, shards)


def _write_shard(
    path: Path,
    shard: Shard,
    writers: ThreadPoolExecutor,
    flusher: ThreadPoolExecutor,
    report: Report,
) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _reserve(file, shard.nbytes)
        os.pwrite(file, shard.header, 0)
        position = len(shard.header)
        pending = []
        for tensor in shard.tensors:
            pending.append(writers.submit(_write_tensor, file, position, tensor, report))
            position += tensor.nbytes
        try:
            unflushed = 0
            for tensor, each in zip(shard.tensors, pending, strict=True):
                each.result()
                unflushed += tensor.nbytes
                if unflushed > _FLUSH_BYTES:  # the disk works while the rest is written
                    flusher.submit(_flush, path)
                    unflushed = 0
        finally:
            for each in pending:
                each.cancel()
            for each in pending:  # none may write on after the file is closed
                with suppress(BaseException):
                    each.exception()
    finally:
        os.close(file)


def _reserve(file: int, size: int) -> None:
    """Claim the space first: a disk that is too small is found before the work."""
    try:
        os.posix_fallocate(file, 0, size)
    except (AttributeError, OSError) as exc:
        if getattr(exc, "errno", errno.ENOSYS) not in (
            errno.EOPNOTSUPP,
            errno.EINVAL,
            errno.ENOSYS,
        ):
            raise
        os.ftruncate(file, size)


def _write_tensor(file: int, position: int, tensor: OutputTensor, report: Report) -> None:
    if tensor.chunks is None:
        _copy(file, position, tensor.source, report)
        return
    for chunk in tensor.chunks():
        _write_at(file, position, chunk)
        position += chunk.nbytes
        report(chunk.nbytes)


def _write_at(file: int, position: int, data: memoryview) -> None:
    if not data.nbytes:
        return
    left = data.cast("B")  # bytes, whatever the shape: a write may stop anywhere
    while left:
        done = os.pwrite(file, left, position)
        left, position = left[done:], position + done


def _copy(file: int, position: int, source: TensorInfo, report: Report) -> None:
    """Copy a tensor's bytes inside the kernel, or through a buffer where that is not possible."""
    with source.file.open("rb", buffering=0) as read:
        start, left = source.start, source.nbytes
        in_kernel = hasattr(os, "copy_file_range")
        while left:
            size = min(left, COPY_BYTES)
            if in_kernel:
                try:
                    done = os.copy_file_range(read.fileno(), file, size, start, position)
                except OSError as exc:
                    if exc.errno not in _NO_KERNEL_COPY:
                        raise
                    in_kernel = False
                    continue
                if done == 0:
                    in_kernel = False  # some file systems say so; a short file fails below
                    continue
            else:
                done = min(left, COPY_BYTES // 4)
                buffer = memoryview(bytearray(done))
                read_into(source.file, start, buffer)
                _write_at(file, position, buffer)
            start, position, left = start + done, position + done, left - done
            report(done)


def _check_and_flush(path: Path, shard: Shard) -> None:
    """Compare what was copied with its source, then bring the file to the disk."""
    position = len(shard.header)
    buffers = (bytearray(_COMPARE_BYTES), bytearray(_COMPARE_BYTES))
    for tensor in shard.tensors:
        if tensor.chunks is None:
            _compare(path, position, tensor, buffers)
        position += tensor.nbytes
    _flush(path)


def _flush(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())


def _compare(
    path: Path, position: int, tensor: OutputTensor, buffers: tuple[bytearray, bytearray]
) -> None:
    for start in range(0, tensor.nbytes, _COMPARE_BYTES):
        size = min(_COMPARE_BYTES, tensor.nbytes - start)
        read_into(tensor.source.file, tensor.source.start + start, memoryview(buffers[0])[:size])
        read_into(path, position + start, memoryview(buffers[1])[:size])
        # What lies behind `size` in both is from the chunk before, which was equal.
        if buffers[0] != buffers[1]:
            raise VerificationError(
                f"{tensor.name} was not written as it was read. The disk may be failing; nothing "
                "was kept."
            )


def _write_index(path: Path, shards: Sequence[Shard]) -> None:
    tensors = [(tensor, shard.file) for shard in shards for tensor in shard.tensors]
    index = {
        "metadata": {
            "total_parameters": sum(math.prod(tensor.shape) for tensor, _ in tensors),
            "total_size": sum(tensor.nbytes for tensor, _ in tensors),
        },
        "weight_map": {tensor.name: file for tensor, file in tensors},
    }
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
