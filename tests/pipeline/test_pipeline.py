"""From a model's name to a folder: what lies in it, and that it appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.repocard import metadata_load
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
)

from optipfair import (
    DataError,
    OutputError,
    PruningPlan,
    PruningWarning,
    VerificationError,
    apply_plan,
    load_model,
    load_tokenizer,
    plan_pruning,
    prune_checkpoint,
    prune_model,
)
from optipfair.checkpoint import pruned
from optipfair.checkpoint.stored_layers import NeedsModelError
from optipfair.files import safetensors_writer as writer
from optipfair.files.safetensors_reader import SINGLE_FILE, open_checkpoint
from optipfair.pipeline import run as deciding
from optipfair.pipeline import run as running
from optipfair.pipeline.prune import PLAN_FILE, reloaded_difference
from optipfair.pruning.calibration.calibration_texts import CalibrationText
from optipfair.pruning.calibration.text_cost import cost_of, final_states
from optipfair.testing import byte_tokenizer, tiny_model
from support.interrupts import interrupt

Untouched = Callable[[Path], AbstractContextManager[None]]

WAYS: list[dict[str, Any]] = [
    {"pruning_percentage": 40},
    {"expansion_rate": 120, "neuron_selection_method": "VOW"},
    {"pruning_type": "DEPTH", "num_layers_to_remove": 2},
    {"pruning_type": "DEPTH", "layer_indices": [0, 2]},
    {"pruning_type": "BOTH", "pruning_percentage": 40, "layer_indices": [1]},
]
DATA = [torch.arange(24).view(2, 12)]


def load_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files not be enough to decide, so that the model is loaded."""

    def fail(*_: Any, **__: Any) -> None:
        raise NeedsModelError("the test says so")

    monkeypatch.setattr(deciding, "decide_stored", fail)


def same_tensors(one: Any, other: Any) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(
        torch.equal(mine[name], theirs[name]) for name in mine
    )


@pytest.mark.filterwarnings("ignore:The kept width of experts")
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3", "gpt2", "qwen2_moe"])
def test_pruned_on_disk_equals_pruned_in_memory(
    tmp_path: Path, family: str, way: dict[str, Any]
) -> None:
    tiny_model(family).save_pretrained(tmp_path / "model")
    prune_checkpoint(tmp_path / "model", tmp_path / "out", **way)
    in_memory = prune_model(tiny_model(family), **way, show_progress=False)
    assert same_tensors(AutoModelForCausalLM.from_pretrained(tmp_path / "out"), in_memory)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_plan_gives_the_same_model_again(
    llama_folder: Path, tmp_path: Path, way: dict[str, Any]
) -> None:
    result = prune_checkpoint(llama_folder, tmp_path / "out", **way)
    plan = PruningPlan.load(tmp_path / "out" / PLAN_FILE)
    assert plan == result.plan
    again = apply_plan(load_model(llama_folder), plan)
    assert same_tensors(again, load_model(tmp_path / "out"))


def test_without_a_target_ten_percent_of_the_neurons_go(llama_folder: Path, tmp_path: Path) -> None:
    prune_checkpoint(llama_folder, tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").intermediate_size == 36


@pytest.mark.parametrize("method", ["angular", "perplexity"])
def test_layers_chosen_and_made_up_for_on_data_are_written(
    method: str, llama_folder: Path, tmp_path: Path
) -> None:
    data = [torch.randint(0, 256, (32, 16), generator=torch.Generator().manual_seed(0))]
    result = prune_checkpoint(
        llama_folder,
        tmp_path / "out",
        "DEPTH",
        num_layers_to_remove=1,
        layer_selection_method=method,
        dataloader=data,
        compensate=True,
        verify="full",
    )
    (block,) = result.plan.request["replaced_blocks"]
    assert (block["first"],) == result.plan.drop_layers
    assert "makes up for it" in (tmp_path / "out" / "README.md").read_text()


def test_calibration_data_decide(llama_folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    result = prune_checkpoint(
        llama_folder, tmp_path / "out", pruning_percentage=50, dataloader=DATA, say=told.append
    )
    assert result.streamed
    weights_only = prune_checkpoint(
        llama_folder, tmp_path / "other", pruning_percentage=50, say=told.append
    )
    assert told == []
    assert result.plan.width_cuts != weights_only.plan.width_cuts
    assert "calibration data" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:The kept width of experts")
@pytest.mark.parametrize("planned", [False, True])
def test_experts_that_are_fused_as_in_memory_are_cut_in_that_form(
    tmp_path: Path, planned: bool
) -> None:
    """Most are stored apart."""
    model = tiny_model("mixtral")
    model.save_pretrained(tmp_path / "model")
    save_file(model.state_dict(), tmp_path / "model" / SINGLE_FILE, metadata={"format": "pt"})
    way: dict[str, Any] = {"pruning_percentage": 50}
    if planned:
        way = {"plan": plan_pruning(model, **way)}
    told: list[str] = []
    result = prune_checkpoint(tmp_path / "model", tmp_path / "out", **way, say=told.append)
    assert (result.streamed, told) == (True, [])
    assert open_checkpoint(tmp_path / "out").tensors.keys() == model.state_dict().keys()
    in_memory = prune_model(tiny_model("mixtral"), pruning_percentage=50, show_progress=False)
    assert same_tensors(load_model(tmp_path / "out"), in_memory)


def test_shards_are_read(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    prune_checkpoint(tmp_path / "model", tmp_path / "out", pruning_percentage=40)
    in_memory = prune_model(tiny_model("llama"), pruning_percentage=40, show_progress=False)
    assert same_tensors(load_model(tmp_path / "out"), in_memory)


@pytest.mark.parametrize(
    ("stored", "asked", "written"),
    [
        ("bfloat16", "auto", "BF16"),
        ("float16", "auto", "F16"),
        ("float32", "auto", "F32"),
        ("bfloat16", "float16", "F16"),
        ("float32", "bfloat16", "BF16"),
    ],
)
def test_the_dtype_is_kept_or_as_asked(
    tmp_path: Path, stored: str, asked: str, written: str
) -> None:
    tiny_model("llama").to(getattr(torch, stored)).save_pretrained(tmp_path / "model")
    prune_checkpoint(tmp_path / "model", tmp_path / "out", dtype=asked)
    tensors = open_checkpoint(tmp_path / "out").tensors.values()
    assert {tensor.dtype for tensor in tensors} == {written}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] in (stored, asked)


def test_what_belongs_to_the_model_comes_along(llama_copy: Path, tmp_path: Path) -> None:
    tokenizer: Any = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}!"
    tokenizer.save_pretrained(llama_copy)
    (llama_copy / "NOTICE.txt").write_text("Mine.")
    (llama_copy / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6}')
    prune_checkpoint(llama_copy, tmp_path / "out")
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.apply_chat_template([{"content": "hi"}], tokenize=False) == "hi!"
    assert (tmp_path / "out" / "LICENSE").read_text() == "Do what you like.\n"
    assert (tmp_path / "out" / "NOTICE.txt").read_text() == "Mine."
    kept = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (kept["do_sample"], kept["temperature"]) == (True, 0.6)


def test_a_folder_of_licences_comes_along(llama_copy: Path, tmp_path: Path) -> None:
    (llama_copy / "LICENSES").mkdir()
    (llama_copy / "LICENSES" / "MIT.txt").write_text("MIT")
    prune_checkpoint(llama_copy, tmp_path / "out")
    assert (tmp_path / "out" / "LICENSES" / "MIT.txt").read_text() == "MIT"


def test_contradicting_generation_settings_do_not_stop_it(llama_copy: Path, tmp_path: Path) -> None:
    """Many published models carry such; transformers reads but does not write them."""
    text = '{"do_sample": false, "temperature": 0.6, "top_p": 0.9}'
    (llama_copy / "generation_config.json").write_text(text)
    prune_checkpoint(llama_copy, tmp_path / "out")
    assert (tmp_path / "out" / "generation_config.json").is_file()


def test_the_card_says_what_was_done_to_what(llama_copy: Path, tmp_path: Path) -> None:
    (llama_copy / "README.md").write_text("---\nlicense: mit\n---\n# Llama\n")
    result = prune_checkpoint(llama_copy, tmp_path / "out", pruning_percentage=25, command="do it")
    card = tmp_path / "out" / "README.md"
    metadata = metadata_load(card)
    assert metadata is not None
    assert metadata["license"] == "mit"
    assert {"optipfair", "pruned", "width-pruning"} <= set(metadata["tags"])
    assert metadata["library_name"] == "transformers"
    assert "base_model" not in metadata, "a folder's name is no model of the Hub"
    for fact in ("Kept 30 of 40 neurons", "`do it`", result.plan.digest, "chosen by PPM", "# out"):
        assert fact in card.read_text()


def test_the_card_of_a_depth_pruned_model_names_the_layers(
    llama_folder: Path, tmp_path: Path
) -> None:
    prune_checkpoint(llama_folder, tmp_path / "out", "DEPTH", layer_indices=[1, 2])
    metadata = metadata_load(tmp_path / "out" / "README.md")
    assert metadata is not None
    assert "depth-pruning" in metadata["tags"]
    assert "license" not in metadata
    assert "Removed 2 of 4 decoder layers (1, 2)" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_of_both_names_both(llama_folder: Path, tmp_path: Path) -> None:
    prune_checkpoint(
        llama_folder, tmp_path / "out", "BOTH", pruning_percentage=25, num_layers_to_remove=1
    )
    metadata = metadata_load(tmp_path / "out" / "README.md")
    assert metadata is not None
    assert {"width-pruning", "depth-pruning"} <= set(metadata["tags"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Removed 1 of 4 decoder layers (3). Kept 30 of 40 neurons in each mlp." in card


def test_the_card_speaks_of_each_expert(tmp_path: Path) -> None:
    tiny_model("mixtral").save_pretrained(tmp_path / "model")
    plan = prune_checkpoint(tmp_path / "model", tmp_path / "out", pruning_percentage=20).plan
    kept = plan.width_cuts[0].kept
    card = (tmp_path / "out" / "README.md").read_text()
    assert re.search(rf"Kept {kept} of \d+ neurons in each expert\.", card)


@pytest.mark.parametrize(
    "card",
    [
        b"# No front matter",
        b"---\nlicense: [a\n---\n",
        b"---\nlicense: \xff\n---\n",
        b"---\njust words\n---\n",
        b"---\nlicense: [mit, apache-2.0]\n---\n",
    ],
)
def test_a_broken_card_of_the_base_does_not_stop_it(
    llama_copy: Path, tmp_path: Path, card: bytes
) -> None:
    (llama_copy / "README.md").write_bytes(card)
    prune_checkpoint(llama_copy, tmp_path / "out")
    assert metadata_load(tmp_path / "out" / "README.md")


@pytest.mark.parametrize("loads", [False, True], ids=["streamed", "loaded"])
@pytest.mark.parametrize("way", [*WAYS, {"dataloader": DATA}], ids=str)
def test_the_figures_are_those_of_the_written_model(
    llama_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: dict[str, Any],
    loads: bool,
) -> None:
    if loads:
        load_instead(monkeypatch)
    result = prune_checkpoint(llama_folder, tmp_path / "out", **way)
    before, after = open_checkpoint(llama_folder), open_checkpoint(tmp_path / "out")
    assert result.statistics["original_bytes"] == before.nbytes
    assert result.statistics["pruned_bytes"] == after.nbytes
    for name, folder in (("original", llama_folder), ("pruned", tmp_path / "out")):
        on_disk = (folder / SINGLE_FILE).stat().st_size
        assert result.statistics[f"{name}_file_bytes"] == on_disk
    assert result.statistics["pruned_parameters"] == sum(t.numel for t in after.tensors.values())
    assert result.streamed is not loads
    assert (result.verified, result.logits_difference) == ("fast", None if result.streamed else 0)
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_full_verification_compares_the_loaded_result_with_a_live_cut(
    llama_folder: Path, tmp_path: Path, way: dict[str, Any]
) -> None:
    result = prune_checkpoint(llama_folder, tmp_path / "out", **way, verify="full")
    assert (result.streamed, result.verified, result.logits_difference) == (True, "full", 0)


@pytest.mark.parametrize("loads", [False, True], ids=["streamed", "loaded"])
@pytest.mark.parametrize("method", ["AUTO", "OBS"])
def test_full_verification_knows_what_kept_neurons_make_up_for(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, loads: bool
) -> None:
    if loads:
        load_instead(monkeypatch)
    ids = torch.randint(0, 256, (64, 16), generator=torch.Generator().manual_seed(0))
    result = prune_checkpoint(
        *(llama_folder, tmp_path / "out", "MLP_GLU", method, 50),
        dataloader=[ids],
        verify="full",
    )
    assert (result.streamed, result.verified, result.logits_difference) == (not loads, "full", 0)
    planned = apply_plan(load_model(llama_folder), result.plan)
    assert same_tensors(load_model(tmp_path / "out"), planned)
    assert bool(result.plan.replacements) is (method == "AUTO")


BAD_TEXTS: list[tuple[str, bytes, str]] = [
    ("x.txt", b"\xff\xfe\xff", "x.txt cannot be read"),
    ("x.txt", b"", "holds only blank text"),
    ("x.txt", b"short", "has 5 tokens, a sequence takes 16"),
    ("x.jsonl", b'{"text": "a"}\n{"text', "line 2 is not valid JSON"),
    (
        "x.jsonl",
        b'{"text": 3}\n',
        "line 1 holds no field that is known as text. Its fields are 'text'",
    ),
]


@pytest.mark.parametrize(("name", "content", "match"), BAD_TEXTS, ids=lambda value: str(value)[:20])
def test_a_text_that_cannot_be_used_is_refused_before_the_model_is_loaded(
    llama_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    untouched: Untouched,
    name: str,
    content: bytes,
    match: str,
) -> None:
    text = llama_copy.parent / name
    text.write_bytes(content)
    monkeypatch.delattr(deciding, "load_model")
    with untouched(llama_copy.parent), pytest.raises(DataError, match=match):
        prune_checkpoint(
            *(llama_copy, llama_copy.parent / "out", "MLP_GLU", "AUTO"),
            calibration=text,
            calibration_length=16,
        )


def test_text_without_a_tokenizer_is_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    (tmp_path / "x.txt").write_text("text " * 99)
    monkeypatch.delattr(deciding, "load_model")
    with pytest.raises(DataError, match="has no tokenizer"):
        prune_checkpoint(tmp_path / "model", tmp_path / "out", calibration=tmp_path / "x.txt")


def test_the_plan_says_which_text_it_was_calibrated_on(llama_folder: Path, tmp_path: Path) -> None:
    text = " ".join(f"{n} words, and {n * n} more of them." for n in range(40))
    (tmp_path / "x.txt").write_text(text)
    result = prune_checkpoint(
        *(llama_folder, tmp_path / "out", "MLP_GLU", "ACT"),
        calibration=tmp_path / "x.txt",
        calibration_samples=6,
        calibration_length=16,
    )
    record = dict(result.plan.request["calibration"])
    assert len(record.pop("sha256")) == 16
    assert record.pop("text_sha256") == hashlib.sha256(text.encode()).hexdigest()
    assert record == {"source": "x.txt", "samples": 6, "length": 16, "seed": 0}


def test_an_output_inside_the_input_is_refused(llama_copy: Path, untouched: Untouched) -> None:
    with untouched(llama_copy.parent), pytest.raises(OutputError, match="lies inside the input"):
        prune_checkpoint(llama_copy, llama_copy / "smaller")


def test_a_model_without_tokenizer_is_pruned(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    result = prune_checkpoint(tmp_path / "model", tmp_path / "out")
    assert not result.has_tokenizer
    assert not list((tmp_path / "out").glob("*token*"))


def test_verification_can_be_left_out(llama_folder: Path, tmp_path: Path) -> None:
    for number, way in enumerate([{"verify": False}, {"verify": "none", "dataloader": DATA}]):
        result = prune_checkpoint(llama_folder, tmp_path / str(number), **way)  # type: ignore[arg-type]
        assert (result.verified, result.logits_difference) == ("none", None)


def test_a_model_that_reloads_differently_is_noticed(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    assert reloaded_difference(model, tmp_path) == 0
    with torch.no_grad():
        model.lm_head.weight[3, 2] += 0.1
    with pytest.raises(VerificationError, match="logits differ by"):
        reloaded_difference(model, tmp_path)


def test_an_infinite_or_undefined_difference_is_noticed(tmp_path: Path) -> None:
    for value in (float("inf"), float("nan")):
        model = tiny_model("llama")
        model.save_pretrained(tmp_path)
        with torch.no_grad():
            model.lm_head.weight[3, 2] = value
        with pytest.raises(VerificationError, match="logits differ by"):
            reloaded_difference(model, tmp_path)


def disk_full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def half_a_file_then_interrupt(path: Path, *_: Any) -> None:
    path.write_bytes(b"half")
    interrupt()


# Whose function fails how.
FAILURES: list[tuple[Any, str, Callable[..., None], type[BaseException]]] = [
    (writer, "_reserve", disk_full, OSError),
    (writer, "_write_tensor", disk_full, OSError),  # in a thread
    (writer, "_check_and_flush", disk_full, OSError),  # in a thread, all is written
    (writer, "_write_shard", interrupt, KeyboardInterrupt),
    (writer, "_write_shard", half_a_file_then_interrupt, KeyboardInterrupt),
    (writer, "_check_and_flush", interrupt, KeyboardInterrupt),
    (pruned, "write_config", disk_full, OSError),
]


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("loads", [False, True], ids=["streamed", "loaded"])
@pytest.mark.parametrize(("owner", "name", "fail", "error"), FAILURES)
@pytest.mark.parametrize("output", ["out", "new/parents/out"])
def test_a_failure_while_writing_leaves_nothing(
    llama_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    untouched: Untouched,
    output: str,
    loads: bool,
    owner: Any,
    name: str,
    fail: Callable[..., None],
    error: type[BaseException],
) -> None:
    monkeypatch.setattr(owner, name, fail)
    if loads:
        load_instead(monkeypatch)
    with untouched(llama_copy.parent), pytest.raises(error):
        prune_checkpoint(llama_copy, llama_copy.parent / output)


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("loads", [False, True], ids=["streamed", "loaded"])
def test_a_failure_keeps_the_model_that_was_to_be_replaced(
    llama_copy: Path, monkeypatch: pytest.MonkeyPatch, untouched: Untouched, loads: bool
) -> None:
    output = llama_copy.parent / "out"
    prune_checkpoint(llama_copy, output)
    if loads:
        load_instead(monkeypatch)
    monkeypatch.setattr(writer, "_write_shard", half_a_file_then_interrupt)
    with untouched(llama_copy.parent), pytest.raises(KeyboardInterrupt):
        prune_checkpoint(llama_copy, output, pruning_percentage=50, overwrite=True)


def test_a_result_that_reloads_differently_is_not_written(
    llama_copy: Path, monkeypatch: pytest.MonkeyPatch, untouched: Untouched
) -> None:
    def apply_and_drift(model: Any, *plan: Any) -> Any:
        pruned = apply_plan(model, *plan)
        pruned.lm_head.weight.data += 1
        return pruned

    monkeypatch.setattr(running, "apply_plan", apply_and_drift)
    load_instead(monkeypatch)
    with (
        untouched(llama_copy.parent),
        pytest.raises(VerificationError, match=r"logits differ by.*Nothing was written"),
    ):
        prune_checkpoint(llama_copy, llama_copy.parent / "out")


def damage(folder: Path, *names: str) -> None:
    """Flip all bits of tensors in a written checkpoint."""
    for name, info in open_checkpoint(folder).tensors.items():
        if name.endswith(names):
            content = bytearray(info.file.read_bytes())
            content[info.start : info.end] = bytes(255 - b for b in content[info.start : info.end])
            info.file.write_bytes(content)


def rename_a_tensor(folder: Path) -> None:
    file = folder / SINGLE_FILE
    file.write_bytes(file.read_bytes().replace(b"model.norm.weight", b"model.form.weight", 1))


@pytest.mark.parametrize(
    ("spoil", "verify", "match"),
    [
        (lambda folder: damage(folder, "_proj.weight"), "fast", "not as planned: .*mlp"),
        (rename_a_tensor, "fast", "not as planned: model.form.weight, model.norm.weight"),
        # Copied bytes are compared while writing; later damage is seen by loading.
        (lambda folder: damage(folder, "lm_head.weight"), "full", "logits differ by"),
    ],
    ids=["cut tensors", "header", "copied tensor"],
)
def test_files_that_are_not_as_planned_are_not_kept(
    llama_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    untouched: Untouched,
    spoil: Callable[[Path], None],
    verify: str,
    match: str,
) -> None:
    write = running.write_checkpoint

    def write_and_spoil(stored: Any, new: Any, folder: Path, **options: Any) -> None:
        write(stored, new, folder, **options)
        spoil(folder)

    monkeypatch.setattr(running, "write_checkpoint", write_and_spoil)
    with untouched(llama_copy.parent), pytest.raises(VerificationError, match=match):
        prune_checkpoint(llama_copy, llama_copy.parent / "out", verify=verify)


@pytest.mark.parametrize("verify", ["fast", "none"])
def test_a_disk_that_copies_wrongly_is_noticed_while_writing(
    llama_copy: Path, monkeypatch: pytest.MonkeyPatch, untouched: Untouched, verify: str
) -> None:
    copy = writer._copy

    def copy_and_drop_a_byte(file: int, position: int, *rest: Any) -> None:
        copy(file, position, *rest)
        writer._write_at(file, position, memoryview(b"\x55"))

    monkeypatch.setattr(writer, "_copy", copy_and_drop_a_byte)
    with untouched(llama_copy.parent), pytest.raises(VerificationError, match="as it was read"):
        prune_checkpoint(llama_copy, llama_copy.parent / "out", verify=verify)


def test_overwriting_puts_the_new_model_in_the_place_of_the_old(
    llama_folder: Path, tmp_path: Path
) -> None:
    prune_checkpoint(llama_folder, tmp_path / "out", pruning_percentage=50)
    with pytest.raises(OutputError, match="overwrite=True"):
        prune_checkpoint(llama_folder, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"no run has written.*notes\.txt"):
        prune_checkpoint(llama_folder, tmp_path / "out", overwrite=True)
    (tmp_path / "out" / "notes.txt").unlink()
    prune_checkpoint(llama_folder, tmp_path / "out", pruning_percentage=25, overwrite=True)
    assert AutoConfig.from_pretrained(tmp_path / "out").intermediate_size == 30
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_result_can_be_pruned_again(llama_folder: Path, tmp_path: Path) -> None:
    prune_checkpoint(llama_folder, tmp_path / "a", pruning_percentage=50)
    prune_checkpoint(tmp_path / "a", tmp_path / "b", "DEPTH", num_layers_to_remove=1)
    config = AutoConfig.from_pretrained(tmp_path / "b")
    assert (config.intermediate_size, config.num_hidden_layers) == (20, 3)


@pytest.fixture(scope="module")
def long_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "long.txt"
    path.write_text(" ".join(f"{n} foxes jump over {n * n} dogs." for n in range(90)))
    return path


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_the_cost_is_measured_on_held_back_text(
    family: str, tmp_path: Path, long_text: Path
) -> None:
    """Streamed from disk, against both models in memory."""
    folder = tmp_path / "model"
    tiny_model(family, tie_word_embeddings=False).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    options = {"calibration_samples": 4, "calibration_length": 32}
    result = prune_checkpoint(
        *(folder, tmp_path / "out", "MLP_GLU", "WACT", 60), calibration=long_text, **options
    )
    assert result.streamed and result.cost is not None
    held_back = CalibrationText(str(long_text), 4, 32).draw(load_tokenizer(folder)).held_back
    before, after = load_model(folder), load_model(tmp_path / "out")
    expected = cost_of(
        before, held_back, final_states(before, held_back), final_states(after, held_back)
    )
    assert expected is not None
    assert result.cost.to_dict() == pytest.approx(expected.to_dict(), rel=1e-4)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"Measured: {result.cost.in_words()}." in card
    assert json.loads(json.dumps(result.to_dict()))["cost"]["tokens"] == expected.tokens


def test_perplexity_on_text_that_was_calibrated_on_is_said_everywhere(
    tmp_path: Path, llama_folder: Path
) -> None:
    (tmp_path / "x.txt").write_text("A quick brown fox jumps over the lazy dog. " * 60)
    with pytest.warns(PruningWarning, match="100 % of the text that perplexity was measured on"):
        result = prune_checkpoint(
            *(llama_folder, tmp_path / "out", "MLP_GLU", "ACT", 50),
            calibration=tmp_path / "x.txt",
            calibration_samples=4,
            calibration_length=32,
        )
    assert result.to_dict()["cost"]["repeated"] == 1.0
    (said,) = result.to_dict()["warnings"]
    assert "stands in the calibration text too" in said
    assert f"- {said}" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_the_cost_is_not_measured_where_nobody_asks_or_nothing_is_left(
    tmp_path: Path, llama_folder: Path, long_text: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("a b c " * 12, encoding="utf-8")
    few = {"calibration_samples": 2, "calibration_length": 32}
    for name, options in {
        "skipped": {"calibration": long_text, "evaluate": False},
        "short": {"calibration": short},
    }.items():
        result = prune_checkpoint(
            *(llama_folder, tmp_path / name, "MLP_GLU", "WACT", 20), **options, **few
        )
        assert result.cost is None


def test_a_large_loss_is_said_in_words(
    tmp_path: Path, llama_folder: Path, long_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optipfair.pipeline.prune.LARGE", 0.1)
    with pytest.warns(PruningWarning, match="Perplexity rose .*--preset quality"):
        prune_checkpoint(
            *(llama_folder, tmp_path / "out", "MLP_GLU", "WACT", 20),
            calibration=long_text,
            calibration_samples=4,
            calibration_length=32,
        )


def test_a_pattern_that_other_readers_have_in_their_code_is_warned_of(tmp_path: Path) -> None:
    tiny_model("gemma2").save_pretrained(tmp_path / "model")
    said = "llama.cpp takes every second layer of 'gemma2'"
    with pytest.warns(PruningWarning, match=said):
        result = prune_checkpoint(
            *(tmp_path / "model", tmp_path / "out"), pruning_type="DEPTH", layer_indices=[1]
        )
    assert said in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert said in result.to_dict()["warnings"][0]
    prune_checkpoint(
        *(tmp_path / "model", tmp_path / "two"), pruning_type="DEPTH", layer_indices=[0, 1]
    )
