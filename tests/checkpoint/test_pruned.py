"""What goes along with the weights, what stays behind, and how a wrong result is noticed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from optipfair import VerificationError, load_model, prune_checkpoint
from optipfair.checkpoint import rewrite
from optipfair.checkpoint.pruned import (
    NewCheckpoint,
    prepare,
    verify_checkpoint,
    write_checkpoint,
)
from optipfair.checkpoint.stored_decision import decide_stored
from optipfair.checkpoint.stored_model import StoredModel
from optipfair.files import safetensors_writer as writer
from optipfair.files.safetensors_reader import INDEX_FILE, SINGLE_FILE, TensorInfo
from optipfair.files.written_files import FILES
from optipfair.loading.models import load_config
from optipfair.loading.sources import find_source
from optipfair.pipeline.prune import PLAN_FILE
from optipfair.pruning.cut.plan import PruningPlan
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.pruning.options.recipe import RECIPE_FILE
from optipfair.pruning.request.pruning_request import check_request
from optipfair.testing import tiny_model

Untouched = Callable[[Path], AbstractContextManager[None]]
WIDTH: dict[str, Any] = {"pruning_percentage": 50}
DEPTH: dict[str, Any] = {"pruning_type": "DEPTH", "layer_indices": [1]}
CARRIED_OVER = (
    *(
        "tokenizer.model",
        "vocab.json",
        "merges.txt",
        "special_tokens_map.json",
        "added_tokens.json",
    ),
    *("qwen.tiktoken", "spiece.spm", "chat_template.jinja", "chat_template.json"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("LICENSE.txt", "LICENCE", "NOTICE", "USE_POLICY.md", "tokenization_mine.py"),
    *("additional_chat_templates/tool_use.jinja", "additional_chat_templates/rag.jinja"),
)
LEFT_BEHIND = (
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "model.gguf", "tf_model.h5"),
    *("flax_model.msgpack", "training_args.bin", "trainer_state.json", "optimizer.pt"),
    *("quantize_config.json", "quant_config.json"),
    *("onnx/model.onnx", "onnx/config.json", "original/consolidated.00.pth"),
    *("original/params.json", "other.safetensors", ".gitattributes", "figures/loss.png"),
    *(".git/config", "runs/events", "model.safetensors.bak"),
)


def put(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps({"file": name}))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", [WIDTH, DEPTH], ids=["width", "depth"])
def test_what_belongs_to_the_model_comes_along_as_it_is(
    llama_copy: Path, tmp_path: Path, way: dict[str, Any]
) -> None:
    put(llama_copy, CARRIED_OVER)
    (llama_copy / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 7}')
    prune_checkpoint(llama_copy, tmp_path / "out", **way)
    for name in (*CARRIED_OVER, "generation_config.json", "tokenizer.json", "LICENSE"):
        assert (tmp_path / "out" / name).read_bytes() == (llama_copy / name).read_bytes(), name


def test_other_formats_and_notes_of_other_weights_stay_behind(
    llama_copy: Path, tmp_path: Path
) -> None:
    before = files(llama_copy)
    put(llama_copy, LEFT_BEHIND)
    result = prune_checkpoint(llama_copy, tmp_path / "out", **WIDTH)
    assert files(tmp_path / "out") == before | {PLAN_FILE, "README.md", RECIPE_FILE, FILES}
    roots = {name.split("/")[0] for name in LEFT_BEHIND if not name.endswith(".index.json")}
    assert {name.split("/")[0] for name in result.left_behind} == roots


def test_of_shards_that_become_one_file_no_index_is_left(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model", max_shard_size=20_000)
    assert (tmp_path / "model" / INDEX_FILE).is_file()
    prune_checkpoint(tmp_path / "model", tmp_path / "out", **WIDTH)
    weights = {name for name in files(tmp_path / "out") if "safetensors" in name}
    assert weights == {SINGLE_FILE}


def test_the_index_of_new_shards_is_theirs(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model", max_shard_size=20_000)
    prune_checkpoint(tmp_path / "model", tmp_path / "out", max_shard_size=15_000, **WIDTH)
    index = json.loads((tmp_path / "out" / INDEX_FILE).read_text())
    assert set(index["weight_map"].values()) == {
        name for name in files(tmp_path / "out") if name.endswith(".safetensors")
    }


def test_plan_and_card_of_an_earlier_pruning_are_replaced(llama_copy: Path, tmp_path: Path) -> None:
    (llama_copy / PLAN_FILE).write_text("an old plan")
    (llama_copy / "README.md").write_text("An old card.")
    result = prune_checkpoint(llama_copy, tmp_path / "out", **WIDTH)
    assert PruningPlan.load(tmp_path / "out" / PLAN_FILE) == result.plan
    assert "An old card." not in (tmp_path / "out" / "README.md").read_text()


def flipping(name: str) -> Callable[..., None]:
    """A copy that goes wrong in one bit of one tensor."""
    copy = writer._copy

    def copied(file: int, position: int, source: TensorInfo, report: Any) -> None:
        copy(file, position, source, report)
        if source.name == name:
            byte = os.pread(file, 1, position)[0]
            os.pwrite(file, bytes([byte ^ 1]), position)

    return copied


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
@pytest.mark.parametrize("output", ["out", "new/parents/out"])
def test_a_byte_that_is_written_wrongly_is_noticed_and_nothing_stays(
    llama_copy: Path, untouched: Untouched, monkeypatch: Any, name: str, output: str
) -> None:
    monkeypatch.setattr(writer, "_copy", flipping(name))
    with (
        untouched(llama_copy.parent),
        pytest.raises(VerificationError, match=f"{name} was not written as it was read"),
    ):
        prune_checkpoint(llama_copy, llama_copy.parent / output, **WIDTH)


def test_the_model_that_was_to_be_replaced_stays_then(
    llama_copy: Path, untouched: Untouched, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune_checkpoint(llama_copy, llama_copy.parent / "out", **DEPTH)
    monkeypatch.setattr(writer, "_copy", flipping("lm_head.weight"))
    with untouched(llama_copy.parent), pytest.raises(VerificationError):
        prune_checkpoint(llama_copy, llama_copy.parent / "out", overwrite=True, **WIDTH)


def other_rows(info: TensorInfo, cut: Any) -> Iterator[Any]:
    for chunk in _cut_piece(info, cut):
        yield np.ascontiguousarray(np.flip(chunk, cut.piece.axis))


_cut_piece = rewrite._cut_piece


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gpt_oss"])
@pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")
def test_neurons_in_the_wrong_order_are_noticed_and_nothing_stays(
    tmp_path: Path, untouched: Untouched, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    tiny_model(family).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(rewrite, "_cut_piece", other_rows)
    with untouched(tmp_path), pytest.raises(VerificationError, match="not as planned"):
        prune_checkpoint(tmp_path / "model", tmp_path / "out", **WIDTH)


def test_without_verification_it_is_not_looked_at(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite, "_cut_piece", other_rows)
    for verify in ("none", False):
        result = prune_checkpoint(
            llama_folder, tmp_path / "out", verify=verify, overwrite=True, **WIDTH
        )
        assert (result.verified, result.logits_difference) == ("none", None)


class Written:
    """A checkpoint written but not yet verified."""

    def __init__(self, source: Path, folder: Path, **way: Any) -> None:
        folder.mkdir()
        self.folder = folder
        self.stored = StoredModel(source, load_config(find_source(source)))
        self.plan = decide_stored(self.stored, check_request(PruneOptions(**way)))
        self.new: NewCheckpoint = prepare(self.stored, self.plan, "auto", 10**9)
        write_checkpoint(self.stored, self.new, folder, show_progress=False)

    def verify(self) -> None:
        verify_checkpoint(self.stored, self.plan, self.new, self.folder)

    def edit(self, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
        tensors = load_file(self.folder / SINGLE_FILE)
        change(tensors)
        save_file(tensors, self.folder / SINGLE_FILE, {"format": "pt"})


@pytest.fixture
def written(llama_folder: Path, tmp_path: Path) -> Written:
    found = Written(llama_folder, tmp_path / "out", **WIDTH)
    found.verify()
    return found


def nudge(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(-1)[-1] += 1
    return tensor


def nudge_cut_tensors(tensors: dict[str, torch.Tensor], layer: int) -> None:
    for name, tensor in tensors.items():
        if f"layers.{layer}.mlp" in name:
            nudge(tensor)


@pytest.mark.parametrize("layer", range(4))
def test_a_layer_that_was_cut_wrongly_is_noticed(written: Written, layer: int) -> None:
    """One cut tensor of each layer is made anew, so a layer with all of them wrong is seen."""
    written.edit(lambda tensors: nudge_cut_tensors(tensors, layer))
    with pytest.raises(VerificationError, match=rf"not as planned: model.layers.{layer}.mlp"):
        written.verify()


UP = "model.layers.1.mlp.up_proj.weight"
EDITS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "missing": lambda t: t.pop(UP),
    "another shape": lambda t: t.update({UP: t[UP][:-1].contiguous()}),
    "another dtype": lambda t: t.update({UP: t[UP].half()}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_header_that_is_not_as_planned_is_noticed(written: Written, edit: str) -> None:
    written.edit(EDITS[edit])
    with pytest.raises(VerificationError, match=f"not as planned: {UP}"):
        written.verify()


def test_a_tensor_too_many_is_noticed(written: Written) -> None:
    written.edit(lambda tensors: tensors.update(more=torch.ones(1)))
    with pytest.raises(VerificationError, match="not as planned: more"):
        written.verify()


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
@pytest.mark.parametrize("way", [WIDTH, DEPTH], ids=["width", "depth"])
def test_a_full_verification_compares_with_a_live_cut(
    llama_folder: Path, tmp_path: Path, way: dict[str, Any], dtype: str
) -> None:
    result = prune_checkpoint(llama_folder, tmp_path / "out", verify="full", dtype=dtype, **way)
    assert result.streamed
    assert (result.verified, result.logits_difference) == ("full", 0.0)


def test_a_full_verification_notices_what_answers_differently(
    llama_copy: Path, untouched: Untouched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neurons in another order in all tensors alike would answer the same; here only one."""
    monkeypatch.setattr(rewrite, "_cut_piece", other_rows)
    monkeypatch.setattr("optipfair.pipeline.run.verify_checkpoint", lambda *_: None)
    layer = "model.layers.0.mlp.up_proj.weight"
    monkeypatch.setattr(
        rewrite,
        "_cut_piece",
        lambda info, cut: (other_rows if info.name == layer else _cut_piece)(info, cut),
    )
    with untouched(llama_copy.parent), pytest.raises(VerificationError, match="logits differ"):
        prune_checkpoint(llama_copy, llama_copy.parent / "out", verify="full", **WIDTH)


def test_a_fast_verification_loads_nothing(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("run", "outcome"):
        monkeypatch.delattr(f"optipfair.pipeline.{module}.load_model")
    result = prune_checkpoint(llama_folder, tmp_path / "out", **WIDTH)
    assert (result.streamed, result.verified, result.logits_difference) == (True, "fast", None)
    load_model(tmp_path / "out")
