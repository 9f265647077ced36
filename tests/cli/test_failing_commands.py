"""A run that fails or is interrupted on the way: one line, its exit code, and nothing left."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from optipfair import apply_plan
from optipfair.checkpoint.stored_layers import NeedsModelError
from optipfair.files import safetensors_writer as writer
from optipfair.files.safetensors_reader import open_checkpoint
from optipfair.pipeline import run as running
from support.interrupts import interrupt

Run = Callable[..., tuple[int, str, str]]
Untouched = Callable[[Path], AbstractContextManager[None]]


def failing_with(error: BaseException) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize(
    ("fail", "code", "match"),
    [
        (interrupt, 130, "Interrupted"),
        (failing_with(OSError(28, "No space left on device")), 1, "No space left on device"),
        (failing_with(MemoryError()), 1, "Out of memory"),
        (failing_with(RuntimeError("a\nb")), 1, "RuntimeError: a b"),
    ],
)
@pytest.mark.parametrize("place", ["_write_shard", "_check_and_flush"])  # the latter in a thread
def test_a_failure_is_one_line_with_its_exit_code_and_leaves_nothing(
    run: Run,
    llama_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    untouched: Untouched,
    fail: Callable[..., None],
    code: int,
    match: str,
    place: str,
) -> None:
    monkeypatch.setattr(writer, place, fail)
    output = llama_copy.parent / "new" / "out"
    with untouched(llama_copy.parent):
        found, out, err = run("prune", "--model-path", llama_copy, "--output-path", output)
    assert (found, out) == (code, "")
    assert re.fullmatch(rf"\n?Error: .*{match}.*\n", err)


def test_a_failed_verification_is_exit_code_1_and_leaves_nothing(
    run: Run, llama_copy: Path, monkeypatch: pytest.MonkeyPatch, untouched: Untouched
) -> None:
    write = running.write_checkpoint

    def write_and_damage(stored: Any, new: Any, folder: Path, **options: Any) -> None:
        write(stored, new, folder, **options)
        for info in open_checkpoint(folder).tensors.values():
            content = info.file.read_bytes()
            info.file.write_bytes(content[: info.start] + b"\0" * (len(content) - info.start))

    monkeypatch.setattr(running, "write_checkpoint", write_and_damage)
    output = llama_copy.parent / "out"
    with untouched(llama_copy.parent):
        code, out, err = run("prune", "--model-path", llama_copy, "--output-path", output)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Error: .*is not as planned: model\.layers.*Nothing was kept.*\n", err)


@pytest.fixture
def loading(llama_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose files are not enough to decide, so that it must be loaded."""

    def fail(*_: Any, **__: Any) -> None:
        raise NeedsModelError("the test says so")

    monkeypatch.setattr("optipfair.pipeline.run.decide_stored", fail)
    return llama_copy


def test_that_a_model_must_be_loaded_is_said_on_standard_error(loading: Path, run: Run) -> None:
    command = ["prune", "--model-path", loading, "--pruning-percentage", "20", "--output-path"]
    code, out, err = run(*command, loading.parent / "out")
    assert (code, err) == (0, "The model is loaded into memory: the test says so.\n")
    assert "Reloaded: logits differ by 0 at most." in out
    assert run(*command, loading.parent / "quiet", "--quiet") == (0, "", "")


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize(
    ("fail", "code", "match"),
    [
        (interrupt, 130, "Interrupted"),
        (failing_with(OSError(28, "No space left on device")), 1, "No space left on device"),
    ],
)
def test_a_failure_after_loading_is_one_line_too(
    loading: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    untouched: Untouched,
    fail: Callable[..., None],
    code: int,
    match: str,
) -> None:
    monkeypatch.setattr(writer, "_write_shard", fail)
    command = ["prune", "--model-path", loading, "--pruning-percentage", "20", "--output-path"]
    with untouched(loading.parent):
        found, out, err = run(*command, loading.parent / "new" / "out")
    assert (found, out) == (code, "")
    assert re.fullmatch(rf"The model is loaded.*\n\n?Error: .*{match}.*\n", err)


def test_a_loaded_model_that_reloads_differently_is_exit_code_1_and_leaves_nothing(
    loading: Path, run: Run, monkeypatch: pytest.MonkeyPatch, untouched: Untouched
) -> None:
    def apply_and_drift(model: Any, *plan: Any) -> Any:
        pruned = apply_plan(model, *plan)
        pruned.lm_head.weight.data += 1
        return pruned

    monkeypatch.setattr(running, "apply_plan", apply_and_drift)
    command = ["prune", "--model-path", loading, "--pruning-percentage", "20", "--output-path"]
    with untouched(loading.parent):
        code, out, err = run(*command, loading.parent / "out")
    assert (code, out) == (1, "")
    assert re.search(r"\nError: .*logits differ.*Nothing was written.*\n$", err)
