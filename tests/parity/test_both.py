"""Layers and neurons at once are linear replacement of the layers and then width."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from optipfair import PruningWarning, get_model_layers, load_model, prune_checkpoint, prune_model
from optipfair.errors import DataError
from optipfair.testing import TINY_FAMILIES, tiny_model

REFUSED = ("gemma2", "gemma3_text", "mixtral", "qwen2_moe")  # by linear replacement
pytestmark = pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")


def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return list(torch.randint(0, 256, (48, 32), generator=generator).split(16))


DATA = data()
AUTO: dict[str, Any] = {"neuron_selection_method": "AUTO", "pruning_percentage": 40}
BOTH: dict[str, Any] = {"pruning_type": "BOTH", "layer_indices": [1, 2], **AUTO}


def pruned(model: Any, **options: Any) -> Any:
    return prune_model(model, dataloader=DATA, show_progress=False, **options)


def in_turn(model: Any, *, replaced: bool) -> Any:
    options: dict[str, Any] = {"dataloader": DATA, "compensate": True} if replaced else {}
    prune_model(model, "DEPTH", layer_indices=[1, 2], show_progress=False, **options)
    return pruned(model, **AUTO)


def different(one: Any, other: Any) -> list[str]:
    ours, theirs = (each if isinstance(each, dict) else each.state_dict() for each in (one, other))
    assert list(ours) == list(theirs)
    return [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])]


def values_of(folder: Path) -> dict[str, Tensor]:
    return {
        k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()
    }


def gap(model: Any, original: Any) -> float:
    """Mean squared error of the final hidden states."""
    with torch.no_grad():
        ends = [[m.base_model(batch)[0] for batch in DATA] for m in (model, original)]
    return float((torch.cat(ends[0]) - torch.cat(ends[1])).square().mean())


@pytest.mark.parametrize("family", [f for f in TINY_FAMILIES if f != "bloom"])  # it has no width
def test_both_is_layers_first_and_then_neurons(
    family: str, reloaded: Callable[[Any], Any], logits_of: Callable[..., Tensor]
) -> None:
    at_once: Any = tiny_model(family)
    if family in REFUSED:
        why = r"^Layer 0 of .*has no dense|a norm or a gate.*So layers 1 to 2 were only removed"
        with pytest.warns(PruningWarning, match=why):
            pruned(at_once, **BOTH)
    else:
        pruned(at_once, **BOTH)
    assert different(at_once, in_turn(tiny_model(family), replaced=family not in REFUSED)) == []
    assert torch.equal(logits_of(reloaded(at_once)), logits_of(at_once))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_compensation_brings_the_final_states_nearer(family: str) -> None:
    def lively() -> Any:
        """A model whose layers do something, as those of a fresh one hardly do."""
        model: Any = tiny_model(family).eval()
        with torch.no_grad():
            for layer in get_model_layers(model):
                for weight in (each for each in layer.parameters() if each.dim() == 2):
                    weight.mul_(6)
        return model

    way = BOTH | {"neuron_selection_method": "OBS"}
    both, nothing = (pruned(lively(), **way, compensate=flag) for flag in (True, False))
    neurons_only = in_turn(lively(), replaced=False)
    original = lively()
    assert gap(both, original) < 0.8 * min(gap(neurons_only, original), gap(nothing, original))


def test_without_compensation_no_layer_is_replaced() -> None:
    method = {"neuron_selection_method": "OBS", "compensate": False}
    expected = prune_model(tiny_model("llama"), "DEPTH", layer_indices=[1, 2], show_progress=False)
    pruned(expected, **AUTO | method)
    assert different(pruned(tiny_model("llama"), **BOTH | method), expected) == []


@pytest.mark.parametrize("percentage", [0, 1])
def test_where_no_neuron_goes_only_layers_are_replaced(percentage: float) -> None:
    model = pruned(tiny_model("llama"), **BOTH | {"pruning_percentage": percentage})
    depth = {"pruning_type": "DEPTH", "layer_indices": [1, 2], "compensate": True}
    assert different(model, pruned(tiny_model("llama"), **depth)) == []


def test_a_block_without_a_layer_before_it_is_only_removed() -> None:
    with pytest.warns(PruningWarning, match="Before layer 0 there is none that"):
        model = pruned(tiny_model("llama"), **BOTH | {"layer_indices": [0, 2]})
    depth = {"pruning_type": "DEPTH", "layer_indices": [2], "compensate": True}
    expected = prune_model(tiny_model("llama"), "DEPTH", layer_indices=[0], show_progress=False)
    pruned(expected, **depth | {"layer_indices": [1]})
    assert different(model, pruned(expected, **AUTO)) == []


def test_a_layer_that_keeps_its_width_keeps_its_replacement(tmp_path: Path) -> None:
    """Some are replaced and cut, some replaced, some cut; in memory, on disk, and by a plan."""
    model: Any = tiny_model("llama")
    pruned(model, pruning_percentage=50, layer_indices=[0])
    model.save_pretrained(tmp_path / "model")
    way = {
        "pruning_type": "BOTH",
        "neuron_selection_method": "AUTO",
        "expansion_rate": 150,
        "layer_indices": [1],
    }
    result = prune_checkpoint(tmp_path / "model", tmp_path / "a", **way, dataloader=DATA)
    assert [cut.layer for cut in result.plan.width_cuts] == [2, 3]
    (block,) = result.plan.request["replaced_blocks"]
    assert block["layer"] == 0
    assert block["error"] < block["removed_error"]
    assert "makes up for it" in (tmp_path / "a" / "README.md").read_text()
    prune_checkpoint(tmp_path / "model", save_plan=tmp_path / "p.json", **way, dataloader=DATA)
    planned = prune_checkpoint(tmp_path / "model", tmp_path / "b", plan=tmp_path / "p.json")
    assert result.streamed
    assert planned.streamed
    pruned(load_model(tmp_path / "model"), **way).save_pretrained(tmp_path / "c")
    values = {name: values_of(tmp_path / name) for name in ("model", "a", "b", "c")}
    assert different(values["a"], values["b"]) == different(values["a"], values["c"]) == []
    down = "model.layers.0.mlp.down_proj.weight"
    assert values["a"][down].shape == values["model"][down].shape
    assert not torch.equal(values["a"][down], values["model"][down])


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_the_model_stays_as_it_was_when_either_step_fails(
    layer: int, refused: Callable[..., Any]
) -> None:
    """NaN in the layer that makes up, in the removed block, and in one that is only cut."""
    model: Any = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[layer].post_attention_layernorm.weight[0] = torch.nan
    with refused(model, re.escape("NaN or Inf"), DataError):
        pruned(model, **BOTH)
