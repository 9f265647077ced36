"""Scores of neurons on disk: those of the loaded model, bit for bit; NaN and Inf before writing."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from optipfair import UnsupportedModelError, load_model, plan_pruning, prune_checkpoint
from optipfair.arch.view import describe
from optipfair.checkpoint import stored_rows as scoring
from optipfair.checkpoint.stored_model import StoredModel
from optipfair.checkpoint.stored_rows import check_finite_tensor, read_elements, score_stored_mlp
from optipfair.files.safetensors_reader import SINGLE_FILE, TensorInfo, open_checkpoint
from optipfair.loading.models import load_config
from optipfair.loading.sources import find_source
from optipfair.pruning.importance.criteria import CRITERIA, WEIGHTS
from optipfair.pruning.importance.mlp_scores import score_mlp
from optipfair.testing import tiny_model

Untouched = Callable[[Path], AbstractContextManager[None]]
LAYER = "model.layers.2.mlp."
BROKEN = [float("nan"), float("inf"), float("-inf")]
WIDTH: dict[str, Any] = {"pruning_percentage": 50}
DEPTH: dict[str, Any] = {"pruning_type": "DEPTH", "layer_indices": [1]}


def spoil(folder: Path, name: str, value: float, place: int = -1) -> None:
    tensors = load_file(folder / SINGLE_FILE)
    tensors[name].view(-1)[place] = value
    save_file(tensors, folder / SINGLE_FILE, {"format": "pt"})


@pytest.fixture
def never_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optipfair.pipeline.prune.new_folder", lambda _: pytest.fail("it writes"))


@pytest.mark.parametrize("criterion", [n for n in CRITERIA if CRITERIA[n].needs == WEIGHTS])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "qwen2_moe", "gpt_oss"])
def test_scores_on_disk_are_those_in_memory(
    tmp_path: Path, family: str, dtype: str, criterion: str
) -> None:
    tiny_model(family).to(getattr(torch, dtype)).save_pretrained(tmp_path)
    stored = StoredModel(tmp_path, load_config(find_source(tmp_path)))
    live = describe(load_model(tmp_path))
    for on_disk, mlp in zip(stored.view.mlps, live.mlps, strict=True):
        expected = score_mlp(mlp, CRITERIA[criterion])
        found = score_stored_mlp(stored, CRITERIA[criterion], on_disk)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


def test_the_rows_of_an_expert_are_let_go_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all experts of a layer would be in memory at once."""
    tiny_model("gpt_oss").save_pretrained(tmp_path)
    stored = StoredModel(tmp_path, load_config(find_source(tmp_path)))
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    counts: list[int] = []

    class Counted(scoring.StoredRows):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            alive.add(self)
            counts.append(len(alive))

    monkeypatch.setattr(scoring, "StoredRows", Counted)
    score_stored_mlp(stored, CRITERIA["PPM"], stored.view.mlps[0])
    assert counts == [1, 2] * 4  # gate and up of one expert


@pytest.mark.parametrize("elements", [1, 16, 100])
@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "qwen2_moe"])
def test_scores_do_not_depend_on_the_size_of_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, elements: int
) -> None:
    tiny_model(family).save_pretrained(tmp_path)
    stored = StoredModel(tmp_path, load_config(find_source(tmp_path)))
    before = [score_stored_mlp(stored, CRITERIA["PPM"], mlp) for mlp in stored.view.mlps]
    monkeypatch.setattr("optipfair.pruning.importance.mlp_scores.CHUNK_ELEMENTS", {"cpu": elements})
    for mlp, expected in zip(stored.view.mlps, before, strict=True):
        assert torch.equal(score_stored_mlp(stored, CRITERIA["PPM"], mlp), expected)


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("name", ["gate_proj.weight", "up_proj.weight", "down_proj.weight"])
@pytest.mark.usefixtures("never_writes")
def test_nan_and_inf_in_what_is_scored_or_cut_are_found_before_writing(
    llama_copy: Path, tmp_path: Path, untouched: Untouched, name: str, value: float
) -> None:
    spoil(llama_copy, LAYER + name, value)
    with (
        untouched(tmp_path),
        pytest.raises(UnsupportedModelError, match=f"{LAYER}{name} holds NaN or Inf"),
    ):
        prune_checkpoint(llama_copy, tmp_path / "out", **WIDTH)


@pytest.mark.parametrize("name", ["mlp.c_fc.bias", "mlp.c_fc.weight", "mlp.c_proj.weight"])
@pytest.mark.usefixtures("never_writes")
def test_so_they_are_in_a_bias_that_is_cut(tmp_path: Path, untouched: Untouched, name: str) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path / "model")
    spoil(tmp_path / "model", f"transformer.h.1.{name}", float("nan"))
    with untouched(tmp_path), pytest.raises(UnsupportedModelError, match=f"{name} holds NaN"):
        prune_checkpoint(tmp_path / "model", tmp_path / "out", **WIDTH)


@pytest.mark.parametrize("name", ["w1", "w2", "w3"])
@pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")
@pytest.mark.usefixtures("never_writes")
def test_so_they_are_in_one_expert(tmp_path: Path, untouched: Untouched, name: str) -> None:
    tiny_model("mixtral").save_pretrained(tmp_path / "model")
    expert = f"model.layers.3.block_sparse_moe.experts.2.{name}.weight"
    spoil(tmp_path / "model", expert, float("inf"), place=7)
    with untouched(tmp_path), pytest.raises(UnsupportedModelError, match=f"{expert} holds NaN"):
        prune_checkpoint(tmp_path / "model", tmp_path / "out", **WIDTH)


@pytest.mark.parametrize("name", ["gate_proj.weight", "up_proj.weight", "down_proj.weight"])
@pytest.mark.usefixtures("never_writes")
def test_so_they_are_when_a_plan_says_what_to_cut(
    llama_copy: Path, tmp_path: Path, untouched: Untouched, name: str
) -> None:
    plan = plan_pruning(tiny_model("llama"), **WIDTH)
    plan.save(tmp_path / "plan.json")
    spoil(llama_copy, LAYER + name, float("nan"))
    for given in (plan, tmp_path / "plan.json"):
        with untouched(tmp_path), pytest.raises(UnsupportedModelError, match=f"{LAYER}{name}"):
            prune_checkpoint(llama_copy, tmp_path / "out", plan=given)


@pytest.mark.parametrize("way", [WIDTH, DEPTH], ids=["width", "depth"])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight"])
def test_in_a_tensor_that_stays_as_it_is_they_pass_unless_asked_for(
    llama_copy: Path, tmp_path: Path, untouched: Untouched, name: str, way: dict[str, Any]
) -> None:
    spoil(llama_copy, name, float("nan"))
    assert prune_checkpoint(llama_copy, tmp_path / "out", **way).streamed
    with untouched(tmp_path), pytest.raises(UnsupportedModelError, match=f"{name} holds NaN"):
        prune_checkpoint(llama_copy, tmp_path / "checked", check_weights=True, **way)


def test_in_a_layer_that_is_not_cut_they_pass(llama_copy: Path, tmp_path: Path) -> None:
    spoil(llama_copy, f"{LAYER}up_proj.weight", float("nan"))
    prune_checkpoint(llama_copy, tmp_path / "one", layer_indices=[1], **WIDTH)
    prune_checkpoint(llama_copy, tmp_path / "two", "DEPTH", layer_indices=[2])


def test_checking_all_weights_changes_nothing_in_a_sound_model(
    llama_folder: Path, tmp_path: Path
) -> None:
    for name, check in (("a", False), ("b", True)):
        prune_checkpoint(llama_folder, tmp_path / name, check_weights=check, **WIDTH)
    a, b = ((tmp_path / name / SINGLE_FILE).read_bytes() for name in "ab")
    assert a == b


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e5m2"])
@pytest.mark.parametrize("place", [0, 63, 64, 999])
def test_a_broken_number_is_found_anywhere_and_in_every_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, place: int
) -> None:
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 64)
    tensors = {"sound": torch.ones(1000), "broken": torch.ones(1000)}
    tensors["broken"][place] = float("inf")
    kind = getattr(torch, dtype)
    save_file({n: t.to(kind) for n, t in tensors.items()}, tmp_path / SINGLE_FILE)
    found = open_checkpoint(tmp_path).tensors
    check_finite_tensor(found["sound"])
    with pytest.raises(UnsupportedModelError, match="broken holds NaN or Inf"):
        check_finite_tensor(found["broken"])


def test_integers_and_empty_tensors_are_finite(tmp_path: Path) -> None:
    save_file({"int": torch.arange(3), "empty": torch.ones(0, 3)}, tmp_path / SINGLE_FILE)
    for info in open_checkpoint(tmp_path).tensors.values():
        check_finite_tensor(info)


def test_what_is_no_float_cannot_be_scored() -> None:
    info = TensorInfo("x", "I8", (4,), Path("nowhere"), 0, 4)
    with pytest.raises(UnsupportedModelError, match="x is of dtype 'I8'"):
        read_elements(info, 0, 4)


def test_scores_that_overflow_are_told_from_weights_that_are_broken(
    llama_copy: Path, tmp_path: Path, untouched: Untouched
) -> None:
    tensors = load_file(llama_copy / SINGLE_FILE)
    for name in ("gate_proj.weight", "up_proj.weight"):
        tensors[LAYER + name].fill_(3e38)
    save_file(tensors, llama_copy / SINGLE_FILE, {"format": "pt"})
    with untouched(tmp_path), pytest.raises(UnsupportedModelError, match="overflow float32"):
        prune_checkpoint(llama_copy, tmp_path / "out", neuron_selection_method="PON", **WIDTH)
