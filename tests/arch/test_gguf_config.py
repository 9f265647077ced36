"""What a `.gguf` file states arrives in the config, or the file is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import CheckpointError, UnsupportedModelError, load_model
from optipfair.files.gguf_header import read_gguf_header
from optipfair.loading.models import load_config
from optipfair.loading.sources import find_source
from optipfair.testing import tiny_model
from support.gguf_files import GGUF_TOYS, gguf_toy, write_gguf

IDS = torch.randint(0, 250, (1, 60), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", GGUF_TOYS)
def test_the_model_of_a_file_is_the_one_that_was_written(tmp_path: Path, name: str) -> None:
    written = gguf_toy(tmp_path / "toy.gguf", name)
    read: Any = load_model(tmp_path / "toy.gguf")
    with torch.no_grad():
        expected, found = written(IDS).logits, read(IDS).logits
    assert (expected - found).abs().max() < 1e-5


def test_the_scaling_of_llama_3_is_recognized_by_its_factors(tmp_path: Path) -> None:
    gguf_toy(tmp_path / "toy.gguf", "llama 3.1")
    rope = load_config(find_source(tmp_path / "toy.gguf")).rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["original_max_position_embeddings"]) == (
        "llama3",
        8.0,
        8192,
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope.scaling.type", "su"),
        ("rope.dimension_sections", [2, 3, 3, 0]),
        ("rope.freq_base_swa", 20000.0),
        ("attention.scale", 0.2),
        ("attention.causal", False),
        ("expert_count", 4),
        ("logit_scale", 2.0),
        ("final_logit_softcapping", 30.0),
        ("attention.sliding_window", 8),
        ("rope.scaling.yarn_log_multiplier", 0.1),
    ],
)
def test_a_field_that_the_config_cannot_state_is_refused(
    tmp_path: Path, field: str, value: Any
) -> None:
    model = tiny_model("llama")
    metadata = {"rope.dimension_count": 4, "rope.scaling.factor": 2.0, field: value}
    path = write_gguf(tmp_path / "toy.gguf", model, metadata)
    with pytest.raises(UnsupportedModelError, match="safetensors files"):
        load_config(find_source(path))


def test_a_tensor_that_transformers_passes_over_is_refused(tmp_path: Path) -> None:
    more = {"blk.0.attn_sinks.weight": [0.1, 0.2]}
    path = write_gguf(tmp_path / "toy.gguf", tiny_model("llama"), {"rope.dimension_count": 4}, more)
    with pytest.raises(UnsupportedModelError, match="1 tensors that transformers does not read"):
        load_model(path)


@pytest.mark.parametrize("length", [0, 3, 4, 20, 24, 100, 2000])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, length: int) -> None:
    gguf_toy(tmp_path / "toy.gguf", "llama")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((tmp_path / "toy.gguf").read_bytes()[:length])
    with pytest.raises(CheckpointError, match="cut"):
        load_config(find_source(cut))


def test_counts_that_no_file_has_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    for tensors, fields in ((2**60, 1), (1, 2**60)):
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, fields))
        with pytest.raises(CheckpointError, match="counts"):
            read_gguf_header(path)


def test_a_number_that_is_not_finite_is_damage(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "toy.gguf", tiny_model("llama"), {"rope.freq_base": float("nan")})
    with pytest.raises(CheckpointError, match="its header cannot be read: a value that is nan"):
        load_config(find_source(path))
