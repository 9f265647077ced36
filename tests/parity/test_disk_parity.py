"""Pruned file to file == pruned in memory and saved: the same tensors, byte by byte."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from optipfair import PruneResult, load_model, prune_checkpoint, prune_model
from optipfair.arch.families import FAMILIES
from optipfair.errors import UnsupportedModelError
from optipfair.files.safetensors_reader import INDEX_FILE, SINGLE_FILE, open_checkpoint
from optipfair.loading.quiet import quiet_transformers
from optipfair.testing import tiny_model
from optipfair.testing.toys import UNBUILDABLE
from support.walk import MODEL_TYPES, ONLY_BY_THEIR_CLASS, skip_without_toy

pytestmark = pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")

WAYS: dict[str, dict[str, Any]] = {
    "PPM": {"pruning_percentage": 40},
    "VOW": {"neuron_selection_method": "VOW", "expansion_rate": 100},
    "PON": {"neuron_selection_method": "PON", "pruning_percentage": 40},
    "L2": {"neuron_selection_method": "L2", "pruning_percentage": 25},
    "one layer": {"pruning_percentage": 40, "layer_indices": [1]},
    "layer 1": {"pruning_type": "DEPTH", "layer_indices": [1]},
    "the last two": {"pruning_type": "DEPTH", "num_layers_to_remove": 2},
    "both": {"pruning_type": "BOTH", "pruning_percentage": 40, "layer_indices": [0]},
}
# What the table does not hold: a multimodal wrapper, interleaved and transposed experts, layers of
# several kinds, state spaces beside MLPs.
OTHERS = ("gemma3", "gpt_oss", "llama4_text", "nemotron_h", "jamba")
# One of each kind: gated, fused, experts with dense MLPs, Conv1D, on the layer itself.
KINDS = ("llama", "phi3", "qwen2_moe", "gpt2", "opt")
SLOW_WAYS = ("VOW", "L2", "the last two")  # like others, for all but one family of each kind
REPRESENTATIVE = {"bart", "deepseek_v3", "gemma4_text", "glm4_moe", "minicpm3", "mpt", "smollm3"}


@dataclass(frozen=True)
class Stored:
    """A toy model's folder, and the model as it is loaded from there."""

    folder: Path
    model: Any


Store = Callable[..., Stored]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Save a toy model once."""
    found: dict[tuple[str, str], Stored] = {}

    def save(name: str, dtype: str = "bfloat16") -> Stored:
        skip_without_toy(name)
        if (name, dtype) not in found:
            folder = tmp_path_factory.mktemp("stored") / "model"
            with quiet_transformers():
                tiny_model(name).to(getattr(torch, dtype)).save_pretrained(folder)
            found[name, dtype] = Stored(folder, load_model(folder))
        return found[name, dtype]

    return save


def tensors_of(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name → dtype, shape and bytes."""
    return {
        name: (info.dtype, info.shape, info.file.read_bytes()[info.start : info.end])
        for name, info in open_checkpoint(folder).tensors.items()
    }


def config_of(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


def values_of(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def assert_same(streamed: Path, saved: Path) -> None:
    found, expected = tensors_of(streamed), tensors_of(saved)
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []
    assert config_of(streamed) == config_of(saved)


def assert_same_but_for_dtypes(streamed: Path, saved: Path) -> None:
    """Loading turns some tensors into float32, and notes a dtype in the configs of the parts."""
    found, expected = values_of(streamed), values_of(saved)
    if sorted(found) != sorted(expected):  # a tied tensor may stand under any of its names
        expected = values_of(saved_again(saved))
    assert sorted(found) == sorted(expected)
    different = [k for k in found if not torch.equal(found[k].to(expected[k].dtype), expected[k])]
    assert different == []
    assert without_dtypes(config_of(streamed)) == without_dtypes(config_of(saved))


def saved_again(folder: Path) -> Path:
    """The model as transformers loads and saves it, tied tensors under the names it prefers."""
    with quiet_transformers():
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto").save_pretrained(folder / "again")
    return folder / "again"


def assert_dtypes_kept(streamed: Path, source: Path) -> None:
    dtypes = {tensor.dtype for tensor in values_of(source).values()}
    assert {tensor.dtype for tensor in values_of(streamed).values()} <= dtypes
    assert config_of(streamed).get("dtype") == config_of(source).get("dtype")


def without_dtypes(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {key: without_dtypes(value) for key, value in config.items() if key != "dtype"}


def table() -> list[Any]:
    """Every family of the table in every way."""
    return [
        pytest.param(family, way, marks=[pytest.mark.slow] if slow else [])
        for family in FAMILIES
        for way in WAYS
        for slow in [family not in KINDS and way in SLOW_WAYS]
    ]


def both_ways(
    stored: Stored, tmp_path: Path, way: dict[str, Any]
) -> tuple[PruneResult, Path] | None:
    """Prune on disk and in memory: two folders, or the same refusal twice (None)."""
    model = copy.deepcopy(stored.model)
    try:
        prune_model(model, **way, show_progress=False)
    except UnsupportedModelError as refusal:
        with pytest.raises(UnsupportedModelError) as caught:
            prune_checkpoint(stored.folder, tmp_path / "streamed", **way)
        assert str(caught.value) == str(refusal)
        assert not (tmp_path / "streamed").exists()
        return None
    result = prune_checkpoint(stored.folder, tmp_path / "streamed", **way)
    account = dict(result.account)
    assert account.pop("source") == sum(account.values()), "a tensor is not accounted for"
    with quiet_transformers():
        model.save_pretrained(tmp_path / "saved")
    return result, tmp_path / "saved"


@pytest.mark.parametrize(("family", "way"), table())
def test_streamed_equals_pruned_in_memory_and_saved(
    store: Store, tmp_path: Path, family: str, way: str
) -> None:
    outcome = both_ways(store(family), tmp_path, WAYS[way])
    if outcome is None:
        assert family == "bloom" and way not in ("layer 1", "the last two")
        return
    result, saved = outcome
    assert result.streamed
    assert_same(tmp_path / "streamed", saved)


@pytest.mark.parametrize("way", ["PON", "both"])
@pytest.mark.parametrize("family", KINDS)
def test_so_it_is_in_float32(store: Store, tmp_path: Path, family: str, way: str) -> None:
    outcome = both_ways(store(family, "float32"), tmp_path, WAYS[way])
    assert outcome is not None and outcome[0].streamed
    assert_same(tmp_path / "streamed", outcome[1])


@pytest.mark.parametrize("way", ["PPM", "one layer", "layer 1", "both"])
@pytest.mark.parametrize("family", OTHERS)
def test_so_it_is_for_families_that_are_not_in_the_table(
    store: Store, tmp_path: Path, family: str, way: str
) -> None:
    stored = store(family)
    outcome = both_ways(stored, tmp_path, WAYS[way])
    if outcome is None:
        return
    assert outcome[0].streamed
    assert_same_but_for_dtypes(tmp_path / "streamed", outcome[1])
    assert_dtypes_kept(tmp_path / "streamed", stored.folder)


@pytest.mark.parametrize("way", ["VOW", "the last two", "both"])
@pytest.mark.parametrize("family", ["llama", "phi3", "mixtral"])
def test_so_it_is_for_shards_that_are_read_and_written(
    store: Store, tmp_path: Path, family: str, way: str
) -> None:
    whole = store(family)
    with quiet_transformers():
        whole.model.save_pretrained(tmp_path / "shards", max_shard_size=6000)
    assert (tmp_path / "shards" / INDEX_FILE).is_file()
    outcome = both_ways(Stored(tmp_path / "shards", whole.model), tmp_path, WAYS[way])
    assert outcome is not None and outcome[0].streamed
    assert_same(tmp_path / "streamed", outcome[1])
    prune_checkpoint(whole.folder, tmp_path / "parts", max_shard_size=6000, **WAYS[way])
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    assert_same(tmp_path / "parts", outcome[1])


@pytest.mark.parametrize("way", ["VOW", "one layer", "layer 1", "both"])
def test_a_gpt2_without_the_prefix_of_its_base_model_keeps_its_names(
    store: Store, tmp_path: Path, way: str
) -> None:
    """As on the Hub: `h.0...` instead of `transformer.h.0...`."""
    whole, folder = store("gpt2"), tmp_path / "bare"
    folder.mkdir()
    bare = {
        name.removeprefix("transformer."): tensor
        for name, tensor in load_file(whole.folder / SINGLE_FILE).items()
    }
    save_file(bare, folder / SINGLE_FILE, {"format": "pt"})
    (folder / "config.json").write_bytes((whole.folder / "config.json").read_bytes())
    outcome = both_ways(Stored(folder, whole.model), tmp_path, WAYS[way])
    assert outcome is not None and outcome[0].streamed
    expected = {k.removeprefix("transformer."): v for k, v in tensors_of(outcome[1]).items()}
    assert tensors_of(tmp_path / "streamed") == expected
    live = load_model(outcome[1]).state_dict()
    for name, tensor in load_model(tmp_path / "streamed").state_dict().items():
        assert torch.equal(tensor, live[name]), name


@pytest.mark.parametrize("way", ["PPM", "one layer", "layer 1", "both"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_stored_under_their_names_in_memory_give_the_same(
    store: Store, tmp_path: Path, family: str, way: str
) -> None:
    """One tensor for all experts, as some publish it, and not one for each expert."""
    whole, folder = store(family), tmp_path / "fused"
    folder.mkdir()
    state = {name: tensor.contiguous() for name, tensor in whole.model.state_dict().items()}
    assert any(name.endswith("experts.gate_up_proj") for name in state)
    save_file(state, folder / SINGLE_FILE, {"format": "pt"})
    (folder / "config.json").write_bytes((whole.folder / "config.json").read_bytes())
    said: list[str] = []
    prune_checkpoint(folder, tmp_path / "out", **WAYS[way], say=said.append)
    prune_checkpoint(whole.folder, tmp_path / "streamed", **WAYS[way])
    assert said == []
    expected = load_model(tmp_path / "out").state_dict()
    found = load_model(tmp_path / "streamed").state_dict()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert config_of(tmp_path / "out") == config_of(tmp_path / "streamed")


def other_families() -> list[Any]:
    """All model types that the other tests do not have; all but a few are slow."""
    skip = {*FAMILIES, *OTHERS, *UNBUILDABLE, *ONLY_BY_THEIR_CLASS}
    return [
        pytest.param(name, marks=[] if name in REPRESENTATIVE else [pytest.mark.slow])
        for name in MODEL_TYPES
        if name not in skip
    ]


@pytest.mark.filterwarnings("ignore")  # transformers warns about some of its own toy models
@pytest.mark.parametrize("family", other_families())
def test_so_it_is_for_every_model_type(store: Store, tmp_path: Path, family: str) -> None:
    stored = store(family)
    if not same_both_ways(stored, tmp_path / "both", WAYS["both"]):
        same_both_ways(stored, tmp_path / "width", WAYS["VOW"])
        same_both_ways(stored, tmp_path / "depth", WAYS["layer 1"])


def same_both_ways(stored: Stored, folder: Path, way: dict[str, Any]) -> bool:
    """Whether it is served; then the results are the same but for dtypes."""
    outcome = both_ways(stored, folder, way)
    if outcome is not None:
        assert_same_but_for_dtypes(folder / "streamed", outcome[1])
        if outcome[0].streamed:
            assert_dtypes_kept(folder / "streamed", stored.folder)
    return outcome is not None
