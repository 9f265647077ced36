"""Where `--save-plan` may write: over nothing, or over a plan."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from optipfair import OutputError, PruningPlan, prune_checkpoint

Run = Callable[..., tuple[int, str, str]]
Refuses = Callable[..., None]
Untouched = Callable[[Path], AbstractContextManager[None]]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"version": 1}', b"my thesis", b"\xff\xfe", b"[" * 100_000]
)
def test_what_is_no_plan_is_never_overwritten(
    llama_copy: Path, tmp_path: Path, refuses: Refuses, content: bytes
) -> None:
    place = tmp_path / "thesis.json"
    place.write_bytes(content)
    refuses(
        r"thesis\.json is there and holds no plan.*Give the name of a new file",
        *("prune", "--model-path", llama_copy, "--save-plan", place),
    )


@pytest.mark.parametrize("file", ["config.json", "pruning_plan.json", "README.md"])
def test_a_file_of_a_model_is_never_overwritten(
    llama_copy: Path, tmp_path: Path, run: Run, refuses: Refuses, file: str
) -> None:
    command = ("prune", "--model-path", llama_copy)
    assert run(*command, "--output-path", tmp_path / "out")[0] == 0
    refuses("is of the model in that folder", *command, "--save-plan", tmp_path / "out" / file)


@pytest.mark.parametrize("to", ["plan", "thesis", "nothing"])
def test_a_link_is_never_followed_or_replaced(
    llama_copy: Path, tmp_path: Path, run: Run, refuses: Refuses, to: str
) -> None:
    command = ("prune", "--model-path", llama_copy)
    assert run(*command, "--save-plan", tmp_path / "plan")[0] == 0
    (tmp_path / "thesis").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / to)
    refuses("link is no regular file", *command, "--save-plan", tmp_path / "link")


def test_a_device_is_never_replaced(llama_copy: Path, refuses: Refuses) -> None:
    refuses("is no regular file", "prune", "--model-path", llama_copy, "--save-plan", os.devnull)
    assert not Path(os.devnull).is_file()


def test_a_plan_is_replaced(llama_copy: Path, tmp_path: Path, run: Run) -> None:
    command = ("prune", "--model-path", llama_copy, "--save-plan", tmp_path / "plan.json")
    found = []
    for share in (20, 40):
        assert run(*command, "--pruning-percentage", share)[0] == 0
        found.append(PruningPlan.load(tmp_path / "plan.json").digest)
    assert len(set(found)) == 2


def test_what_appears_there_during_the_run_stays(
    llama_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, to_json = tmp_path / "plan.json", PruningPlan.to_json

    def meanwhile(plan: PruningPlan) -> str:
        place.write_text("mine")
        return to_json(plan)

    monkeypatch.setattr(PruningPlan, "to_json", meanwhile)
    with pytest.raises(OutputError, match="holds no plan"):
        prune_checkpoint(llama_copy, save_plan=place)
    assert place.read_text() == "mine"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model", "plan.json"]


@pytest.fixture
def compensated(llama_copy: Path, tmp_path: Path) -> Callable[[], PruningPlan]:
    """Save a plan with tensors beside it, the same each time."""
    text = tmp_path / "x.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 200)

    def save() -> PruningPlan:
        return prune_checkpoint(
            llama_copy,
            neuron_selection_method="AUTO",
            pruning_percentage=50,
            compensate=True,
            calibration=text,
            calibration_length=32,
            save_plan=tmp_path / "p.json",
        ).plan

    return save


def test_tensors_of_something_else_are_never_overwritten(
    compensated: Callable[[], PruningPlan], tmp_path: Path
) -> None:
    plan = compensated()
    side = tmp_path / f"p.{plan.digest}.safetensors"
    side.write_bytes(b"mine")
    before = (tmp_path / "p.json").read_bytes()
    with pytest.raises(OutputError, match="Move it away, or give the plan another name"):
        compensated()
    assert (side.read_bytes(), (tmp_path / "p.json").read_bytes()) == (b"mine", before)


@pytest.mark.parametrize("failing", ["p.json", "tensors"])
def test_a_failure_leaves_the_tensors_of_the_plan_that_is_there(
    compensated: Callable[[], PruningPlan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    untouched: Untouched,
    failing: str,
) -> None:
    plan = compensated()
    name = failing if failing == "p.json" else f"p.{plan.digest}.safetensors"
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if target == tmp_path / name and path.parent.name == "ready":
            raise PermissionError(1, "not yours")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with untouched(tmp_path), pytest.raises(OSError, match="not yours"):
        compensated()
