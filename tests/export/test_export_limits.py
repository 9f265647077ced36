"""What an export must refuse or leave alone, although the engine would load what was written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from optipfair import export_model
from optipfair.errors import CheckpointError, UnsupportedModelError
from optipfair.export.engine_check import _of_torch, _what_failed
from support.exported import toy_folder


def with_tensors(folder: Path, **changed: Any) -> Path:
    file = folder / "model.safetensors"
    save_file({**load_file(file), **changed}, file, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("family", "fields", "said"),
    [
        ("llama", {"hidden_act": "gelu"}, "activation is 'gelu'"),
        ("mistral", {"sliding_window": 4}, "window of 4 tokens"),
        ("qwen3", {"attention_bias": True}, "llama.cpp does not read"),
    ],
)
def test_a_uniform_model_is_refused_too_where_a_file_cannot_say_it(
    family: str, fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """llama.cpp loads the first two without a word, and computes another model."""
    folder = toy_folder(tmp_path / "model", "uniform", family, **fields)
    with pytest.raises(UnsupportedModelError, match=said):
        export_model(folder, tmp_path / "out", to="llama.cpp")
    assert not (tmp_path / "out").exists()


def test_integers_and_flags_stay_when_floats_change(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "model", "uniform")
    beside = {"model.position_ids": torch.arange(70000), "model.mask": torch.ones(4).bool()}
    export_model(with_tensors(folder, **beside), tmp_path / "out", to="vllm", dtype="bfloat16")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in beside.items())
    assert found["model.norm.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("to", ["mlx", "llama.cpp"])
def test_values_that_float16_has_no_room_for_are_refused(to: str, tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "model", "uniform")
    name = "model.layers.0.mlp.down_proj.weight"
    large = load_file(folder / "model.safetensors")[name]
    large[0, 0] = 1e5
    with_tensors(folder, **{name: large})
    with pytest.raises(UnsupportedModelError, match=r"values up to 1e\+05"):
        export_model(folder, tmp_path / "out", to=to, dtype="float16")
    assert not (tmp_path / "out").exists()
    export_model(folder, tmp_path / "out", to=to, dtype="bfloat16")


def test_a_dtype_that_was_asked_for_is_the_only_one_in_the_config(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "model", "uniform")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    export_model(folder, tmp_path / "out", to="vllm", dtype="bfloat16")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["dtype"] == "bfloat16" and "torch_dtype" not in written


@pytest.mark.parametrize(
    "text", ["not json", "[]", "{}", '{"model": 3}', '{"model": {"type": "BPE"}, "normalizer": 3}']
)
def test_a_damaged_tokenizer_is_one_sentence(text: str, tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "model", "uniform")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        export_model(folder, tmp_path / "out", to="llama.cpp")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("setting", ["end of the text", "penalty"])
def test_a_models_own_generation_settings_do_not_decide_the_check(
    setting: str, tmp_path: Path
) -> None:
    """An end within the first tokens, as a chat model writes it, is a token like any other."""
    folder = toy_folder(tmp_path / "model", "odd widths")
    head = load_file(folder / "model.safetensors")["lm_head.weight"]
    with_tensors(folder, **{"lm_head.weight": head * 25})  # so that no two tokens are a tie
    ends = {"eos_token_id": _of_torch(folder)[0]["tokens"][2]}
    own = ends if setting == "end of the text" else {"repetition_penalty": 1.5}
    (folder / "generation_config.json").write_text(json.dumps(own))
    result = export_model(
        folder,
        tmp_path / "out",
        to="transformers",
        verify_engine=True,
        engine_python=sys.executable,
    )
    assert result.check is not None and result.check.equal == (16, 16, 16)


def test_what_failed_is_the_error_not_the_bar_behind_it() -> None:
    said = "loading\n[rank0]: RuntimeError: no such head_dim\nProcessed prompts:   0%| | 0/3 [00:01"
    assert _what_failed(said) == "[rank0]: RuntimeError: no such head_dim"
    assert _what_failed("one\ntwo.\n\n") == "two"
    assert _what_failed("") == "it said nothing"
