"""Sources that become a folder of safetensors first: what a killed run leaves of it is cleared."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import PruningWarning, load_model, prune_checkpoint
from optipfair.pipeline import converted
from optipfair.testing import tiny_model
from support import gguf_files
from support.disks import largest_file
from support.gguf_files import gguf_toy
from support.nursery import Nursery


def die_converted(source: Path, output: Path, **options: Any) -> None:
    """Prune, and be killed once the source is converted."""
    convert = converted._convert_gguf

    def dying(*arguments: Any) -> None:
        convert(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    converted._convert_gguf = dying
    prune_checkpoint(source, output, **options)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["out", "new/folder/out"])
def test_a_conversion_that_was_killed_is_cleared_by_the_next(
    nursery: Nursery, tmp_path: Path, output: str
) -> None:
    gguf_toy(tmp_path / "toy.gguf", "llama")
    assert nursery.run(die_converted, tmp_path / "toy.gguf", tmp_path / output) == -signal.SIGKILL
    (left,) = tmp_path.glob(".optipfair-*")
    assert (left / "owner.json").is_file() and (left / "model" / "config.json").is_file()
    prune_checkpoint(tmp_path / "toy.gguf", tmp_path / "another")
    assert list(tmp_path.glob(".optipfair-*")) == []
    load_model(tmp_path / "another")


@pytest.mark.slow
def test_conversions_at_once_leave_each_other_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf_toy(tmp_path / "toy.gguf", "llama")
    convert, outputs = converted._convert_gguf, ["b"]

    def twice(*arguments: Any) -> None:
        convert(*arguments)
        if outputs:
            prune_checkpoint(tmp_path / "toy.gguf", tmp_path / outputs.pop())

    monkeypatch.setattr(converted, "_convert_gguf", twice)
    prune_checkpoint(tmp_path / "toy.gguf", tmp_path / "a")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b", "toy.gguf"]


def test_a_tokenizer_that_cannot_be_read_is_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add_unknown(writer: Any, size: int) -> None:
        writer.add_tokenizer_model("of another kind")
        writer.add_token_list(["x"] * size)

    monkeypatch.setattr(gguf_files, "_add_tokenizer", add_unknown)
    gguf_toy(tmp_path / "toy.gguf", "llama")
    with pytest.warns(PruningWarning, match="No tokenizer is written.*'of another kind'"):
        result = prune_checkpoint(tmp_path / "toy.gguf", tmp_path / "out")
    assert not result.has_tokenizer
    load_model(tmp_path / "out")


@pytest.mark.parametrize("kind", ["gguf", "pickled"])
def test_a_disk_without_room_for_the_conversion_is_an_os_error(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "toy.gguf"
    if kind == "gguf":
        gguf_toy(source, "llama")
    else:
        source = tmp_path / "toy"
        model = tiny_model("llama")
        model.config.save_pretrained(source)
        torch.save(model.state_dict(), source / "pytorch_model.bin")
    with largest_file(20_000), pytest.raises(OSError, match="File too large"):
        prune_checkpoint(source, tmp_path / "out")
    assert [*tmp_path.iterdir()] == [source]
