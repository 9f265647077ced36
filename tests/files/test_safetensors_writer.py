"""Safetensors files as they are laid out and written: shards, headers, index, copies."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from optipfair import CheckpointError, VerificationError
from optipfair.files import safetensors_writer as writer
from optipfair.files.safetensors_reader import (
    INDEX_FILE,
    SINGLE_FILE,
    TensorInfo,
    open_checkpoint,
    read_header,
)
from optipfair.files.safetensors_writer import OutputTensor, lay_out, write_shards
from optipfair.loading.quiet import quiet_transformers
from optipfair.testing import tiny_model

NOWHERE = TensorInfo("source", "F32", (0,), Path("nowhere"), 0, 0)


def planned(name: str, nbytes: int, dtype: str = "U8") -> OutputTensor:
    return OutputTensor(name, dtype, (nbytes,), NOWHERE)


def copies(folder: Path) -> list[OutputTensor]:
    """Every tensor of a checkpoint, to be written as it is."""
    found = open_checkpoint(folder).tensors.values()
    return [OutputTensor(info.name, info.dtype, info.shape, info) for info in found]


def total(tensors: Iterable[OutputTensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def write(folder: Path, tensors: list[OutputTensor], max_shard_bytes: int = 10**9) -> Path:
    folder.mkdir()
    write_shards(folder, lay_out(tensors, max_shard_bytes), lambda _: None)
    return folder


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A file with tensors of all element sizes, the narrow ones first."""
    tensors = {
        "flags": torch.tensor([True, False, True]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "half": torch.arange(7.0).bfloat16(),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3.5),
        "single": torch.arange(6.0).view(2, 3),
        "long": torch.arange(3),
        "double": torch.arange(3.0).double(),
    }
    (tmp_path / "mixed").mkdir()
    save_file(tensors, tmp_path / "mixed" / SINGLE_FILE)
    return tmp_path / "mixed"


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ([4, 4, 4], 12, [["0", "1", "2"]]),
        ([4, 4, 4], 11, [["0", "1"], ["2"]]),
        ([4, 4, 4], 4, [["0"], ["1"], ["2"]]),
        ([2, 9, 2, 2], 5, [["0"], ["1"], ["2", "3"]]),  # one is larger than a shard
        ([9], 5, [["0"]]),
        ([0, 5, 0], 5, [["0", "1", "2"]]),
    ],
)
def test_shards_are_filled_in_order(
    sizes: list[int], limit: int, expected: list[list[str]]
) -> None:
    tensors = [planned(str(number), size) for number, size in enumerate(sizes)]
    shards = lay_out(tensors, limit)
    assert [[tensor.name for tensor in shard.tensors] for shard in shards] == expected
    names = [f"model-0000{i}-of-0000{len(shards)}.safetensors" for i in range(1, len(shards) + 1)]
    assert [shard.file for shard in shards] == (names if len(shards) > 1 else [SINGLE_FILE])


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 100))
def test_no_shard_is_too_large_or_needless(sizes: list[int], limit: int) -> None:
    tensors = [planned(str(number), size) for number, size in enumerate(sizes)]
    groups = [shard.tensors for shard in lay_out(tensors, limit)]
    assert [tensor for group in groups for tensor in group] == tensors
    for group in groups:
        assert total(group) <= limit or len(group) == 1
    for group, after in itertools.pairwise(groups):
        assert total([*group, after[0]]) > limit, "the next one would have had room"


@pytest.mark.parametrize("names", [["a"], ["a" * n for n in range(1, 9)], ["ü", "层"]])
def test_headers_end_at_multiples_of_eight(tmp_path: Path, names: list[str]) -> None:
    save_file({name: torch.ones(3) for name in names}, tmp_path / SINGLE_FILE)
    for number in range(1, len(names) + 1):
        (shard,) = lay_out(copies(tmp_path)[:number], 10**9)
        length = int.from_bytes(shard.header[:8], "little")
        assert len(shard.header) == 8 + length and length % 8 == 0
        assert shard.nbytes == len(shard.header) + 12 * number


def test_wide_elements_come_first_so_that_all_are_aligned(mixed: Path, tmp_path: Path) -> None:
    out = write(tmp_path / "out", copies(mixed))
    for info in read_header(out / SINGLE_FILE).values():
        width = {"BOOL": 1, "U8": 1, "BF16": 2, "F32": 4, "I64": 8, "F64": 8}[info.dtype]
        assert info.start % width == 0, info.name
    before, after = loaded(mixed), loaded(out)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype and torch.equal(after[name], tensor)


@pytest.mark.parametrize("limit", [10**9, 5000, 1])
def test_a_copied_checkpoint_is_loaded_by_transformers(
    llama_folder: Path, tmp_path: Path, limit: int
) -> None:
    from transformers import AutoModelForCausalLM

    out = write(tmp_path / "out", copies(llama_folder), limit)
    (out / "config.json").write_bytes((llama_folder / "config.json").read_bytes())
    assert (out / INDEX_FILE).is_file() == (limit < 10**9)
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    expected = tiny_model("llama").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_the_index_is_the_one_that_transformers_writes(tmp_path: Path) -> None:
    with quiet_transformers():
        tiny_model("llama").save_pretrained(tmp_path / "theirs", max_shard_size=9000)
    out = write(tmp_path / "out", copies(tmp_path / "theirs"), 9000)
    mine, theirs = (json.loads((f / INDEX_FILE).read_text()) for f in (out, tmp_path / "theirs"))
    assert mine.keys() == theirs.keys()
    assert mine["metadata"] == theirs["metadata"]
    assert list(mine["weight_map"]) == list(theirs["weight_map"])
    for folder, index in ((out, mine), (tmp_path / "theirs", theirs)):
        files = {name: info.file.name for name, info in open_checkpoint(folder).tensors.items()}
        assert index["weight_map"] == files
        assert {path.name for path in folder.glob("*.safetensors")} == set(files.values())


def test_all_bytes_are_reported(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    seen: list[int] = []
    write_shards(tmp_path / "out", lay_out(copies(mixed), 20), seen.append)
    assert sum(seen) == open_checkpoint(mixed).nbytes


def test_files_may_be_read_by_whoever_may_read_other_new_files(mixed: Path, tmp_path: Path) -> None:
    out = write(tmp_path / "out", copies(mixed))
    (tmp_path / "other").touch()
    assert (out / SINGLE_FILE).stat().st_mode == (tmp_path / "other").stat().st_mode


def failing(code: int) -> Callable[..., int]:
    def copy_file_range(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    return copy_file_range


@pytest.mark.parametrize("name", ["EXDEV", "ENOSYS", "EINVAL", "EOPNOTSUPP", "EPERM"])
def test_what_the_kernel_does_not_copy_goes_through_a_buffer(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(os, "copy_file_range", failing(getattr(errno, name)), raising=False)
    out = write(tmp_path / "out", copies(mixed))
    after = loaded(out)
    assert all(torch.equal(after[name], tensor) for name, tensor in loaded(mixed).items())


def test_so_it_does_when_the_kernel_copies_nothing_or_not_everything(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = os.copy_file_range
    calls = itertools.count()

    def reluctant(read: int, file: int, size: int, start: int, position: int) -> int:
        if next(calls) % 2:
            return 0
        return copy(read, file, min(size, 3), start, position)

    monkeypatch.setattr(os, "copy_file_range", reluctant)
    out = write(tmp_path / "out", copies(mixed))
    after = loaded(out)
    assert all(torch.equal(after[name], tensor) for name, tensor in loaded(mixed).items())


def test_without_such_a_call_in_the_system_it_works(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    write(tmp_path / "out", copies(mixed), 20)
    assert loaded(tmp_path / "out").keys() == loaded(mixed).keys()


def test_a_disk_that_fails_is_an_os_error(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", failing(errno.EIO), raising=False)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write(tmp_path / "out", copies(mixed))


def test_a_disk_that_is_too_small_is_found_before_the_first_tensor(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC), raising=False)
    monkeypatch.setattr(writer, "_write_tensor", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write(tmp_path / "out", copies(mixed))


@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_source_that_has_become_shorter_is_noticed(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_kernel: bool
) -> None:
    if not in_kernel:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    tensors = copies(mixed)
    with (mixed / SINGLE_FILE).open("rb+") as file:
        file.truncate((mixed / SINGLE_FILE).stat().st_size - 1)
    with pytest.raises(CheckpointError, match="it ends before byte"):
        write(tmp_path / "out", tensors)


def test_a_copy_that_differs_is_noticed(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = writer._copy

    def flip_one(file: int, position: int, source: TensorInfo, report: Any) -> None:
        copy(file, position, source, report)
        if source.name == "half":
            byte = os.pread(file, 1, position + 3)[0]
            os.pwrite(file, bytes([byte ^ 1]), position + 3)

    monkeypatch.setattr(writer, "_copy", flip_one)
    with pytest.raises(VerificationError, match="half was not written as it was read"):
        write(tmp_path / "out", copies(mixed))


@pytest.mark.parametrize("place", [0, 1, 1000, -1])
def test_a_difference_anywhere_in_a_large_tensor_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """The comparison goes in chunks; here of 16 bytes, with a rest."""
    monkeypatch.setattr(writer, "_COMPARE_BYTES", 16)
    (tmp_path / "in").mkdir()
    save_file({"x": torch.arange(1003, dtype=torch.uint8)}, tmp_path / "in" / SINGLE_FILE)
    (tensor,) = copies(tmp_path / "in")
    write(tmp_path / "equal", [tensor])
    copy = writer._copy

    def flip_one(file: int, position: int, source: TensorInfo, report: Any) -> None:
        copy(file, position, source, report)
        os.pwrite(file, b"\xff", position + place % 1003)

    monkeypatch.setattr(writer, "_copy", flip_one)
    with pytest.raises(VerificationError):
        write(tmp_path / "out", [tensor])
