"""Checkpoints in the shape in which models are published: nothing of them is lost.

Whatever decides (weights, layers one at a time, the model in memory), every tensor and file of the
source is there afterwards, cut or as it was, and transformers loads the result as it loads the
source.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from optipfair import (
    CheckpointError,
    PruningWarning,
    UnsupportedModelError,
    analyze_model,
    load_model,
    prune_checkpoint,
)
from optipfair.files.safetensors_reader import INDEX_FILE, SINGLE_FILE, open_checkpoint
from optipfair.files.written_files import FILES
from optipfair.loading.quiet import quiet_transformers
from optipfair.pipeline.prune import PLAN_FILE
from optipfair.pruning.options.recipe import RECIPE_FILE
from optipfair.testing import byte_tokenizer, tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning"),
    pytest.mark.filterwarnings("ignore:.* were only removed:optipfair.PruningWarning"),
    pytest.mark.filterwarnings("ignore:The layers that predict:optipfair.PruningWarning"),
]

DATA = [torch.randint(0, 250, (32, 16), generator=torch.Generator().manual_seed(0))]
WAYS: dict[str, dict[str, Any]] = {
    "by weights": {"pruning_percentage": 40},
    "by layers": {
        "neuron_selection_method": "AUTO",
        "pruning_percentage": 40,
        "dataloader": DATA,
    },
    "in memory": {
        "pruning_type": "DEPTH",
        "num_layers_to_remove": 1,
        "layer_selection_method": "perplexity",
        "dataloader": DATA,
    },
    "given layers": {"pruning_type": "DEPTH", "layer_indices": [1]},
}
SIDE_FILES = (
    *("chat_template.jinja", "tokenizer.model", "preprocessor_config.json", "modeling_mine.py"),
    *("processor_config.json", "special_tokens_map.json", "LICENSE"),
)


def edit_tensors(folder: Path, change: Callable[[str], str], **more: torch.Tensor) -> None:
    tensors = {change(name): tensor for name, tensor in load_file(folder / SINGLE_FILE).items()}
    save_file(tensors | more, folder / SINGLE_FILE, {"format": "pt"})


def save(model: Any, folder: Path) -> Path:
    with quiet_transformers():
        model.save_pretrained(folder)
    return folder


def wrapper(folder: Path) -> Path:
    """A vision tower beside a language model, whose tensors have a prefix of their own."""
    text = tiny_model("qwen3_5").config.to_dict()
    tower = {
        "depth": 2,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 32,
        "out_hidden_size": text["hidden_size"],
        "patch_size": 4,
        "num_position_embeddings": 16,
    }
    config = transformers.Qwen3_5Config(text_config=text, vision_config=tower)
    return save(transformers.Qwen3_5ForConditionalGeneration(config), folder)


def reward_model(folder: Path) -> Path:
    config: Any = tiny_model("llama", tie_word_embeddings=True).config
    config.num_labels = 1
    return save(transformers.LlamaForSequenceClassification(config), folder)


def headed(auto: str, family: str, **fields: Any) -> Callable[[Path], Path]:
    """A model with another head than one for text."""

    def make(folder: Path) -> Path:
        config: Any = tiny_model(family, **fields).config
        config.num_labels, config.pad_token_id = 3, 0
        return save(getattr(transformers, auto).from_config(config), folder)

    return make


def predicting_further(folder: Path) -> Path:
    """With a layer past the last one, which predicts the token after the next."""
    save(tiny_model("deepseek_v3"), folder)
    more = {"model.layers.4.eh_proj.weight": torch.ones(4, 8)}
    edit_tensors(folder, lambda name: name, **more)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    return folder


def spelled_as_on_the_hub(folder: Path) -> Path:
    """The fields that transformers 5 has renamed, and one that it does not know."""
    save(tiny_model("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    config["of_mine"] = {"kept": [1, None]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def old_norms(folder: Path) -> Path:
    """Norms with gamma and beta."""
    save(tiny_model("bert"), folder)
    spelled = {"weight": "gamma", "bias": "beta"}

    def old(name: str) -> str:
        head, _, own = name.rpartition(".")
        return f"{head}.{spelled[own]}" if head.endswith("LayerNorm") else name

    edit_tensors(folder, old)
    return folder


def without_prefix(folder: Path) -> Path:
    """Saved as a base model, as many are, with the buffers of an early release."""
    save(tiny_model("gpt2"), folder)
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 8, 8) for layer in range(4)}
    edit_tensors(folder, lambda name: name.removeprefix("transformer."), **masks)
    return folder


def experts_as_in_memory(folder: Path) -> Path:
    model = tiny_model("mixtral")
    save(model, folder)
    save_file(model.state_dict(), folder / SINGLE_FILE, {"format": "pt"})
    return folder


PUBLISHED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "wrapper": (wrapper, "AutoModelForImageTextToText"),
    "reward model": (reward_model, "AutoModelForSequenceClassification"),
    **{
        f"{auto[12:]} of {family}": (headed(auto, family, **fields), auto)
        for auto, family, fields in (
            ("AutoModelForSequenceClassification", "gemma2", {}),
            ("AutoModelForTokenClassification", "llama", {"tie_word_embeddings": True}),
            ("AutoModelForQuestionAnswering", "gpt2", {}),
        )
    },
    "predicting further": (predicting_further, "AutoModelForCausalLM"),
    "hub spelling": (spelled_as_on_the_hub, "AutoModelForCausalLM"),
    "old norms": (old_norms, "AutoModelForCausalLM"),
    "without prefix": (without_prefix, "AutoModelForCausalLM"),
    "fused experts": (experts_as_in_memory, "AutoModelForCausalLM"),
}


def loaded(folder: Path, auto: str) -> tuple[Any, dict[str, list[str]]]:
    """The model, and what was missing, unexpected or of another shape (layers' numbers aside)."""
    with quiet_transformers():
        model, info = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
    return model, {key: sorted(map(str, value)) for key, value in info.items() if value}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", PUBLISHED)
def test_every_tensor_and_file_is_there_afterwards(tmp_path: Path, kind: str, way: str) -> None:
    make, auto = PUBLISHED[kind]
    source = make(tmp_path / "model")
    for name in SIDE_FILES:
        (source / name).write_text(f'{{"of": "{name}"}}')
    result = prune_checkpoint(source, tmp_path / "out", **WAYS[way])

    assert result.streamed is (way != "in memory")
    account = dict(result.account)
    assert account.pop("source") == sum(account.values()) and result.left_behind == ()
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert files.keys() == {path.name for path in source.iterdir()} | {
        PLAN_FILE,
        "README.md",
        RECIPE_FILE,
        FILES,
    }
    for name in SIDE_FILES:
        assert files[name].read_bytes() == (source / name).read_bytes()

    before, after = open_checkpoint(source).tensors, open_checkpoint(tmp_path / "out").tensors
    number = {n: re.search(r"\b(?:layers?|h)\.(\d+)\.", n) for n in before if "visual" not in n}
    in_layers = {name: int(found[1]) for name, found in number.items() if found}
    further = 4 if kind == "predicting further" and result.plan.width_cuts else None
    gone = {*result.plan.drop_layers, further}
    removed = [name for name, layer in in_layers.items() if layer in gone]
    assert len(after) == len(before) - len(removed)
    kept = {name: info for name, info in before.items() if name not in in_layers}
    assert {name: after[name].shape for name in kept} == {n: i.shape for n, i in kept.items()}

    model, info = loaded(tmp_path / "out", auto)
    assert type(model) is type(loaded(source, auto)[0])
    assert "missing_keys" not in info and "mismatched_keys" not in info


@pytest.mark.parametrize("way", ["by weights", "in memory"])
def test_only_planned_fields_of_the_config_change(tmp_path: Path, way: str) -> None:
    source = spelled_as_on_the_hub(tmp_path / "model")
    prune_checkpoint(source, tmp_path / "out", **WAYS[way])
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "out")
    )
    field = "intermediate_size" if way == "by weights" else "num_hidden_layers"
    assert {name for name in before | after if before.get(name) != after.get(name)} == {field}


def test_the_fields_of_a_wrapper_change_in_its_text_part(tmp_path: Path) -> None:
    source = wrapper(tmp_path / "model")
    prune_checkpoint(source, tmp_path / "out", **WAYS["given layers"])
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "out")
    )
    assert before.pop("text_config") != after.pop("text_config")
    assert before == after


def test_numbers_without_end_stay_as_they_are_written(llama_copy: Path, tmp_path: Path) -> None:
    """transformers would write an object in their place."""
    config = json.loads((llama_copy / "config.json").read_text())
    config |= {"of_mine": [float("inf"), float("-inf")], "rope_scaling": None}
    (llama_copy / "config.json").write_text(json.dumps(config))
    prune_checkpoint(llama_copy, tmp_path / "out", **WAYS["by weights"])
    written = (tmp_path / "out" / "config.json").read_text()
    assert "__float__" not in written
    assert json.loads(written) == config | {"intermediate_size": 24}


@pytest.mark.parametrize(
    ("auto", "family"),
    [
        ("AutoModelForSequenceClassification", "llama"),
        ("AutoModelForSequenceClassification", "bert"),
        ("AutoModelForTokenClassification", "mistral"),
        ("AutoModelForQuestionAnswering", "qwen2"),
    ],
)
def test_another_head_in_the_place_of_one_for_text_is_refused_as_that(
    tmp_path: Path, auto: str, family: str
) -> None:
    source = headed(auto, family)(tmp_path / "model")
    said = set()
    for way in WAYS.values():
        with pytest.raises(CheckpointError, match=f"is of a .*{auto[12:]}") as caught:
            prune_checkpoint(source, tmp_path / "out", **way)
        said.add(str(caught.value))
    with pytest.raises(CheckpointError) as caught:
        analyze_model(source)
    assert said == {str(caught.value)} and "ownload" not in str(caught.value)


def test_layers_past_the_last_one_move_up(tmp_path: Path) -> None:
    source = predicting_further(tmp_path / "model")
    prune_checkpoint(source, tmp_path / "out", **WAYS["given layers"])
    tensors = open_checkpoint(tmp_path / "out").tensors
    assert [name for name in tensors if "eh_proj" in name] == ["model.layers.3.eh_proj.weight"]


def pickled(source: Path, folder: Path, shards: int) -> Path:
    """The weights of a folder as `pytorch_model.bin`, in one or several files."""
    tensors = load_file(source / SINGLE_FILE)
    (source / SINGLE_FILE).unlink()
    source.rename(folder)
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return folder
    weight_map = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        own = dict(list(tensors.items())[number::shards])
        torch.save(own, folder / name)
        weight_map |= dict.fromkeys(own, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("way", ["by weights", "by layers", "in memory"])
def test_pickled_weights_give_what_safetensors_give(tmp_path: Path, way: str, shards: int) -> None:
    source = save(tiny_model("llama"), tmp_path / "model")
    byte_tokenizer().save_pretrained(source)
    prune_checkpoint(source, tmp_path / "expected", **WAYS[way])
    folder = pickled(source, tmp_path / "pickled", shards)
    result = prune_checkpoint(folder, tmp_path / "out", **WAYS[way])
    assert result.has_tokenizer
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in (tmp_path / "expected").iterdir()}
    one, other = (load_file(tmp_path / name / SINGLE_FILE) for name in ("out", "expected"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {path.name for path in tmp_path.iterdir()} == {"pickled", "expected", "out"}


class Trap:
    """Something that runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("trap"),)


def test_a_pickle_that_would_run_code_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = pickled(save(tiny_model("llama"), tmp_path / "model"), tmp_path / "pickled", 1)
    torch.save({"x": torch.ones(1), "trap": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"holds more than tensors"):
        prune_checkpoint(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["pickled"]


def test_a_missing_pickled_shard_is_refused(tmp_path: Path) -> None:
    folder = pickled(save(tiny_model("llama"), tmp_path / "model"), tmp_path / "pickled", 2)
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match="lacks the shard pytorch_model-00002"):
        prune_checkpoint(folder, tmp_path / "out")


def test_old_names_are_kept_and_load_the_same(tmp_path: Path) -> None:
    source = old_norms(tmp_path / "model")
    prune_checkpoint(source, tmp_path / "out", verify="full", **WAYS["by weights"])
    assert (
        open_checkpoint(tmp_path / "out").tensors.keys() == open_checkpoint(source).tensors.keys()
    )
    assert not (tmp_path / "out" / INDEX_FILE).exists()
    load_model(tmp_path / "out")


@pytest.mark.parametrize("planned", [False, True])
def test_an_input_that_changes_while_a_run_decides_is_refused(
    llama_copy: Path, tmp_path: Path, planned: bool
) -> None:
    class Changing(list[torch.Tensor]):
        """Data that take so long that someone replaces the weights meanwhile."""

        def __iter__(self) -> Iterator[torch.Tensor]:
            other = tiny_model("llama", seed=1)
            save(other, llama_copy)
            return super().__iter__()

    where: dict[str, Any] = {"save_plan": tmp_path / "plan"} if planned else {}
    with pytest.raises(CheckpointError, match="changed during the run"):
        prune_checkpoint(
            llama_copy,
            tmp_path / "out",
            pruning_percentage=40,
            dataloader=Changing(DATA),
            **where,
        )
    assert list(tmp_path.iterdir()) == [llama_copy]


def test_only_regular_files_of_the_folder_itself_come_along(
    llama_copy: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "id_rsa"
    secret.write_text("private")
    (llama_copy / "notes.txt").symlink_to(secret)
    (llama_copy / "zero.txt").symlink_to("/dev/zero")
    (llama_copy / "nowhere.json").symlink_to(tmp_path / "none")
    os.mkfifo(llama_copy / "pipe.txt")
    (llama_copy / "inside.txt").write_text("ours")
    (llama_copy / "link.txt").symlink_to("inside.txt")
    (llama_copy / "optimizer.pt").write_text("of training")
    result = prune_checkpoint(llama_copy, tmp_path / "out", pruning_percentage=40)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    left = ["notes.txt", "nowhere.json", "optimizer.pt", "pipe.txt", "zero.txt"]
    assert sorted(result.left_behind) == left == result.to_dict()["left_behind"]
    assert {"inside.txt", "link.txt"} <= written and not written & set(left)


def test_module_folders_come_along(llama_copy: Path, tmp_path: Path) -> None:
    """As sentence-transformers lays them out."""
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "../x"}]
    (llama_copy / "modules.json").write_text(json.dumps(modules))
    (llama_copy / "1_Pooling").mkdir()
    (llama_copy / "1_Pooling" / "config.json").write_text("{}")
    (llama_copy / "2_Dense").mkdir()
    save_file({"linear.weight": torch.ones(2, 2)}, llama_copy / "2_Dense" / SINGLE_FILE)
    (llama_copy / "3_Other").mkdir()
    (llama_copy / "3_Other" / "model.safetensors").write_text("")
    result = prune_checkpoint(llama_copy, tmp_path / "out", pruning_percentage=40)
    assert (tmp_path / "out" / "1_Pooling" / "config.json").read_text() == "{}"
    assert (load_file(tmp_path / "out" / "2_Dense" / SINGLE_FILE)["linear.weight"] == 1).all()
    assert list(result.left_behind) == ["3_Other"]


@pytest.mark.parametrize(
    ("file", "tensor", "match"),
    [
        ("adapter_config.json", None, "Merge it first"),
        ("hf_quant_config.json", None, "weights are quantized"),
        (None, "model.layers.0.mlp.up_proj.weight_scale", "scales of quantized weights"),
    ],
)
def test_weights_that_are_not_all_or_no_plain_numbers_are_refused(
    llama_copy: Path, tmp_path: Path, file: str | None, tensor: str | None, match: str
) -> None:
    if file is not None:
        (llama_copy / file).write_text("{}")
    if tensor is not None:
        edit_tensors(llama_copy, lambda name: name, **{tensor: torch.ones(1)})
    with pytest.raises(UnsupportedModelError, match=match):
        prune_checkpoint(llama_copy, tmp_path / "out", pruning_percentage=40)
    assert not (tmp_path / "out").exists()


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class MineConfig(LlamaConfig):
    model_type = "mine"

class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""


@pytest.mark.parametrize("way", ["by weights", "by layers", "in memory"])
def test_a_model_of_its_own_code_is_served_where_its_code_may_run(
    llama_copy: Path, tmp_path: Path, way: str
) -> None:
    (llama_copy / "mine.py").write_text(CODE)
    config = json.loads((llama_copy / "config.json").read_text())
    auto_map = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    config |= {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": auto_map}
    (llama_copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="--trust-remote-code"):
        prune_checkpoint(llama_copy, tmp_path / "out", **WAYS[way])
    with pytest.raises(CheckpointError, match="--trust-remote-code"):
        analyze_model(llama_copy)
    assert analyze_model(llama_copy, trust_remote_code=True).savings
    prune_checkpoint(llama_copy, tmp_path / "out", **WAYS[way], trust_remote_code=True)
    model = load_model(tmp_path / "out", trust_remote_code=True)
    assert type(model).__name__ == "MineForCausalLM"
    assert (tmp_path / "out" / "mine.py").read_text() == CODE


def test_a_head_of_its_own_counts_though_the_config_ties_it(tmp_path: Path) -> None:
    """transformers unties such a model while it loads it."""
    source = save(tiny_model("llama", tie_word_embeddings=True), tmp_path / "model")
    table = load_file(source / SINGLE_FILE)["model.embed_tokens.weight"]
    edit_tensors(source, lambda name: name, **{"lm_head.weight": table + 1})
    result = prune_checkpoint(source, tmp_path / "out", pruning_percentage=40)
    loaded_again: Any = load_model(tmp_path / "out")
    assert torch.equal(loaded_again.lm_head.weight, table + 1)
    parameters = sum(each.numel() for each in load_model(source).parameters())
    assert result.statistics["original_parameters"] == parameters
    assert analyze_model(source).parameters == parameters
    edit_tensors(source, lambda name: name, **{"lm_head.weight": table.clone()})
    assert analyze_model(source).parameters == parameters - table.numel()


@pytest.mark.parametrize(
    "name", ["model.layers.4.mlp.up_proj.weight", "mtp.layers.0.mlp.up.weight"]
)
def test_layers_that_predict_further_tokens_go_with_the_field_that_counts_them(
    tmp_path: Path, name: str
) -> None:
    source = predicting_further(tmp_path / "model")
    edit_tensors(source, lambda name: name, **{name: torch.ones(4, 8)})
    with pytest.warns(PruningWarning, match="after the next one are left out"):
        result = prune_checkpoint(source, tmp_path / "out", pruning_percentage=40)
    assert result.account["removed_predicting_further"] == 2
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_nextn_predict_layers"] == 0
    prune_checkpoint(source, tmp_path / "depth", "DEPTH", layer_indices=[1])
    kept = json.loads((tmp_path / "depth" / "config.json").read_text())
    assert kept["num_nextn_predict_layers"] == 1
    assert "model.layers.3.eh_proj.weight" in open_checkpoint(tmp_path / "depth").tensors
