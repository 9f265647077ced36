"""What cannot be pruned so that it loads again is refused before anything changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optipfair import UnsupportedModelError, prune_model
from optipfair.testing import tiny_config, tiny_model

PRUNINGS: list[dict[str, Any]] = [
    {"pruning_percentage": 20},
    {"pruning_type": "DEPTH", "layer_indices": [1]},
]


def prune(model: Any, pruning: dict[str, Any]) -> Any:
    return prune_model(model, **pruning, show_progress=False)


@pytest.mark.parametrize("pruning", PRUNINGS, ids=str)
def test_a_model_without_values_is_refused(
    pruning: dict[str, Any], refused: Callable[..., Any]
) -> None:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config("llama"))
    with refused(model, "'meta' device.*Load the model with its weights", UnsupportedModelError):
        prune(model, pruning)


@pytest.mark.parametrize("pruning", PRUNINGS, ids=str)
def test_one_tensor_without_values_is_enough_to_refuse(
    pruning: dict[str, Any], refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    model.model.layers[3].mlp.up_proj.to("meta")
    with refused(model, r"layers\.3\.mlp\.up_proj\.weight is on the 'meta'", UnsupportedModelError):
        prune(model, pruning)


def test_a_model_offloaded_to_disk_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM

    tiny_model("llama").save_pretrained(tmp_path)
    on_cpu = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    on_cpu += [f"model.layers.{index}" for index in range(3)]
    places = {**dict.fromkeys(on_cpu, "cpu"), "model.layers.3": "disk"}
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, device_map=places, offload_folder=tmp_path / "offloaded"
    )
    with pytest.raises(UnsupportedModelError, match=r"layers\.3.*without disk offload"):
        prune(model, PRUNINGS[0])


@pytest.mark.parametrize("pruning", PRUNINGS, ids=str)
def test_a_quantized_model_is_refused_with_the_way_out(
    pruning: dict[str, Any], refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with refused(model, "quantized.*Prune the unquantized model", UnsupportedModelError):
        prune(model, pruning)


class Adapter(nn.Module):
    """As adapter libraries do it: the layer lies one level down."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.base_layer(values)
        return out


@pytest.mark.parametrize("pruning", PRUNINGS, ids=str)
def test_an_adapter_on_one_mlp_that_stays_is_refused(
    pruning: dict[str, Any], refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    mlp = model.model.layers[2].mlp
    mlp.gate_proj = Adapter(mlp.gate_proj)
    with refused(model, "not what its config describes.*Merge adapters", UnsupportedModelError):
        prune(model, pruning)


def test_adapters_on_every_mlp_are_refused(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.gate_proj = Adapter(layer.mlp.gate_proj)
    with refused(model, "no MLP of a known form", UnsupportedModelError):
        prune(model, PRUNINGS[0])


def test_a_model_that_its_config_does_not_describe_is_refused(
    refused: Callable[..., Any],
) -> None:
    model = tiny_model("llama")
    model.config.intermediate_size = 48
    with refused(model, "not what its config describes", UnsupportedModelError):
        prune(model, {"pruning_type": "DEPTH", "layer_indices": [1]})


def test_a_model_with_layers_removed_by_hand_is_refused(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    del model.model.layers[3]
    with refused(model, "not what its config describes", UnsupportedModelError):
        prune(model, PRUNINGS[0])


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt2"])
def test_the_failure_of_a_later_layer_leaves_earlier_ones_alone(
    family: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model(family)
    last = [p for name, p in model.named_parameters() if ".3.mlp" in name and p.dim() > 1][-1]
    last.data.view(-1)[-1] = float("nan")
    with refused(model, "layer 3"):
        prune(model, {"expansion_rate": 100})
