"""Two processes on their shares of the data give what one process gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optipfair import load_model
from optipfair.distributed import (
    divided,
    gathered,
    in_first,
    is_first,
    launched_rank,
    own_device,
    share,
    together,
)
from optipfair.pruning.calibration.activations import first_rows
from support.launching import in_two_processes
from support.processes import (
    BROKEN,
    CASES,
    COSTS,
    batches,
    command,
    cost,
    measured,
    pruned,
    sequences,
)

pytest.importorskip("accelerate", reason="the extra `demo` is not installed")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("results")
    done = in_two_processes("support.processes", folder, llama_folder)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_what_one_gives(results: list[dict[str, Any]], name: str) -> None:
    """Kept neurons are the same where all weights are, since no two neurons are."""
    family, count, options = CASES[name]
    expected = pruned(family, batches(count), options)
    assert_close(results[0][name], expected)
    for key, tensor in results[0][name].items():
        assert torch.equal(results[1][name][key], tensor), "the processes have different models"


@pytest.mark.slow
def test_a_loader_that_accelerate_has_shared_out_is_taken_as_it_is(
    results: list[dict[str, Any]],
) -> None:
    expected = pruned("llama", sequences().split(4), CASES["auto"][2])
    assert_close(results[0]["prepared"], expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("failed", ["DistributedError: Process 1 failed. OSError: the d", "OSError: the disk is"]),
        ("different", ["DataError: The processes read different batches."] * 2),
        ("empty", ["DataError: The dataloader gave no batch."] * 2),
    ],
)
def test_processes_fail_together(
    results: list[dict[str, Any]], name: str, errors: list[str]
) -> None:
    for result, error in zip(results, errors, strict=True):
        assert result[name].startswith(error)


@pytest.mark.slow
def test_figures_are_those_of_one_process(results: list[dict[str, Any]]) -> None:
    """The sample that perplexities are measured on is the same, too."""
    expected = measured()
    assert results[0]["measured"] == results[1]["measured"]
    assert (
        0
        < len(expected["sampled tokens"])
        < sum(int(batch["attention_mask"].sum()) for batch in batches(5))
    )
    for name, figures in expected.items():
        assert results[0]["measured"][name] == pytest.approx(figures, rel=1e-5, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_none_waits_for_a_process_whose_layer_fails(
    results: list[dict[str, Any]], name: str
) -> None:
    said = "OSError: the device is gone"
    expected = [f"DistributedError: Process 1 failed. {said}", said]
    assert [result["broken"][name] for result in results] == [[each] * 2 for each in expected]


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTS)
def test_the_cost_is_measured_once(
    results: list[dict[str, Any]], name: str, llama_folder: Path, tmp_path: Path
) -> None:
    first, second = (result["cost"][name] for result in results)
    assert first == pytest.approx(cost(llama_folder, tmp_path, name), rel=1e-4)
    assert second == {}


@pytest.mark.slow
def test_the_command_line_writes_one_folder(llama_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(chr(32 + n * n % 89) for n in range(3000)), encoding="utf-8")
    prune = ["prune", "--model-path", llama_folder, "--preset", "quality"]
    data = ["--calibration", text, "--calibration-samples", 20, "--calibration-length", 64]
    code, output = command(*prune, *data, "--output-path", tmp_path / "one")
    assert code == 0
    two = in_two_processes("optipfair", *prune, *data, "--output-path", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("Written to") == output.count("Written to") == 1
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(
        p.name for p in (tmp_path / "one").iterdir()
    )
    assert_close(
        load_model(tmp_path / "two").state_dict(), load_model(tmp_path / "one").state_dict()
    )
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_where_text_cannot_be_used_all_processes_go_by_weights(
    llama_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_bytes((llama_folder / name).read_bytes())
    prune = ["prune", "--model-path", model, "--output-path"]
    two = in_two_processes("optipfair", *prune, tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("weights alone choose: The model has no tokenizer") == 1
    assert two.stdout.count("Written to") == 1
    code, _ = command(*prune, tmp_path / "one", "--calibration", "none")
    assert code == 0
    one, other = (load_model(tmp_path / name).state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_without_data_the_first_process_does_it_all(results: list[dict[str, Any]]) -> None:
    """A refusal is said once, too."""
    for rank, name, code, text in (
        (0, "command", 0, "Written to"),
        (1, "command", 0, ""),
        (0, "refused", 2, "Error: The output folder"),
        (1, "refused", 1, ""),  # that another process failed
    ):
        found, output = results[rank][name]
        assert found == code
        assert text in output if text else not output


def test_one_process_works_alone() -> None:
    assert is_first()
    assert share([1, 2, 3]) == [1, 2, 3]
    assert gathered("a") == ["a"]
    assert divided(lambda number: number**2, 3) == [0, 1, 4]
    assert in_first(lambda: 7) == 7
    assert own_device("auto") == "auto"
    with pytest.raises(KeyError), together():
        raise KeyError


def test_batches_dealt_out_in_turns_are_numbered_as_they_were() -> None:
    # Sizes 4, 3, 2, 5, 1 dealt to two processes: 4, 2, 1 and 3, 5.
    assert first_rows([[4, 2, 1], [3, 5]]) == [[0, 7, 14], [4, 9]]
    assert first_rows([[2], [], []]) == [[0], [], []]


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
@pytest.mark.parametrize("value", ["abc", "", "-1", "1.5"])
def test_what_is_no_number_is_no_launchers_word(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for other in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(other, "2")
    assert launched_rank() == 2
    monkeypatch.setenv(name, value)
    assert launched_rank() == 0
    assert own_device("auto") == "auto"
