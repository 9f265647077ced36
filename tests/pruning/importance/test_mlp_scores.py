"""Scores of whole MLPs: chunks, experts, and what NaN and Inf do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import UnsupportedModelError, prune_checkpoint, prune_model
from optipfair.arch.view import describe
from optipfair.pruning.importance import mlp_scores as scoring
from optipfair.pruning.importance.criteria import CRITERIA, WEIGHTS
from optipfair.testing import tiny_model

STATIC = [name for name in CRITERIA if CRITERIA[name].needs == WEIGHTS]


@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "mixtral"])
def test_chunks_do_not_change_scores(
    family: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlp = describe(tiny_model(family)).mlps[0]
    whole = scoring.score_mlp(mlp, CRITERIA[name])
    monkeypatch.setitem(scoring.CHUNK_ELEMENTS, "cpu", 50)  # three rows of 16
    torch.testing.assert_close(scoring.score_mlp(mlp, CRITERIA[name]), whole)


@pytest.mark.parametrize("name", STATIC)
def test_experts_are_scored_as_so_many_dense_mlps(name: str) -> None:
    mlp = describe(tiny_model("mixtral")).mlps[0]
    scores = scoring.score_mlp(mlp, CRITERIA[name])
    parts = mlp.matrices()
    for expert in range(4):
        dense = CRITERIA[name].function(parts["gate"][expert], parts["up"][expert])
        torch.testing.assert_close(scores[expert], dense)


BROKEN = [
    ("llama", "mlp.gate_proj.weight"),
    ("llama", "mlp.up_proj.weight"),
    ("llama", "mlp.down_proj.weight"),
    ("gpt2", "mlp.c_fc.bias"),
    ("phi3", "mlp.gate_up_proj.weight"),
    ("mixtral", "mlp.experts.down_proj"),
]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize(("family", "tensor"), BROKEN)
def test_nan_and_inf_are_refused_naming_the_tensor(
    family: str, tensor: str, name: str, value: float, refused: Callable[..., Any]
) -> None:
    model = tiny_model(family)
    layer = describe(model).layers[2].module
    layer.get_parameter(tensor).data.view(-1)[5] = value
    with refused(model, f"layer 2, {tensor} holds NaN or Inf", UnsupportedModelError):
        prune_model(model, "MLP_GLU", name, 20, show_progress=False)


def test_nan_is_refused_where_scores_do_not_look_at_weights(
    tmp_path: Path, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    describe(model).layers[2].module.get_parameter("mlp.up_proj.weight").data[3, 3] = float("nan")
    with refused(model, "layer 2, mlp.up_proj.weight holds NaN or Inf", UnsupportedModelError):
        prune_model(model, "MLP_GLU", "RANDOM", 20, show_progress=False)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match=r"layers\.2\.mlp\.up_proj\.weight holds NaN"):
        prune_checkpoint(tmp_path / "model", tmp_path / "out", "MLP_GLU", "RANDOM", 20)
    assert not (tmp_path / "out").exists()


def test_nan_is_refused_with_calibration_data_too(
    refused: Callable[..., Any], token_ids: torch.Tensor
) -> None:
    model = tiny_model("llama")
    describe(model).layers[2].module.get_parameter("mlp.up_proj.weight").data[3, 3] = float("nan")
    with refused(model, r"layer 2"):
        prune_model(model, pruning_percentage=20, dataloader=[token_ids], show_progress=False)


def test_scores_that_overflow_float32_are_refused(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    for slot in ("gate_proj", "up_proj"):
        describe(model).layers[1].module.get_parameter(f"mlp.{slot}.weight").data.fill_(1e30)
    with refused(model, "PON scores of mlp in layer 1 overflow", UnsupportedModelError):
        prune_model(model, "MLP_GLU", "PON", 20, show_progress=False)
