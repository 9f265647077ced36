"""Exports, read by readers of our own: headers, `gguf`, transformers with the modelling file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from optipfair import export_model, load_model, prune_model
from optipfair.errors import (
    ArgumentError,
    OutputError,
    UnknownNameError,
    UnsupportedModelError,
    VerificationError,
)
from optipfair.loading.quiet import quiet_transformers
from optipfair.testing import tiny_model
from support.exported import SHAPES, SMALL, merging_tokenizer, saved, toy_folder
from support.walk import IDS

differing = pytest.mark.parametrize("shape", [name for name in SHAPES if name != "uniform"])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found


@differing
def test_decilm_holds_the_same_model(shape: str, tmp_path: Path) -> None:
    """Padded neurons give nothing, and each layer's entry says what its tensors are."""
    folder = toy_folder(tmp_path / "model", shape)
    result = export_model(folder, tmp_path / "out", to="vllm")
    assert result.form == "decilm"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    expected = logits(load_model(folder))
    torch.testing.assert_close(by_decilm(config, tensors), expected, atol=1e-5, rtol=0)
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert (tmp_path / "out" / "configuration_decilm.py").is_file()


def by_decilm(config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Tensor:
    """What an engine computes: each layer is built from its entry of `block_configs` alone."""
    model: Any = tiny_model("llama", **SMALL)
    for index, block in enumerate(config["block_configs"]):
        layer, head = model.model.layers[index], f"model.layers.{index}."
        if block["attention"]["no_op"]:
            layer.self_attn.o_proj.weight.data.zero_()
        else:
            groups = config["num_attention_heads"] // block["attention"]["n_heads_in_group"]
            keys = tensors[f"{head}self_attn.k_proj.weight"]
            assert len(keys) == groups * config["head_dim"]
            if groups == 1:  # of a first layer without attention
                assert not tensors.pop(f"{head}self_attn.o_proj.weight").any()
                layer.self_attn.o_proj.weight.data.zero_()
                for name in ("k_proj", "v_proj", "q_proj"):
                    tensors.pop(f"{head}self_attn.{name}.weight")
        if block["ffn"]["no_op"]:
            layer.mlp.down_proj.weight.data.zero_()
            continue
        width = -(-int(2 * block["ffn"]["ffn_mult"] * config["hidden_size"] / 3) // 256) * 256
        for name in ("gate_proj", "up_proj", "down_proj"):
            weight = tensors[f"{head}mlp.{name}.weight"]
            assert width in weight.shape
            getattr(layer.mlp, name).weight.data = weight
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert not [name for name in missing if "self_attn.q" in name and "layers.3" in name][1:]
    return logits(model)


@differing
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_transformers_loads_the_folder_with_its_modelling_file(
    shape: str, family: str, tmp_path: Path
) -> None:
    folder = toy_folder(tmp_path / "model", shape, family)
    export_model(folder, tmp_path / "out", to="transformers")
    with quiet_transformers():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(loaded).__name__ == "LayersDifferForCausalLM"
    expected = load_model(folder)
    assert torch.equal(logits(loaded.eval()), logits(expected))
    texts = [
        model.generate(IDS, max_new_tokens=6, do_sample=False, pad_token_id=0).tolist()
        for model in (loaded, expected)
    ]
    assert texts[0] == texts[1]


def test_without_its_code_transformers_refuses_that_folder(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "model", "middle without both")
    export_model(folder, tmp_path / "out", to="transformers")
    with quiet_transformers(), pytest.raises((RuntimeError, ValueError)):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "q8_0"])
def test_a_uniform_model_becomes_a_file_that_is_read_back(
    family: str, dtype: str, tmp_path: Path
) -> None:
    folder = toy_folder(tmp_path / "model", "uniform", family)
    export_model(folder, tmp_path / "out", to="llama.cpp", dtype=dtype)
    model: Any = load_model(folder)
    again: Any = load_model(tmp_path / "out" / "model.gguf", dtype="float32")
    limit = {"float32": 1e-5, "bfloat16": 2e-2, "q8_0": 2e-2}[dtype]
    assert (logits(again) - logits(model)).abs().max() < limit * logits(model).abs().max()
    if dtype == "bfloat16":
        rounded = {n: t.bfloat16().float() for n, t in model.state_dict().items() if t.dim() == 2}
        state = again.state_dict()
        assert all(torch.equal(state[name], rounded[name]) for name in rounded)


@differing
def test_a_deci_file_says_each_layer_as_its_tensors_are(shape: str, tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "model", shape)
    export_model(folder, tmp_path / "out", to="llama.cpp", dtype="float32")
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "deci"
    shapes = {t.name: tuple(int(n) for n in reversed(t.shape)) for t in reader.tensors}
    widths, heads = fields["deci.feed_forward_length"], fields["deci.attention.head_count"]
    groups = fields["deci.attention.head_count_kv"]
    assert heads[0] > 0 and all(width > 0 for width in widths)
    for index, (width, count, kept) in enumerate(zip(widths, heads, groups, strict=True)):
        assert shapes[f"blk.{index}.ffn_down.weight"] == (128, width)
        if count and kept:
            assert shapes[f"blk.{index}.attn_k.weight"] == (kept * 32, 128)
        else:
            assert f"blk.{index}.attn_q.weight" not in shapes
    weights = sum(tensor.n_bytes for tensor in reader.tensors)
    source = sum(t.numel() * 4 for t in load_file(folder / "model.safetensors").values())
    assert weights <= source * 1.05 + 4 * 128 * 160  # what stands in for parts that are gone


def test_the_tokenizer_of_a_file_is_that_of_the_folder(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "model", "uniform")
    export_model(folder, tmp_path / "out", to="llama.cpp")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with quiet_transformers():
        again = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="model.gguf")
    text = "Two cats, 3 dogs: naïve café.\n\tend"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.eos_token_id == tokenizer.eos_token_id


def test_a_file_is_replaced_where_it_may_be(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "model", "uniform")
    for _ in range(2):
        export_model(folder, tmp_path / "out", to="llama.cpp", overwrite=True)
    with pytest.raises(OutputError, match="overwrite"):
        export_model(folder, tmp_path / "out", to="llama.cpp")
    (tmp_path / "out" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="letter"):
        export_model(folder, tmp_path / "out", to="llama.cpp", overwrite=True)


def test_llama_3_positions_are_written_as_factors(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    }
    folder = toy_folder(tmp_path / "model", "uniform", rope_parameters=rope, head_dim=16)
    export_model(folder, tmp_path / "out", to="llama.cpp", dtype="float32")
    again = load_model(tmp_path / "out" / "model.gguf", dtype="float32")
    torch.testing.assert_close(logits(again), logits(load_model(folder)), atol=1e-4, rtol=0)
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    (factors,) = (t.data for t in reader.tensors if t.name == "rope_freqs.weight")
    # The values that the reader's tests hold against Llama 3.1's formula.
    wanted = [1.0, 1.0, 3.568533, 8.0, 8.0, 8.0, 8.0, 8.0]
    np.testing.assert_allclose(factors, wanted, rtol=1e-5)


def test_a_uniform_model_stays_as_it_is_but_for_what_mlx_reads(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "model", "uniform")
    (folder / "notes.txt").write_text("mine")
    result = export_model(folder, tmp_path / "out", to="mlx")
    assert result.form == "as it is"
    found, source = (load_file(f / "model.safetensors") for f in (tmp_path / "out", folder))
    assert found.keys() == source.keys()
    assert all(torch.equal(found[name], source[name]) for name in found)
    before, after = (
        json.loads((f / "config.json").read_text()) for f in (folder, result.output_path)
    )
    added = {name: after[name] for name in after.keys() - before.keys()}
    assert added == {"rope_theta": before["rope_parameters"]["rope_theta"], "rope_scaling": None}
    half = export_model(folder, tmp_path / "half", to="mlx", dtype="float16")
    assert half.bytes < 0.6 * result.bytes


@pytest.mark.parametrize(
    ("family", "to", "fields", "said"),
    [
        ("qwen3", "vllm", {}, "not built like Llama"),
        ("gemma2", "mlx", {}, "not built like Llama"),
        ("gemma2", "llama.cpp", {}, "pattern of the layers"),
        ("opt", "llama.cpp", {}, "is not written here"),
        ("llama", "mlx", {"head_dim": 64}, "heads are of 64 numbers"),
        ("llama", "vllm", {"hidden_act": "gelu"}, "activation is 'gelu'"),
        ("mistral", "vllm", {"sliding_window": 32}, "window of 32 tokens"),
        ("qwen2", "vllm", {}, "gone but for its bias"),
        (
            "llama",
            "llama.cpp",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
            "of the kind 'yarn'",
        ),
    ],
)
def test_what_an_engine_cannot_express_is_refused(
    family: str, to: str, fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    own = {"attention_bias": True} if said.startswith("gone") else {}
    toy = "llama" if own else family
    model = tiny_model(toy, **{**(SMALL if toy in ("llama", "mistral") else {}), **fields, **own})
    block = "attention.1" if own else "mlp.1"
    prune_model(model, "BLOCKS", blocks=[block], show_progress=False)
    saved(model, merging_tokenizer(), tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match=said):
        export_model(tmp_path / "model", tmp_path / "out", to=to)
    assert not (tmp_path / "out").exists()


def test_what_is_asked_wrongly_is_said(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "model", "uniform")
    with pytest.raises(UnknownNameError, match="engine"):
        export_model(folder, tmp_path / "out", to="vlm")
    with pytest.raises(UnknownNameError, match="dtype"):
        export_model(folder, tmp_path / "out", to="mlx", dtype="q8_0")
    with pytest.raises(ArgumentError, match="llama-quantize"):
        export_model(folder, tmp_path / "out", to="llama.cpp", dtype="q4_k_m")
    with pytest.raises(ArgumentError, match="name of a file"):
        export_model(folder, tmp_path / "out.gguf", to="llama.cpp")
    with pytest.raises(ArgumentError, match="is no program"):
        export_model(
            folder, tmp_path / "out", to="mlx", verify_engine=True, engine_python="no-python"
        )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError):
        export_model(folder, tmp_path / "mine", to="mlx", overwrite=True)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModelError, match=r"no tokenizer\.json"):
        export_model(folder, tmp_path / "out", to="llama.cpp")
    assert not (tmp_path / "out").exists()


def test_an_unknown_splitting_of_text_is_refused(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "model", "uniform")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UnsupportedModelError, match="splits text"):
        export_model(folder, tmp_path / "out", to="llama.cpp")


def test_the_engine_check_passes_and_fails_where_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers itself, in this Python, as the engine."""
    folder = toy_folder(tmp_path / "model", "odd widths")
    ask: dict[str, Any] = {"to": "transformers", "verify_engine": True}
    result = export_model(folder, tmp_path / "out", **ask, engine_python=sys.executable)
    assert result.check is not None and result.check.equal == (16, 16, 16)
    assert result.check.difference < 1e-4

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        for file in (tmp_path).rglob("new/model.safetensors"):
            tensors = load_file(file)
            tensors["model.layers.1.mlp.down_proj.weight"] *= 40
            save_file(tensors, file, {"format": "pt"})
        return run(*args, **kwargs)

    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", spoiled)
    with pytest.raises(VerificationError, match="does not compute"):
        export_model(folder, tmp_path / "other", **ask, engine_python=sys.executable)
    assert not (tmp_path / "other").exists()


def test_an_engine_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPTIPFAIR_ENGINES", raising=False)
    folder = toy_folder(tmp_path / "model", "uniform")
    with pytest.raises(ArgumentError, match="pip install"):
        export_model(folder, tmp_path / "out", to="vllm", verify_engine=True)
    assert not (tmp_path / "out").exists()
