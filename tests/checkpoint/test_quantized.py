"""Quantized weights, however that is said: refused with one sentence, by `prune` and `analyze`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from optipfair import UnsupportedModelError, analyze_model, prune_checkpoint, prune_model
from optipfair.files.safetensors_reader import SINGLE_FILE
from optipfair.loading.quiet import quiet_transformers
from optipfair.testing import tiny_model

UP = "model.layers.1.mlp.up_proj.weight"
METHODS = {
    "modelopt": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "compressed-tensors": {"quant_method": "compressed-tensors", "config_groups": {}},
    "mlx": {"group_size": 64, "bits": 4},
}
PLACES = [
    *(("quantization_config", "modelopt"), ("text_config.quantization_config", "modelopt")),
    ("text_config.quantization_config", "compressed-tensors"),
    *(("compression_config", "compressed-tensors"), ("quantization", "mlx")),
    ("text_config.compression_config", "compressed-tensors"),
]
DATA = [torch.randint(0, 250, (16, 12), generator=torch.Generator().manual_seed(0))]
WAYS: dict[str, dict[str, Any]] = {
    "weights": {"pruning_percentage": 40},
    "random": {"pruning_percentage": 40, "neuron_selection_method": "RANDOM"},
    "data": {"pruning_percentage": 40, "neuron_selection_method": "AUTO", "dataloader": DATA},
    "depth": {"pruning_type": "DEPTH", "layer_indices": [2]},
    "heads": {"pruning_type": "ATTENTION", "pruning_percentage": 50},
}


def vision_model() -> Any:
    """A vision tower beside a language model."""
    text = tiny_model("qwen3_5").config.to_dict()
    tower = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32}
    tower |= {"out_hidden_size": text["hidden_size"], "patch_size": 4}
    config = transformers.Qwen3_5Config(text_config=text, vision_config=tower)
    return transformers.Qwen3_5ForConditionalGeneration(config)


@pytest.fixture
def wrapper(tmp_path: Path) -> Path:
    with quiet_transformers():
        vision_model().save_pretrained(tmp_path / "wrapper")
    return tmp_path / "wrapper"


def refuse_alike(folder: Path, match: str, ways: list[str]) -> None:
    """Each way refuses with the same sentence, and so does the analysis."""
    said = set()
    for way in ways:
        with pytest.raises(UnsupportedModelError, match=match) as caught:
            prune_checkpoint(folder, folder.parent / "out", **WAYS[way])
        said.add(str(caught.value))
    analysis = analyze_model(folder)
    assert analysis.savings == [] and {*analysis.refusals.values()} == said
    assert not (folder.parent / "out").exists()


@pytest.mark.parametrize(("place", "method"), PLACES)
def test_a_field_that_says_so_is_found_wherever_it_stands(
    wrapper: Path, place: str, method: str
) -> None:
    config = json.loads((wrapper / "config.json").read_text())
    *parts, name = place.split(".")
    part = config
    for each in parts:
        part = part[each]
    part[name] = METHODS[method]
    (wrapper / "config.json").write_text(json.dumps(config))
    refuse_alike(wrapper, rf"is quantized \({place}\)", ["weights", "depth"])


def retyped(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(folder / SINGLE_FILE)
    save_file(tensors | {name: change(tensors[name])}, folder / SINGLE_FILE, {"format": "pt"})


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "uint8", "int8", "int32"])
def test_a_weight_that_is_no_plain_number_is_refused_in_every_way(
    llama_copy: Path, dtype: str
) -> None:
    retyped(llama_copy, UP, lambda tensor: tensor.to(getattr(torch, dtype)))
    refuse_alike(llama_copy, f"{UP} is of dtype .*quantized or packed", list(WAYS))


def test_packed_weights_are_called_so_and_not_of_another_shape(llama_copy: Path) -> None:
    retyped(llama_copy, UP, lambda tensor: tensor[:, :8].to(torch.uint8).contiguous())
    refuse_alike(llama_copy, f"{UP} is of dtype U8", ["weights", "depth"])


def test_so_is_a_weight_of_the_attention(llama_copy: Path) -> None:
    name = "model.layers.1.self_attn.o_proj.weight"
    retyped(llama_copy, name, lambda tensor: tensor.to(torch.int8))
    refuse_alike(llama_copy, f"{name} is of dtype I8", ["weights", "heads"])


def test_double_precision_is_plain(llama_copy: Path, tmp_path: Path) -> None:
    retyped(llama_copy, UP, lambda tensor: tensor.double())
    prune_checkpoint(llama_copy, tmp_path / "out", pruning_percentage=50)
    written = load_file(tmp_path / "out" / SINGLE_FILE)[UP]
    assert (written.dtype, written.shape) == (torch.float64, (20, 16))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "uint8", "int8"])
@pytest.mark.parametrize("way", ["weights", "random", "depth"])
def test_in_memory_they_are_refused_too(refused: Callable[..., Any], dtype: str, way: str) -> None:
    model: Any = tiny_model("llama")
    projection = model.model.layers[1].mlp.up_proj
    plain = projection.weight.detach().to(getattr(torch, dtype))
    projection.weight = torch.nn.Parameter(plain, requires_grad=False)
    with refused(model, f"{UP} is of dtype {dtype}"):
        prune_model(model, show_progress=False, **WAYS[way])


def test_in_memory_a_part_of_the_config_may_say_so(refused: Callable[..., Any]) -> None:
    model = vision_model()
    model.config.text_config.quantization_config = METHODS["modelopt"]
    with refused(model, r"is quantized \(text_config.quantization_config\)"):
        prune_model(model, show_progress=False)
