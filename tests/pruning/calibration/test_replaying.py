"""What ran before a layer's MLPs is given again, and changes nothing."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaAttention

from optipfair.arch.families import FAMILIES
from optipfair.arch.spec import MLPSpec, TensorSlot
from optipfair.arch.view import MLPView
from optipfair.pruning.calibration.holding import HiddenStates
from optipfair.pruning.calibration.replaying import BeforeMLPs
from optipfair.testing import TINY_FAMILIES, tiny_model
from support.decisions import DATA, decision

PRUNABLE = [name for name in TINY_FAMILIES if not any(mlp.why_not for mlp in FAMILIES[name].mlps)]

pytestmark = pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")


@pytest.mark.parametrize("family", PRUNABLE)
def test_decisions_are_those_of_layers_that_run_twice(family: str) -> None:
    model, asked = tiny_model(family), {"compensate": True, "sequential": True}
    found = decision(model, "OBS", **asked)
    with mock.patch.object(BeforeMLPs, "given", lambda _: nullcontext()):
        twice = decision(model, "OBS", **asked)
    assert found.width_cuts == twice.width_cuts
    assert found.replacements is not None and twice.replacements is not None
    assert found.replacements.keys() == twice.replacements.keys()
    for key, tensor in found.replacements.items():
        assert torch.equal(tensor, twice.replacements[key])


def test_attention_runs_once_for_each_batch() -> None:
    model = tiny_model("llama")
    with mock.patch.object(
        LlamaAttention, "forward", autospec=True, side_effect=LlamaAttention.forward
    ) as ran:
        decision(model, "OBS", compensate=True, sequential=False)
        once = ran.call_count
        ran.reset_mock()
        decision(model, "OBS", compensate=True, sequential=True)
    assert ran.call_count == once
    assert once >= len(DATA) * len(model.model.layers)


class Layer(nn.Module):
    """Children before, twice before, and after an MLP, and one whose output cannot be kept."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("early", "twice", "strange", "down", "late"):
            setattr(self, name, Counting())

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(x)[0] + self.twice(x)[0] + self.twice(x)[0]
        x = x + self.strange(x, kind=list)[0]
        x = x + self.down(x)[0]
        found: Tensor = x + self.late(x)[0]
        return found


class Counting(nn.Linear):
    """Counts how often it runs, and gives its output and nothing else."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.ran = 0

    def forward(self, x: Tensor, kind: type = tuple) -> Any:
        self.ran += 1
        return kind([super().forward(x), None])


def of(layer: Layer) -> MLPView:
    down = TensorSlot("down.weight", "down", axis=1)
    spec = MLPSpec("mlp", (down,), None)
    return MLPView(0, spec, layer, {down: layer.down.weight})


def test_only_what_runs_once_and_before_the_mlp_is_given_again() -> None:
    torch.manual_seed(0)
    layer = Layer().eval()
    batches = [torch.randn(1, 3, 4) for _ in range(3)]
    kept = BeforeMLPs(layer, [of(layer)], HiddenStates())
    with torch.no_grad():
        with kept.kept():
            first = [layer(each) for each in batches]
        with kept.given():
            again = [layer(each) for each in batches]
    assert all(map(torch.equal, first, again))
    assert layer.early.ran == 3
    others = (layer.twice, layer.strange, layer.down, layer.late)
    assert [each.ran for each in others] == [12, 6, 6, 6]
    assert "forward" not in vars(layer.early)
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in layer.modules())
