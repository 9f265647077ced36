"""`analyze`: what it says of a model is what loading and pruning it show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import (
    Analysis,
    UnsupportedModelError,
    analyze_model,
    prune_checkpoint,
    prune_model,
)
from optipfair.analysis import SAVINGS_PERCENTAGES
from optipfair.files.safetensors_reader import open_checkpoint
from optipfair.testing import TINY_FAMILIES, tiny_model

# Experts are kept in multiples of 8, with a warning.
pytestmark = pytest.mark.filterwarnings("ignore:The kept width of experts")


def scored(pruning_type: str) -> dict[str, Any]:
    """What chooses experts without data."""
    return {"expert_selection_method": "NORM"} if pruning_type == "EXPERTS" else {}


def analyzed(folder: Path, family: str) -> Analysis:
    tiny_model(family).save_pretrained(folder)
    return analyze_model(folder)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_savings_are_what_pruning_then_removes(tmp_path: Path, family: str) -> None:
    analysis = analyzed(tmp_path, family)
    assert analysis.savings
    for saving in (row for row in analysis.savings if row.percentage in (10, 30, 50)):
        model, statistics = prune_model(
            tiny_model(family),
            saving.pruning_type,
            pruning_percentage=None if saving.pruning_type == "DEPTH" else saving.percentage,
            depth_pruning_percentage=saving.percentage if saving.pruning_type == "DEPTH" else None,
            **scored(saving.pruning_type),
            show_progress=False,
            return_stats=True,
        )
        assert saving.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert saving.parameters == statistics["pruned_parameters"]
        assert saving.percentage_reduction == pytest.approx(statistics["percentage_reduction"])


SAVED = [
    (family, kind)
    for family in ("llama", "gpt2", "gemma2", "qwen3_moe", "falcon")
    for kind in ("MLP_GLU", "DEPTH", "EXPERTS")
    if kind != "EXPERTS" or family == "qwen3_moe"
]


@pytest.mark.parametrize(("family", "pruning_type"), SAVED)
def test_saved_bytes_are_those_of_the_written_file(
    tmp_path: Path, family: str, pruning_type: str
) -> None:
    analysis = analyzed(tmp_path / "model", family)
    saving = next(
        row for row in analysis.savings if (row.pruning_type, row.percentage) == (pruning_type, 50)
    )
    more = scored(pruning_type)
    source, target = tmp_path / "model", tmp_path / "out"
    prune_checkpoint(source, target, pruning_type, pruning_percentage=50, **more)
    assert saving.bytes == open_checkpoint(tmp_path / "out").nbytes


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_parameters_and_parts_are_counted_exactly(tmp_path: Path, family: str) -> None:
    analysis = analyzed(tmp_path, family)
    total = sum(parameter.numel() for parameter in tiny_model(family).parameters())
    assert analysis.parameters == total
    assert sum(analysis.parts.values()) == total
    assert {"embeddings", "attention", "mlp", "norms"} <= set(analysis.parts)
    assert analysis.layers == 4


def test_the_parts_of_a_llama_are_those_of_its_shape(llama_folder: Path) -> None:
    """H=16, I=40, 4 layers, 4 heads of 4, 2 for keys and values, 272 tokens, head not tied."""
    analysis = analyze_model(llama_folder)
    attention = 16 * 16 + 16 * 8 + 16 * 8 + 16 * 16
    assert analysis.parts == {
        "embeddings": 272 * 16,
        "attention": 4 * attention,
        "mlp": 4 * 3 * 16 * 40,
        "norms": (2 * 4 + 1) * 16,
        "head": 272 * 16,
    }
    assert (analysis.hidden_size, analysis.widths) == (16, {"mlp": [40] * 4})
    assert (analysis.attention_heads, analysis.key_value_heads, analysis.head_dim) == (4, 2, 4)
    assert (analysis.vocabulary, analysis.context, analysis.expansion_rate) == (272, 128, 250.0)
    assert (analysis.bytes, analysis.dtypes) == (4 * analysis.parameters, ["F32"])


def test_the_savings_of_a_llama_are_those_of_its_shape(llama_folder: Path) -> None:
    """10 % of 40 neurons are 4, each with 3 · 16 weights in 4 layers; 50 % of 4 layers are 2."""
    analysis = analyze_model(llama_folder)
    rows = {(row.pruning_type, row.percentage): row for row in analysis.savings}
    assert analysis.parameters - rows["MLP_GLU", 10].parameters == 4 * 3 * 16 * 4
    assert rows["MLP_GLU", 10].kept == "mlp 36"
    layer = 16 * 16 + 16 * 8 + 16 * 8 + 16 * 16 + 3 * 16 * 40 + 2 * 16
    assert analysis.parameters - rows["DEPTH", 50].parameters == 2 * layer
    assert rows["DEPTH", 50].kept == "2 layers"
    widths = [percentage for kind, percentage in rows if kind == "MLP_GLU"]
    assert widths == list(SAVINGS_PERCENTAGES)


def test_percentages_that_remove_no_layer_are_left_out(llama_folder: Path) -> None:
    depths = [row for row in analyze_model(llama_folder).savings if row.pruning_type == "DEPTH"]
    assert [row.percentage for row in depths] == [30, 40, 50]


def test_tied_embeddings_count_once(tmp_path: Path) -> None:
    tiny_model("llama", tie_word_embeddings=True).save_pretrained(tmp_path)
    analysis = analyze_model(tmp_path)
    assert "head" not in analysis.parts
    assert analysis.bytes == 4 * analysis.parameters


def test_bytes_and_dtypes_are_those_on_disk(tmp_path: Path) -> None:
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="20KB")
    analysis = analyze_model(tmp_path)
    assert (analysis.bytes, analysis.dtypes) == (2 * analysis.parameters, ["BF16"])


def test_what_is_not_possible_is_said_with_the_reason(tmp_path: Path) -> None:
    analysis = analyzed(tmp_path, "bloom")
    assert "fixed at 4 x hidden" in analysis.refusals["MLP_GLU"]
    assert analysis.refusals["DEPTH"] == ""
    assert {row.pruning_type for row in analysis.savings} == {"DEPTH"}


def test_a_single_layer_cannot_be_removed(tmp_path: Path) -> None:
    tiny_model("llama", num_hidden_layers=1).save_pretrained(tmp_path)
    analysis = analyze_model(tmp_path)
    assert "one layer" in analysis.refusals["DEPTH"]
    assert analysis.refusals["MLP_GLU"] == ""


@pytest.mark.parametrize("family", ["llama", "bloom", "opt", "mixtral"])
def test_what_is_said_to_be_possible_is_what_pruning_does(tmp_path: Path, family: str) -> None:
    analysis = analyzed(tmp_path, family)
    assert ("EXPERTS" in analysis.refusals) == (family == "mixtral")

    def prune(model: Any, kind: str) -> None:
        prune_model(model, kind, pruning_percentage=50, show_progress=False, **scored(kind))

    for pruning_type, reason in analysis.refusals.items():
        model = tiny_model(family)
        if reason:
            with pytest.raises(UnsupportedModelError):
                prune(model, pruning_type)
        else:
            prune(model, pruning_type)


def test_no_weight_is_read(llama_copy: Path) -> None:
    """Headers are enough: with every value damaged, the analysis is the same."""
    before = analyze_model(llama_copy)
    file = llama_copy / "model.safetensors"
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    file.write_bytes(content[:start] + b"\xff" * (len(content) - start))
    assert analyze_model(llama_copy) == before


def test_the_result_is_plain_data(llama_folder: Path) -> None:
    analysis = analyze_model(llama_folder)
    assert json.loads(json.dumps(analysis.to_dict(), allow_nan=False))["layers"] == 4
