"""Calibrated from the files == calibrated in memory: the same neurons, the same tensors."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from optipfair import PruneResult, UnsupportedModelError, load_model, prune_checkpoint, prune_model
from optipfair.arch.families import FAMILIES
from optipfair.checkpoint.stored_layers import StoredLayers
from optipfair.checkpoint.stored_model import StoredModel
from optipfair.loading.models import load_config
from optipfair.loading.quiet import quiet_transformers
from optipfair.loading.sources import find_source
from optipfair.testing import tiny_model
from support.walk import ONLY_BY_THEIR_CLASS, skip_without_toy

pytestmark = [
    pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning"),
    pytest.mark.filterwarnings("ignore:.* were only removed:optipfair.PruningWarning"),
]

WAYS: dict[str, dict[str, Any]] = {
    "AUTO": {"neuron_selection_method": "AUTO", "pruning_percentage": 40},
    "MAW": {"pruning_percentage": 40},
    "WACT": {"neuron_selection_method": "WACT", "pruning_percentage": 40},
    "MAW, compensated": {"pruning_percentage": 40, "compensate": True, "sequential": False},
    "attention, AUTO": {
        "pruning_type": "ATTENTION",
        "neuron_selection_method": "AUTO",
        "pruning_percentage": 50,
    },
    "attention, MAW compensated": {
        "pruning_type": "ATTENTION",
        "pruning_percentage": 50,
        "attention_unit": "head",
        "compensate": True,
    },
    "block influence": {
        "pruning_type": "DEPTH",
        "num_layers_to_remove": 1,
        "layer_selection_method": "block_influence",
    },
    "linear replacement": {"pruning_type": "DEPTH", "layer_indices": [1], "compensate": True},
    "both": {
        "pruning_type": "BOTH",
        "neuron_selection_method": "AUTO",
        "pruning_percentage": 40,
        "layer_indices": [1],
    },
}
KINDS = ("llama", "phi3", "gemma3_text", "qwen2_moe", "gpt2")
OTHERS = ("gemma3", "gpt_oss", "nemotron_h", "jamba", "bart", "deepseek_v3", "mpt", "qwen3_next")
# Loading computes what no tensor holds and no module by itself.
LOADED = ("falcon_h1",)


def data() -> list[dict[str, Tensor]]:
    """Three batches of about 20 rows, padded on the right."""
    draw = random.Random(9)
    found = []
    for _ in range(3):
        lengths = torch.tensor([draw.randrange(9, 24) for _ in range(20)])
        ids = torch.tensor([[draw.randrange(250) for _ in range(24)] for _ in lengths])
        mask = (torch.arange(24) < lengths[:, None]).long()
        found.append({"input_ids": ids, "attention_mask": mask})
    return found


DATA = data()


def values_of(folder: Path) -> dict[str, Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def saved(name: str, folder: Path, dtype: str = "float32") -> Path:
    skip_without_toy(name)
    with quiet_transformers():
        tiny_model(name).to(getattr(torch, dtype)).save_pretrained(folder / "model")
    return folder / "model"


def both_ways(
    folder: Path, tmp_path: Path, way: dict[str, Any], **options: Any
) -> tuple[PruneResult, dict[str, Tensor], dict[str, Tensor]] | None:
    """The tensors of the result from the files and from memory; None if both refuse alike."""
    model = load_model(folder)
    try:
        prune_model(model, **way, dataloader=DATA, show_progress=False)
    except UnsupportedModelError as refusal:
        with pytest.raises(UnsupportedModelError) as caught:
            prune_checkpoint(folder, tmp_path / "streamed", **way, dataloader=DATA)
        assert str(caught.value) == str(refusal)
        assert not (tmp_path / "streamed").exists()
        return None
    result = prune_checkpoint(folder, tmp_path / "streamed", **way, dataloader=DATA, **options)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "saved")
    return result, values_of(tmp_path / "streamed"), values_of(tmp_path / "saved")


def table() -> list[Any]:
    return [
        pytest.param(family, way, marks=[] if family in KINDS else [pytest.mark.slow])
        for family in FAMILIES
        for way in WAYS
    ]


@pytest.mark.parametrize(("family", "way"), table())
def test_calibrated_on_disk_equals_calibrated_in_memory(
    tmp_path: Path, family: str, way: str
) -> None:
    found = both_ways(saved(family, tmp_path), tmp_path, WAYS[way])
    if found is None:
        may_be = "attention" in way or way == "linear replacement"
        assert may_be or any(mlp.why_not for mlp in FAMILIES[family].mlps)
        return
    result, streamed, expected = found
    assert result.streamed
    assert sorted(streamed) == sorted(expected)
    assert [name for name in streamed if not torch.equal(streamed[name], expected[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("way", ["AUTO", "MAW"])
@pytest.mark.parametrize("family", OTHERS)
def test_families_without_an_entry_too(tmp_path: Path, family: str, way: str) -> None:
    if family in ONLY_BY_THEIR_CLASS:
        pytest.skip("the auto class cannot load it")
    found = both_ways(saved(family, tmp_path), tmp_path, WAYS[way])
    if found is not None:
        _, streamed, expected = found
        different = [k for k in expected if not torch.equal(streamed[k], expected[k])]
        assert different == []


@pytest.mark.parametrize(
    ("family", "way", "bias"),
    [
        ("gpt2", "AUTO", "mlp.c_proj.bias"),
        ("phi", "attention, AUTO", "self_attn.dense.bias"),
        ("gpt_oss", "AUTO", "mlp.experts.down_proj_bias"),
    ],
)
def test_biases_that_make_up_for_lost_neurons_are_written(
    tmp_path: Path, family: str, way: str, bias: str
) -> None:
    folder = saved(family, tmp_path)
    found = both_ways(folder, tmp_path, WAYS[way], verify="full")
    assert found is not None
    result, streamed, expected = found
    assert result.streamed
    assert [name for name in streamed if not torch.equal(streamed[name], expected[name])] == []
    before = values_of(folder)
    changed = [name for name in streamed if name.endswith(f".{bias}")]
    assert changed
    assert not any(torch.equal(streamed[name], before[name]) for name in changed)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("way", ["AUTO", "both"])
def test_the_dtype_of_the_checkpoint_is_kept(
    tmp_path: Path, way: str, family: str, dtype: str
) -> None:
    found = both_ways(saved(family, tmp_path, dtype), tmp_path, WAYS[way], verify="full")
    assert found is not None
    _, streamed, expected = found
    assert {str(tensor.dtype) for tensor in streamed.values()} == {f"torch.{dtype}"}
    assert all(torch.equal(streamed[name], expected[name]) for name in expected)


def test_layers_are_those_of_the_loaded_model(tmp_path: Path) -> None:
    """Every tensor and computed buffer, whatever its form on disk."""
    for name in (*KINDS, "mixtral", "bloom", "gpt_oss"):
        folder = saved(name, tmp_path / name, "bfloat16")
        stored = StoredModel(folder, load_config(find_source(folder)))
        layers = StoredLayers(stored, torch.device("cpu"))
        live: Any = load_model(folder)
        for layer in layers.view.layers:
            expected = live.get_submodule(f"{layers.view.layers_path}.{layer.index}")
            tensors = dict(layers.copied(layer).named_buffers())
            tensors |= dict(layers.copied(layer).named_parameters())
            own = dict(expected.named_buffers()) | dict(expected.named_parameters())
            assert sorted(tensors) == sorted(own)
            assert all(torch.equal(tensors[key], own[key]) for key in own), name


@pytest.mark.slow
@pytest.mark.parametrize("family", LOADED)
def test_what_only_loading_computes_is_loaded(tmp_path: Path, family: str) -> None:
    said: list[str] = []
    folder = saved(family, tmp_path)
    way = WAYS["WACT"]
    result = prune_checkpoint(folder, tmp_path / "out", **way, dataloader=DATA, say=said.append)
    assert not result.streamed
    assert "when the whole model is loaded" in said[0]
