"""Killed, interrupted, out of disk, or not alone: a result is whole or not there."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from optipfair import OutputError, load_model, prune_checkpoint
from optipfair.files.output_folder import new_folder
from optipfair.files.safetensors_reader import open_checkpoint
from optipfair.files.written_files import FILES
from optipfair.testing import tiny_model
from support.disks import small_disk
from support.nursery import INTERRUPTED, Nursery, wait_for_a_signal

Untouched = Callable[[Path], AbstractContextManager[None]]
SHARD_BYTES = 2_000_000  # several files, so that there is an index too


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 11 MB: writing it takes about as long as deciding."""
    folder = tmp_path_factory.mktemp("large") / "model"
    sizes: dict[str, Any] = {"hidden_size": 192, "intermediate_size": 960, "num_hidden_layers": 4}
    tiny_model("llama", **sizes).save_pretrained(folder)
    return folder


def digest(folder: Path) -> str:
    """Of all names and bytes in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"{path.relative_to(folder)}\0".encode())
        found.update(path.read_bytes() if path.is_file() else b"")
    return found.hexdigest()


def prune(model: Path, output: Path, **options: Any) -> None:
    """One run; the command is named, so that the same run writes the same bytes."""
    prune_checkpoint(
        *(model, output, "MLP_GLU", "RANDOM"),
        pruning_percentage=50,
        max_shard_size=SHARD_BYTES,
        command="x",
        **options,
    )


@pytest.fixture(scope="module")
def finished(nursery: Nursery, model: Path, tmp_path_factory: Any) -> tuple[str, float]:
    """What a whole run writes, and how long it takes once the disk's cache is full."""
    output = tmp_path_factory.mktemp("finished") / "out"
    times = []
    for _ in range(4):
        started = time.perf_counter()
        assert nursery.run(prune, model, output, overwrite=True) == 0
        times.append(time.perf_counter() - started)
    return digest(output), min(times)


def shares(count: int) -> list[float]:
    """Seeded moments of a run as shares of its time, from its start to a little after its end."""
    choice = random.Random(0)
    return [choice.uniform(0, 1.1) for _ in range(count)]


WRITING = ".optipfair-*"  # the working folder of a run
ASIDE = ".optipfair-*/old"  # the model that was there, while the new one takes its place


def hidden(folder: Path) -> set[str]:
    """Names of hidden folders that are marked; one that lives for microseconds may be left."""
    found = [path for path in folder.iterdir() if path.name.startswith(".")]
    assert all(path.match(WRITING) for path in found)
    return {path.name for path in found if (path / "owner.json").exists()}


def old_model(output: Path) -> str:
    """Put another model where the output shall be."""
    tiny_model("llama").save_pretrained(output)
    return digest(output)


@pytest.mark.slow
@pytest.mark.parametrize("replacing", [False, True], ids=["a new folder", "an old model's place"])
def test_killed_at_any_moment_it_leaves_all_or_nothing(
    nursery: Nursery, model: Path, tmp_path: Path, finished: tuple[str, float], replacing: bool
) -> None:
    whole, seconds = finished
    output, writing, before = tmp_path / "out", tmp_path / WRITING, digest(model)
    left: set[str] = set()
    killed = 0
    for share in [None, *shares(25)]:  # first as soon as it writes, however long that takes
        when = writing if share is None else share * seconds
        old = old_model(output) if replacing else None
        code = nursery.stopped(
            prune, model, output, overwrite=replacing, when=when, by=signal.SIGKILL
        )
        killed += code == -signal.SIGKILL
        if code == 0 and share is not None:  # the machine was busier when this was measured
            seconds = min(seconds, share * seconds)
        left |= hidden(tmp_path)
        if output.exists():
            assert digest(output) in (whole, old)
        elif replacing:  # between the two renames
            assert [digest(aside) for aside in tmp_path.glob(ASIDE)] == [old]
        assert digest(model) == before
        shutil.rmtree(output, ignore_errors=True)
        for aside in tmp_path.glob(ASIDE):
            shutil.rmtree(aside)
    assert killed > 5 and left, "the moments must lie within the run"
    assert nursery.run(prune, model, output) == 0
    assert hidden(tmp_path) == set()
    assert digest(output) == whole
    assert load_model(output).config.intermediate_size == 480


def die_before_rename(model: Path, output: Path, number: int) -> None:
    """A run that is killed just before its nth rename, or after the last one."""
    rename, remove, done = Path.rename, shutil.rmtree, []

    def counted(path: Path, target: Path) -> Path:
        if len(done) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(path)
        return rename(path, target)

    def removed(path: Path, ignore_errors: bool = False) -> None:
        if len(done) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        remove(path, ignore_errors)

    Path.rename = counted  # type: ignore[method-assign,assignment]
    if number == 2:
        shutil.rmtree = removed  # type: ignore[assignment]
    prune(model, output, overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_killed_between_the_renames_the_old_or_the_new_model_is_whole(
    nursery: Nursery, model: Path, tmp_path: Path, finished: tuple[str, float], number: int
) -> None:
    output = tmp_path / "out"
    old = old_model(output)
    assert nursery.run(die_before_rename, model, output, number) == -signal.SIGKILL
    [place] = tmp_path.glob(ASIDE) if number == 1 else [output]
    assert digest(place) == (finished[0] if number == 2 else old)
    with pytest.raises(ZeroDivisionError), new_folder(output):
        raise ZeroDivisionError  # the next run fails: the one before it is undone all the same
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert digest(output) == (finished[0] if number == 2 else old)
    assert nursery.run(prune, model, output, overwrite=True) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert digest(output) == finished[0]


@pytest.mark.slow
def test_interrupted_at_any_moment_it_leaves_all_or_nothing(
    nursery: Nursery, model: Path, tmp_path: Path, finished: tuple[str, float]
) -> None:
    whole, seconds = finished
    before, codes = digest(model), set()
    output = tmp_path / "new" / "out"
    writing = output.with_name(WRITING)
    for when in (writing, *(share * seconds for share in shares(15))):
        code = nursery.stopped(prune, model, output, when=when, by=signal.SIGINT)
        codes.add(code)
        if output.exists():
            assert digest(output) == whole
            shutil.rmtree(output.parent)
        # Microseconds lie between making a folder and guarding it: an empty one may stay.
        left = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert left == [], f"exit code {code} after {when}"
        shutil.rmtree(output.parent, ignore_errors=True)
        assert digest(model) == before
    assert INTERRUPTED in codes and codes <= {0, INTERRUPTED}


def command_in_background(model: Path, output: Path) -> None:
    from optipfair.cli import main

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a script's `optipfair ... &` is begun
    arguments = ["prune", "--model-path", str(model), "--output-path", str(output), "--quiet"]
    arguments += ["--calibration", "none"]
    raise SystemExit(main(arguments))


@pytest.mark.slow
def test_a_command_in_the_background_is_not_interrupted(
    nursery: Nursery, model: Path, tmp_path: Path
) -> None:
    output, writing = tmp_path / "out", tmp_path / WRITING
    code = nursery.stopped(command_in_background, model, output, when=writing, by=signal.SIGINT)
    assert code == 0
    assert hidden(tmp_path) == set()
    assert load_model(output).config.num_hidden_layers == 4


@pytest.mark.parametrize("number", [1, 2])
def test_interrupted_between_the_renames_there_is_a_model_and_nothing_else(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    output, rename, done = tmp_path / "out", Path.rename, []
    old = old_model(output)

    def counted(path: Path, target: Path) -> Path:
        done.append(path)
        found = rename(path, target)
        if len(done) == number:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Path, "rename", counted)
    with pytest.raises(KeyboardInterrupt):
        prune_checkpoint(llama_folder, output, overwrite=True)
    assert output.is_dir(), "the old model has gone and the new one has not come"
    assert (digest(output) == old) == (number == 1)
    load_model(output)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def prune_with_small_files(model: Path, output: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        prune(model, output)
    except OSError as exc:
        raise SystemExit(7) from exc


def command_with_small_files(model: Path, output: Path, limit: int) -> None:
    from optipfair.cli import main

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    paths = ["--model-path", str(model), "--output-path", str(output)]
    code = main(["prune", *paths, "--calibration", "none", "--quiet"])
    raise SystemExit(code)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [600, 100_000, 1_500_000], ids="{} bytes".format)
@pytest.mark.parametrize("replacing", [False, True], ids=["a new folder", "an old model's place"])
def test_a_disk_that_holds_no_large_files_is_an_os_error_and_leaves_nothing(
    nursery: Nursery, model: Path, tmp_path: Path, untouched: Untouched, limit: int, replacing: bool
) -> None:
    output = tmp_path / "out"
    if replacing:
        old_model(output)
    with untouched(tmp_path), untouched(model):
        code = nursery.run(
            _overwriting if replacing else prune_with_small_files, model, output, limit
        )
        assert code == 7


def _overwriting(model: Path, output: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        prune(model, output, overwrite=True)
    except OSError as exc:
        raise SystemExit(7) from exc


@pytest.mark.slow
def test_the_command_exits_with_1_when_the_disk_is_full(
    nursery: Nursery, model: Path, tmp_path: Path, untouched: Untouched
) -> None:
    with untouched(tmp_path):
        assert nursery.run(command_with_small_files, model, tmp_path / "new" / "out", 100_000) == 1


@pytest.mark.slow
def test_a_full_disk_is_an_os_error_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    with small_disk(tmp_path / "disk", "4m") as disk:
        with pytest.raises(OSError, match="No space left"):
            prune(model, disk / "new" / "out")
        assert list(disk.iterdir()) == []
        prune_checkpoint(
            *(model, disk / "out", "BOTH", "RANDOM"), pruning_percentage=90, num_layers_to_remove=3
        )
        load_model(disk / "out")


def hold(output: Path, held: Path) -> None:
    with new_folder(output):
        held.touch()
        wait_for_a_signal()


def test_a_second_run_into_the_same_folder_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with new_folder(output) as first:
        (first / "config.json").write_text("{}")
        refusals = []

        def second() -> None:
            try:
                prune_checkpoint(llama_folder, output)
            except OutputError as exc:
                refusals.append(str(exc))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert len(refusals) == 1 and "Another run is writing" in refusals[0]
        assert (first / "config.json").read_text() == "{}", "the first run's files are its own"
    assert sorted(path.name for path in output.iterdir()) == [FILES, "config.json"]
    prune_checkpoint(llama_folder, output, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_the_lock_goes_with_the_process_that_held_it(
    nursery: Nursery, llama_folder: Path, tmp_path: Path
) -> None:
    output, held, seen = tmp_path / "a" / "out", tmp_path / "held", tmp_path / "seen"
    answers: list[int] = []

    def hold_and_kill() -> None:
        answers.append(nursery.stopped(hold, output, held, when=seen, by=signal.SIGKILL))

    other = threading.Thread(target=hold_and_kill)
    other.start()
    while not held.exists():
        assert other.is_alive()
        time.sleep(0.01)
    try:
        with pytest.raises(OutputError, match="Another run is writing"):
            prune_checkpoint(llama_folder, output)
    finally:
        seen.touch()
        other.join()
    assert answers == [-signal.SIGKILL]
    assert hidden(tmp_path / "a")
    prune_checkpoint(llama_folder, output)
    assert [path.name for path in output.parent.iterdir()] == ["out"]
    assert open_checkpoint(output).tensors
