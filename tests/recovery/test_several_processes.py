"""Two processes train what one trains, with whole models (DDP) and with cut ones (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from optipfair import prune_checkpoint
from optipfair.recovery import training_run
from optipfair.testing import byte_tokenizer, tiny_model
from support.launching import in_two_processes
from support.recovering_processes import FAMILIES, gradients, pair, recovered, written

pytest.importorskip("accelerate", reason="the extra `recover` is not installed")
pytestmark = pytest.mark.slow


class Done(NamedTuple):
    """What each process found, and the folder that they wrote."""

    found: list[dict[str, Any]]
    healed: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an original and a model that was pruned from it."""
    folder = tmp_path_factory.mktemp("models")
    tiny_model("llama").save_pretrained(folder / "original")
    byte_tokenizer().save_pretrained(folder / "original")
    prune_checkpoint(folder / "original", folder / "pruned", pruning_percentage=60)
    return folder


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def done(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, models: Path
) -> Done:
    folder = tmp_path_factory.mktemp(request.param)
    ran = in_two_processes("support.recovering_processes", request.param, folder, models)
    assert ran.returncode == 0, ran.stderr
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    return Done(found, folder / "healed")


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(training_run, "_in_bfloat16", lambda _: False)
    yield


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_two_processes_train_what_one_trains(done: Done) -> None:
    values, alone = recovered()
    for each in done.found:
        assert each["recovered"][1].before == pytest.approx(alone.before, rel=1e-5)
        assert each["recovered"][1].after == pytest.approx(alone.after, rel=1e-5)
        assert [one.tokens for one in each["recovered"][1].judged] == [
            one.tokens for one in alone.judged
        ]
    close(done.found[0]["recovered"][0], values)
    for each in done.found[1:]:
        close(each["recovered"][0], {} if not each["recovered"][0] else values)


def test_muon_moves_matrices_that_are_cut_in_pieces(done: Done) -> None:
    values, alone = recovered(optimizer="muon")
    for each in done.found:
        assert each["by muon"][1].after == pytest.approx(alone.after, rel=2e-3)
    before = pair()[1].state_dict()
    for name, tensor in done.found[0]["by muon"][0].items():
        moved, expected = ((each - before[name]).norm() for each in (tensor, values[name]))
        assert moved == pytest.approx(float(expected), rel=0.05), name


def test_a_run_that_goes_on_ends_where_it_ended(done: Done) -> None:
    values, _ = done.found[0]["recovered"]
    close(done.found[0]["again"][0], values)


def test_the_originals_answers_are_written_by_one_process(done: Done, tmp_path: Path) -> None:
    values, _ = recovered(cache_teacher=tmp_path / "answers")
    close(done.found[0]["by answers"][0], values)


def test_where_nothing_helps_the_model_is_as_it_came(done: Done) -> None:
    values, found = done.found[0]["undone"]
    assert not found.helped
    assert all(torch.equal(values[name], each) for name, each in pair()[0].state_dict().items())


def test_the_folder_holds_whole_tensors(done: Done, models: Path, tmp_path: Path) -> None:
    written(models, tmp_path / "alone")
    files = [folder / "model.safetensors" for folder in (done.healed, tmp_path / "alone")]
    close(*map(load_file, files))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_cut_tensors_are_those_of_whole_ones(done: Done, family: str) -> None:
    for each in done.found:
        if "gradients" in each:  # of fsdp
            close(each["gradients"][family], gradients(family))
            close(each["gradients of layers"], gradients("llama", "layers"))
