"""A checkpoint and its model, without weights: what is refused before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from optipfair import (
    CheckpointError,
    OptiPFairError,
    PruningWarning,
    UnsupportedModelError,
    load_model,
    prune_checkpoint,
)
from optipfair.checkpoint.pieces import item_size
from optipfair.checkpoint.stored_model import StoredModel
from optipfair.files.safetensors_reader import INDEX_FILE, SINGLE_FILE, open_checkpoint
from optipfair.loading.models import load_config, snapshot
from optipfair.loading.quiet import quiet_transformers
from optipfair.loading.sources import find_source
from optipfair.testing import tiny_model

Untouched = Callable[[Path], AbstractContextManager[None]]
Refused = Callable[..., AbstractContextManager[None]]
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def refused_unwritten(
    tmp_path: Path, untouched: Untouched, monkeypatch: pytest.MonkeyPatch
) -> Refused:
    """`with refused_unwritten(kind, match):` refused before the output folder is even begun."""

    @contextmanager
    def check(kind: type[Exception], match: str) -> Iterator[None]:
        monkeypatch.setattr(
            "optipfair.pipeline.prune.new_folder", lambda _: pytest.fail("it writes")
        )
        with untouched(tmp_path), pytest.raises(kind, match=match) as caught:
            yield
        assert isinstance(caught.value, OptiPFairError)

    return check


def opened(folder: Path) -> StoredModel:
    return StoredModel(folder, load_config(find_source(folder)))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / SINGLE_FILE)
    change(tensors)
    save_file(tensors, folder / SINGLE_FILE, {"format": "pt"})


def edit_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    with quiet_transformers():
        tiny_model("llama").save_pretrained(tmp_path / "sharded", max_shard_size=9000)
    return tmp_path / "sharded"


def edit_index(folder: Path, **weights: str) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    index["weight_map"] |= weights
    (folder / INDEX_FILE).write_text(json.dumps(index))


def test_a_missing_shard_is_refused(sharded: Path, refused_unwritten: Refused) -> None:
    gone = sorted(sharded.glob("model-*"))[2]
    gone.unlink()
    with refused_unwritten(CheckpointError, f"lacks the shard {gone.name}"):
        prune_checkpoint(sharded, sharded.parent / "out")


def test_a_tensor_that_only_the_index_knows_is_refused(
    sharded: Path, refused_unwritten: Refused
) -> None:
    edit_index(sharded, ghost=sorted(sharded.glob("model-*"))[0].name)
    with refused_unwritten(CheckpointError, "ghost is not in"):
        prune_checkpoint(sharded, sharded.parent / "out")


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/model.safetensors", ".."])
def test_an_index_that_leads_out_of_the_folder_is_refused(
    sharded: Path, refused_unwritten: Refused, place: str
) -> None:
    edit_index(sharded, **{UP: place})
    with refused_unwritten(CheckpointError, "outside the folder|lacks the shard"):
        prune_checkpoint(sharded, sharded.parent / "out")


def test_a_shard_that_is_cut_off_is_refused(sharded: Path, refused_unwritten: Refused) -> None:
    last = sorted(sharded.glob("model-*"))[-1]
    last.write_bytes(last.read_bytes()[:-5])
    with refused_unwritten(CheckpointError, f"{last.name} is damaged"):
        prune_checkpoint(sharded, sharded.parent / "out")


def test_a_name_that_is_there_twice_is_refused(
    llama_copy: Path, refused_unwritten: Refused
) -> None:
    path = llama_copy / SINGLE_FILE
    path.write_bytes(path.read_bytes().replace(UP.encode(), UP.replace("1", "2").encode()))
    with refused_unwritten(CheckpointError, "layers.2.mlp.up_proj.weight is there twice"):
        prune_checkpoint(llama_copy, llama_copy.parent / "out")


@pytest.mark.parametrize("way", ["MLP_GLU", "DEPTH"])
@pytest.mark.parametrize("name", [UP, "model.norm.weight", "model.embed_tokens.weight"])
def test_a_shape_that_the_config_does_not_say_is_refused(
    llama_copy: Path, refused_unwritten: Refused, name: str, way: str
) -> None:
    edit_tensors(llama_copy, lambda t: t.update({name: t[name][:-1].contiguous()}))
    with refused_unwritten(CheckpointError, f"{name} has shape .*, its config.json says"):
        prune_checkpoint(
            llama_copy,
            llama_copy.parent / "out",
            way,
            layer_indices=[2] if way == "DEPTH" else None,
        )


def test_a_config_of_another_width_is_refused(llama_copy: Path, refused_unwritten: Refused) -> None:
    edit_config(llama_copy, intermediate_size=48)
    with refused_unwritten(
        CheckpointError, r"has shape \(40, 16\), its config.json says \(48, 16\)"
    ):
        prune_checkpoint(llama_copy, llama_copy.parent / "out")


@pytest.mark.parametrize("name", [UP, "model.norm.weight", "lm_head.weight"])
def test_a_missing_tensor_is_refused(
    llama_copy: Path, refused_unwritten: Refused, name: str
) -> None:
    edit_tensors(llama_copy, lambda tensors: tensors.pop(name))
    lacks = "has no output head" if name == "lm_head.weight" else "lacks 1 tensors of its model"
    with refused_unwritten(CheckpointError, f"{lacks} \\({name}\\)"):
        prune_checkpoint(llama_copy, llama_copy.parent / "out")


CUT_WAYS: dict[str, dict[str, Any]] = {
    "width": {"pruning_percentage": 50},
    "depth": {"pruning_type": "DEPTH", "layer_indices": [1]},
    "both": {"pruning_type": "BOTH", "pruning_percentage": 50, "num_layers_to_remove": 1},
    "heads": {"pruning_type": "ATTENTION", "pruning_percentage": 50},
}


@pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")
@pytest.mark.parametrize("way", CUT_WAYS)
@pytest.mark.parametrize("shards", [None, 9000])
@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_layers_that_a_cut_config_left_over_are_named_and_left_out(
    tmp_path: Path, family: str, shards: int | None, way: str
) -> None:
    size = {} if shards is None else {"max_shard_size": shards}
    with quiet_transformers():
        tiny_model(family).save_pretrained(tmp_path / "model", **size)
    edit_config(tmp_path / "model", num_hidden_layers=2)
    before = open_checkpoint(tmp_path / "model").tensors
    old = [name for name in before if name.startswith(("model.layers.2.", "model.layers.3."))]
    with pytest.warns(PruningWarning, match=r"counts 2 layers, the files hold more \(2, 3\)"):
        result = prune_checkpoint(tmp_path / "model", tmp_path / "out", **CUT_WAYS[way])
    account = dict(result.account)
    assert account.pop("source") == len(before) == sum(account.values())
    assert account["removed_past_the_last_layer"] == len(old)
    after = open_checkpoint(tmp_path / "out").tensors
    layers = len(result.plan.keep_layers)
    assert {name.split(".")[2] for name in after if "layers" in name} == set(
        map(str, range(layers))
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == layers
    load_model(tmp_path / "out")


def test_old_layers_are_told_from_one_that_predicts_further(tmp_path: Path) -> None:
    tiny_model("deepseek_v3").save_pretrained(tmp_path / "model")
    more = {"model.layers.4.eh_proj.weight": torch.ones(4, 8)}
    edit_tensors(tmp_path / "model", lambda tensors: tensors.update(more))
    edit_config(tmp_path / "model", num_hidden_layers=3, num_nextn_predict_layers=1)
    with pytest.warns(PruningWarning, match=r"the files hold more \(3\)"):
        prune_checkpoint(tmp_path / "model", tmp_path / "out", "DEPTH", layer_indices=[1])
    after = open_checkpoint(tmp_path / "out").tensors
    assert {name.split(".")[2] for name in after if "layers" in name} == {"0", "1", "2"}
    assert "model.layers.2.eh_proj.weight" in after, "as engines look for it past the last layer"


def test_a_tied_head_may_be_missing_or_there(tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "without")
    assert "lm_head.weight" not in open_checkpoint(tmp_path / "without").tensors
    model.save_pretrained(tmp_path / "with")
    edit_tensors(
        tmp_path / "with",
        lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}),
    )
    for name in ("with", "without"):
        assert prune_checkpoint(tmp_path / name, tmp_path / f"{name}-out").streamed
    one, other = (load_model(tmp_path / f"{name}-out").state_dict() for name in ("with", "without"))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("name", ["optimizer.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_of_other_names_are_never_read(
    llama_copy: Path, refused_unwritten: Refused, name: str
) -> None:
    (llama_copy / SINGLE_FILE).unlink()
    torch.save({"x": torch.ones(1)}, llama_copy / name)
    with refused_unwritten(CheckpointError, f"pickled weights only \\({name}\\)"):
        prune_checkpoint(llama_copy, llama_copy.parent / "out")


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8"])
def test_a_quantized_model_is_refused(
    llama_copy: Path, refused_unwritten: Refused, method: str
) -> None:
    edit_config(llama_copy, quantization_config={"quant_method": method, "bits": 4})
    with refused_unwritten(UnsupportedModelError, "quantized"):
        prune_checkpoint(llama_copy, llama_copy.parent / "out")


def as_the_cache_lays_it(folder: Path, cache: Path, repository: str = "some/llama") -> Path:
    """A snapshot whose files are links to blobs, as a download leaves it."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / "0123abcd"
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0123abcd")
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = root / "blobs" / f"{number:040x}"
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs", blob.name))
    return snapshot


def written_weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors*"))}


@pytest.mark.parametrize("source", ["llama_folder", "sharded"])
def test_files_that_are_links_are_followed_and_written_as_files(
    request: pytest.FixtureRequest, tmp_path: Path, untouched: Untouched, source: str
) -> None:
    plain: Path = request.getfixturevalue(source)
    snapshot = as_the_cache_lays_it(plain, tmp_path / "cache")
    with untouched(tmp_path / "cache"):
        assert prune_checkpoint(snapshot, tmp_path / "out").streamed
    prune_checkpoint(plain, tmp_path / "expected")
    assert written_weights(tmp_path / "out") == written_weights(tmp_path / "expected")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]


def test_a_hub_id_is_streamed_from_the_cache_without_network(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_the_cache_lays_it(llama_folder, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("optipfair.loading.models.hub_is_reachable", lambda: False)
    result = prune_checkpoint("some/llama", tmp_path / "out", pruning_percentage=50, verify="full")
    assert result.streamed and result.has_tokenizer
    prune_checkpoint(llama_folder, tmp_path / "expected", pruning_percentage=50)
    assert written_weights(tmp_path / "out") == written_weights(tmp_path / "expected")
    assert (tmp_path / "out" / "LICENSE").read_text() == "Do what you like.\n"
    assert "base_model: some/llama" in (tmp_path / "out" / "README.md").read_text()


def test_a_hub_id_that_is_not_in_the_cache_is_refused(
    tmp_path: Path, refused_unwritten: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("optipfair.loading.models.hub_is_reachable", lambda: False)
    with refused_unwritten(CheckpointError, "Cannot read the model 'some/llama'"):
        prune_checkpoint("some/llama", tmp_path / "out")


PLAIN_FILES = {"config.json", "tokenizer.json", "model.py"}
OTHER_FILES = {"original/model.pth", "model.onnx", "tf_model.h5", "model-q4.gguf"}


@pytest.mark.parametrize(
    ("weights", "fetched"),
    [
        ({"model.safetensors", "pytorch_model.bin"}, {"model.safetensors"}),
        ({"model-1-of-2.safetensors", "pytorch_model-1-of-2.bin"}, {"model-1-of-2.safetensors"}),
        ({"pytorch_model.bin", "training_args.bin"}, {"pytorch_model.bin"}),
        ({"pytorch_model-1-of-2.bin", "pytorch_model.bin.index.json"}, None),
    ],
)
def test_of_a_hub_repository_one_form_of_the_weights_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: set[str], fetched: set[str] | None
) -> None:
    """Pickled weights only where there are no others."""
    names = PLAIN_FILES | OTHER_FILES | weights

    def download(_: str, local_files_only: bool, **patterns: list[str]) -> str:
        assert not local_files_only
        for name in filter_repo_objects(names, **patterns):
            (tmp_path / name).write_text("")
        return str(tmp_path)

    monkeypatch.setattr("optipfair.loading.models.hub_is_reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert snapshot(find_source("some/model")) == tmp_path
    assert {path.name for path in tmp_path.iterdir()} == PLAIN_FILES | (fetched or weights)


def with_code(folder: Path, model_type: str) -> Path:
    """Code that would leave a trace if it ran; returns where."""
    trace = folder.parent / "trace"
    (folder / "modeling_evil.py").write_text(
        f"from pathlib import Path\nPath({str(trace)!r}).touch()\n"
        "from transformers import LlamaConfig as EvilConfig\n"
        "from transformers import LlamaForCausalLM as EvilModel\n"
    )
    names = {
        "AutoConfig": "modeling_evil.EvilConfig",
        "AutoModelForCausalLM": "modeling_evil.EvilModel",
    }
    edit_config(folder, model_type=model_type, auto_map=names)
    return trace


def test_code_of_an_unknown_model_is_not_run(llama_copy: Path, refused_unwritten: Refused) -> None:
    trace = with_code(llama_copy, "evil")
    with refused_unwritten(CheckpointError, "contains custom code"):
        prune_checkpoint(llama_copy, llama_copy.parent / "out")
    assert not trace.exists()


@pytest.mark.parametrize("verify", ["fast", "full"])
def test_a_known_model_is_served_without_running_its_code(
    llama_copy: Path, tmp_path: Path, verify: str
) -> None:
    trace = with_code(llama_copy, "llama")
    assert prune_checkpoint(llama_copy, tmp_path / "out", verify=verify).streamed
    assert not trace.exists()
    assert (tmp_path / "out" / "modeling_evil.py").is_file(), "it belongs to the model"


def test_neurons_of_experts_are_found_where_each_expert_is_stored(tmp_path: Path) -> None:
    tiny_model("mixtral").save_pretrained(tmp_path)
    stored = opened(tmp_path)
    pieces = [piece for own in stored.pieces(stored.view.mlps[1]).values() for piece in own]
    for expert in range(4):
        head = f"model.layers.1.block_sparse_moe.experts.{expert}"
        # In memory gate and up are one tensor, so each is asked for both.
        for role in ("gate", "up"):
            found = {
                piece.info.name: piece
                for piece in pieces
                if piece.expert == expert and role in piece.slot.role.split("+")
            }
            assert found.keys() == {f"{head}.w1.weight", f"{head}.w3.weight"}
            assert np.array_equal(found[f"{head}.w1.weight"].neurons, np.arange(40))
            assert np.array_equal(found[f"{head}.w3.weight"].neurons, np.arange(40, 80))
        (piece,) = (p for p in pieces if (p.expert, p.slot.role) == (expert, "down"))
        info = piece.info
        assert (info.name, piece.axis, piece.offset) == (f"{head}.w2.weight", 1, info.start)


def test_layers_are_told_by_their_number_and_renumbered(llama_folder: Path) -> None:
    stored = opened(llama_folder)
    assert stored.layers_head == "model.layers"
    assert stored.layer_of(UP) == 1
    assert stored.layer_of("model.layers.9.x") == 9, "though the model has four layers"
    assert stored.layer_of("lm_head.weight") is None
    renamed = stored.renamed([1, 3], stored.view.model)
    assert renamed(UP, 1) == UP.replace("1", "0")
    assert renamed(UP.replace("1", "3"), 3) == UP


def test_names_that_nobody_knows_are_refused(llama_copy: Path, refused_unwritten: Refused) -> None:
    edit_tensors(llama_copy, lambda t: t.update({"strange.name": t.pop(UP)}))
    with refused_unwritten(CheckpointError, f"lacks 1 tensors of its model \\({UP}\\)"):
        prune_checkpoint(llama_copy, llama_copy.parent / "out")


def test_elements_that_are_no_whole_bytes_are_refused() -> None:
    assert [item_size(name) for name in ("BF16", "F32", "F8_E4M3", "I64")] == [2, 4, 1, 8]
    for name in ("F4", "Q4_0"):
        with pytest.raises(UnsupportedModelError, match="cannot be cut"):
            item_size(name)
