"""Planned, then carried out == pruned at once: the same bits, live and through a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import PruningPlan, apply_plan, plan_pruning, prune_model
from optipfair.pruning.importance.criteria import CRITERIA
from optipfair.testing import tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning"),
    pytest.mark.filterwarnings("ignore:Too few calibration:optipfair.PruningWarning"),
    pytest.mark.filterwarnings("ignore:.*were only removed:optipfair.PruningWarning"),
]

DATA = [torch.randint(0, 250, (24, 12), generator=torch.Generator().manual_seed(3))]
STATIC = ["L2", "PON", "VOW"]  # with data only where they compensate
CASES: dict[str, dict[str, Any]] = {
    "MLP_GLU": {"pruning_percentage": 40},
    "ATTENTION": {"pruning_percentage": 50},
    "BOTH": {"pruning_percentage": 40, "num_layers_to_remove": 1},
}
DEPTH = ["first", "block_influence", "angular", "perplexity", "block_perplexity", "auto"]


def same(family: str, folder: Path, options: dict[str, Any]) -> None:
    """Check that a plan, live and read back, gives what pruning at once gives."""
    options = {**options, "show_progress": False}
    expected: Any = prune_model(tiny_model(family), **options)
    plan = plan_pruning(tiny_model(family), **options)
    plan.save(folder / "plan.json")
    read = PruningPlan.load(folder / "plan.json")
    assert (read, read.digest) == (plan, plan.digest)
    for each in (plan, read):
        model: Any = apply_plan(tiny_model(family), each)
        assert model.config.to_dict() == expected.config.to_dict()
        for name, tensor in expected.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("method", [name for name in CRITERIA.names() if name != "PPM"])
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_plan_gives_what_pruning_gives(
    family: str, kind: str, method: str, compensate: bool, tmp_path: Path
) -> None:
    static = method in STATIC or (kind, method) == ("ATTENTION", "MAW")
    data = None if static and not compensate else DATA
    options = {"neuron_selection_method": method, "compensate": compensate, "dataloader": data}
    same(family, tmp_path, {"pruning_type": kind, **CASES[kind], **options})


@pytest.mark.parametrize("method", DEPTH)
def test_a_plan_of_layers_gives_what_pruning_gives(method: str, tmp_path: Path) -> None:
    options = {"layer_selection_method": method, "compensate": True, "dataloader": DATA}
    same("llama", tmp_path, {"pruning_type": "DEPTH", "num_layers_to_remove": 2, **options})


@pytest.mark.parametrize("method", ["AUTO", "MAW"])
def test_a_plan_of_widths_by_loss_gives_what_pruning_gives(method: str, tmp_path: Path) -> None:
    options = {"compensate": True, "dataloader": DATA, "layer_widths": "by_loss"}
    same("qwen2", tmp_path, {"neuron_selection_method": method, **CASES["MLP_GLU"], **options})


def test_a_plan_of_biases_and_a_fused_mlp_gives_what_pruning_gives(tmp_path: Path) -> None:
    for number, family in enumerate(("gpt2", "phi3")):
        (folder := tmp_path / str(number)).mkdir()
        options = {"neuron_selection_method": "AUTO", "dataloader": DATA}
        same(family, folder, {**CASES["MLP_GLU"], **options})
