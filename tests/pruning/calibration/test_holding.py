"""Hidden states and replaced tensors give the same wherever they are held, and leave nothing."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from optipfair import apply_plan, prune_checkpoint, prune_model
from optipfair.arch.view import describe
from optipfair.memory import Spilled
from optipfair.pipeline import arguments
from optipfair.pruning.calibration import holding
from optipfair.pruning.calibration.holding import (
    HiddenStates,
    Holding,
    ReplacedTensors,
)
from optipfair.pruning.compensation import by_layers
from optipfair.pruning.decision import decide
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.pruning.request.pruning_request import check_request
from optipfair.testing import tiny_model
from support.nursery import INTERRUPTED, Nursery, wait_for_a_signal

pytestmark = pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")

DATA = [
    torch.randint(0, 250, (rows, 12), generator=torch.Generator().manual_seed(rows))
    for rows in (24, 7)
]
AUTO: dict[str, Any] = {
    "neuron_selection_method": "AUTO", "pruning_percentage": 40, "dataloader": DATA
}  # fmt: skip
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", ["cpu", "device", "disk"])
def test_hidden_states_are_a_list(place: str, dtype: torch.dtype, tmp_path: Path) -> None:
    expected = [draw(size, size + 1, 5, dtype=dtype) for size in (3, 1, 4)]
    held = HiddenStates(place, tmp_path)
    for hidden in expected:
        held.append(hidden)
    held[1] = expected[1] = expected[1] + 1
    assert len(held) == 3
    assert all(
        torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(held, expected, strict=True)
    )
    held[0].zero_() if place == "disk" else None
    assert torch.equal(held[0], expected[0])
    assert list(tmp_path.iterdir()) == []


def test_replaced_tensors_spill_once_they_outgrow_their_limit(tmp_path: Path) -> None:
    held = ReplacedTensors(limit=8 * 4 * 4, folder=tmp_path)
    expected = {(layer, "mlp", "down"): draw(layer + 3, 4) for layer in range(4)}
    for number, (key, tensor) in enumerate(expected.items()):
        held[key] = tensor
        # 3 x 4 and 4 x 4 floats take 112 of 128 bytes.
        assert isinstance(held.peek(key), Spilled) == (number > 1)
    assert list(held) == list(expected)
    assert all(torch.equal(held[key], tensor) for key, tensor in expected.items())
    assert {tuple(held.peek(key).shape) for key in held} == {(layer + 3, 4) for layer in range(4)}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("free", "place"), [(4000, "cpu"), (3999, "disk"), (None, "cpu")], ids=str)
def test_auto_takes_a_quarter_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: int | None, place: str
) -> None:
    monkeypatch.setattr(holding, "free_bytes", lambda device: free)
    assert Holding().hidden(1000, torch.device("cpu")).place == place
    assert Holding("cpu").hidden(1000, torch.device("cpu")).place == "cpu"


def test_auto_prefers_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    room = {"cuda": 4000, "cpu": 8000}
    monkeypatch.setattr(holding, "free_bytes", lambda device: room[device.type])
    places = [Holding().hidden(size, torch.device("cuda")).place for size in (1000, 2000, 3000)]
    assert places == ["device", "cpu", "disk"]


@pytest.mark.parametrize("place", ["cpu", "device", "disk"])
def test_a_live_model_is_pruned_the_same(place: str) -> None:
    expected = prune_model(tiny_model("qwen2"), **AUTO, show_progress=False).state_dict()
    model: Any = tiny_model("qwen2")
    asked = {name: value for name, value in AUTO.items() if name != "dataloader"}
    request = check_request(PruneOptions(**asked), AUTO["dataloader"])
    plan = decide(describe(model), request, AUTO["dataloader"], holding=Holding(place))[0]
    apply_plan(model, plan)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("place", [("disk",), ("auto", 10)], ids=str)
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_checkpoint_is_pruned_the_same(
    tmp_path: Path, family: str, place: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model(family).save_pretrained(tmp_path / "model")
    way = AUTO | {"pruning_percentage": 50}
    prune_checkpoint(tmp_path / "model", tmp_path / "a", **way)
    monkeypatch.setattr(arguments, "Holding", partial(Holding, *place))
    prune_checkpoint(tmp_path / "model", tmp_path / "b", **way, verify="full")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert sorted(one) == sorted(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "model"]


@pytest.mark.parametrize("error", [RuntimeError("from a layer"), KeyboardInterrupt()], ids=repr)
def test_an_error_on_the_way_leaves_nothing(
    llama_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    untouched: Callable[[Path], AbstractContextManager[None]],
    error: BaseException,
) -> None:
    """Everything is held on disk, and the third layer fails."""
    mean_error = by_layers._mean_error
    calls: list[int] = []

    def fail(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise error
        return mean_error(*args)

    monkeypatch.setattr(by_layers, "_mean_error", fail)
    monkeypatch.setattr(arguments, "Holding", partial(Holding, "disk", 10))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with untouched(tmp_path), pytest.raises(type(error)):
        prune_checkpoint(llama_copy, tmp_path / "out", **AUTO)


def prune_and_wait(model: Path, folder: Path, here: Path) -> None:
    """Both files are open while it waits: one layer is decided, its tensors have spilled."""

    def wait(*_: object) -> None:
        here.touch()
        wait_for_a_signal()

    by_layers.cut_copy = wait  # type: ignore[assignment]
    arguments.Holding = partial(Holding, "disk", 1)  # type: ignore[misc, assignment]
    tempfile.tempdir = str(folder)
    data = [torch.arange(240).view(20, 12)]
    prune_checkpoint(model, folder / "out", "MLP_GLU", "AUTO", 40, dataloader=data)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_process_leaves_nothing(
    nursery: Nursery, llama_folder: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    folder, here = tmp_path / "all", tmp_path / "here"
    folder.mkdir()
    code = nursery.stopped(prune_and_wait, llama_folder, folder, here, when=here, by=stop)
    assert code == (INTERRUPTED if stop == signal.SIGINT else -stop)
    assert here.exists() and list(folder.iterdir()) == []
