"""`analyze` promises what `prune` then does, to the byte, and refuses what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from optipfair import OptiPFairError, analyze_model, prune_checkpoint, prune_model
from optipfair.analysis import SAVINGS_PERCENTAGES, Analysis
from optipfair.arch.twin import build_on_meta
from optipfair.errors import CheckpointError
from optipfair.files.safetensors_reader import SINGLE_FILE, open_checkpoint
from optipfair.testing import TINY_FAMILIES, tiny_config, tiny_model
from optipfair.testing.toys import UNBUILDABLE
from support.walk import MODEL_TYPES, skip_without_toy

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns about its own toy models

KINDS = ("MLP_GLU", "DEPTH")
FAST = {*TINY_FAMILIES, "deepseek_v3", "gemma4_text", "glm4_moe", "jamba", "mamba", "mpt"}
FAMILIES = [
    pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow])
    for name in MODEL_TYPES
    if name not in UNBUILDABLE
]

Left = tuple[int, int]  # parameters and bytes


def analyzed(folder: Path) -> Analysis | str:
    try:
        return analyze_model(folder)
    except OptiPFairError as exc:
        return str(exc)


def pruned(folder: Path, kind: str, percentage: float) -> Left | str:
    """What pruning leaves, or why it refuses."""
    try:
        more = {"expert_selection_method": "NORM"} if kind == "EXPERTS" else {}
        result = prune_checkpoint(
            folder, pruning_type=kind, pruning_percentage=percentage, dry_run=True, **more
        )
    except OptiPFairError as exc:
        return str(exc)
    if result.plan.empty:
        return "nothing goes"
    numbers = result.statistics
    beside = open_checkpoint(folder).nbytes - numbers["original_bytes"]  # buffers, where loaded
    return numbers["pruned_parameters"], numbers["pruned_bytes"] + beside


def promised(analysis: Analysis | str, kind: str, percentage: float) -> Left | None:
    if isinstance(analysis, str):
        return None
    for row in analysis.savings:
        if (row.pruning_type, row.percentage) == (kind, percentage):
            return row.parameters, row.bytes
    return None


def check_agrees(folder: Path, percentages: tuple[int, ...] = SAVINGS_PERCENTAGES) -> None:
    analysis = analyzed(folder)
    for kind in KINDS if isinstance(analysis, str) else analysis.refusals:
        outcomes = {each: pruned(folder, kind, each) for each in percentages}
        for percentage, outcome in outcomes.items():
            expected = None if isinstance(outcome, str) else outcome
            assert promised(analysis, kind, percentage) == expected, (kind, percentage, outcome)
        refusal = analysis if isinstance(analysis, str) else analysis.refusals[kind]
        if refusal:
            assert all(isinstance(outcome, str) for outcome in outcomes.values())
        if kind == "MLP_GLU" and refusal:
            assert refusal == outcomes[percentages[0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_promised_what_pruning_does(tmp_path: Path, family: str) -> None:
    skip_without_toy(family)
    tiny_model(family).save_pretrained(tmp_path)
    check_agrees(tmp_path, (10, 50) if family in FAST else (10,))


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    tensors = change(load_file(folder / SINGLE_FILE))
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})


def quantized(folder: Path) -> None:
    tiny_model("llama").save_pretrained(folder)
    change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def of_another_class(auto: Any, family: str) -> Callable[[Path], None]:
    return lambda folder: auto.from_config(tiny_config(family)).save_pretrained(folder)


def layers_that_differ(folder: Path) -> None:
    model = tiny_model("llama")
    prune_model(model, pruning_percentage=40, layer_indices=[1], show_progress=False)
    model.save_pretrained(folder)


def in_two_dtypes(folder: Path) -> None:
    """16 bits, but for the embeddings and one norm of a layer."""
    model: Any = tiny_model("llama").to(torch.bfloat16)
    model.save_pretrained(folder)
    wide = ("model.embed_tokens.weight", "model.layers.3.input_layernorm.weight")
    change_tensors(
        folder, lambda tensors: {k: v.float() if k in wide else v for k, v in tensors.items()}
    )


def with_a_layer_too_many(folder: Path) -> None:
    """A layer behind the last, which the config does not count."""
    tiny_model("glm4").save_pretrained(folder)

    def change(tensors: dict[str, Any]) -> dict[str, Any]:
        last = {k: v.clone() for k, v in tensors.items() if k.startswith("model.layers.3.")}
        return tensors | {k.replace("layers.3.", "layers.4."): v for k, v in last.items()}

    change_tensors(folder, change)


def with_a_layer_that_predicts(folder: Path) -> None:
    with_a_layer_too_many(folder)
    change_config(folder, num_nextn_predict_layers=1)


def gpt2_of_the_hub(folder: Path) -> None:
    """No `transformer.` before its names, and the causal mask among its tensors."""
    tiny_model("gpt2").save_pretrained(folder)
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 128, 128) for layer in range(4)}
    change_tensors(
        folder,
        lambda tensors: {k.removeprefix("transformer."): v for k, v in tensors.items()} | masks,
    )


def experts_as_they_live(folder: Path) -> None:
    model = tiny_model("mixtral")
    model.save_pretrained(folder)
    change_tensors(folder, lambda _: dict(model.state_dict()))


def a_tied_head_that_is_stored(folder: Path) -> None:
    model = tiny_model("gemma2")
    model.save_pretrained(folder)
    change_tensors(folder, lambda _: {k: v.clone() for k, v in model.state_dict().items()})


def toy(family: str, **fields: Any) -> Callable[[Path], None]:
    return lambda folder: tiny_model(family, **fields).save_pretrained(folder)


ODD: dict[str, Callable[[Path], None]] = {
    "a quantized checkpoint": quantized,
    "a classifier": of_another_class(AutoModelForSequenceClassification, "llama"),
    "embeddings of text": of_another_class(AutoModel, "qwen3"),
    "bart with its encoder": of_another_class(AutoModelForSeq2SeqLM, "bart"),
    "marian with its encoder": of_another_class(AutoModelForSeq2SeqLM, "marian"),
    "layers that differ": layers_that_differ,
    "two dtypes": in_two_dtypes,
    "a layer too many": with_a_layer_too_many,
    "a layer that predicts": with_a_layer_that_predicts,
    "GPT-2 of the hub": gpt2_of_the_hub,
    "experts as they live": experts_as_they_live,
    "a tied head that is stored": a_tied_head_that_is_stored,
    "one layer": toy("llama", num_hidden_layers=1),
    "experts too narrow for a multiple of 8": toy("mixtral", intermediate_size=6),
    "cross attention": toy("gpt2", add_cross_attention=True),
    "projected embeddings": toy("opt", word_embed_proj_dim=8),
    "shards": lambda folder: tiny_model("qwen3").save_pretrained(folder, max_shard_size="20KB"),
}


@pytest.mark.parametrize("member", ODD)
def test_odd_members_are_promised_what_pruning_does(tmp_path: Path, member: str) -> None:
    ODD[member](tmp_path)
    check_agrees(tmp_path)


@pytest.mark.parametrize(
    "member", ["two dtypes", "layers that differ", "a layer too many", "a layer that predicts"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_promised_bytes_are_those_of_the_written_files(
    tmp_path: Path, member: str, kind: str
) -> None:
    ODD[member](tmp_path / "model")
    analysis = analyze_model(tmp_path / "model")
    prune_checkpoint(tmp_path / "model", tmp_path / "out", kind, pruning_percentage=50)
    left = promised(analysis, kind, 50)
    assert left is not None
    assert left[1] == open_checkpoint(tmp_path / "out").nbytes


def test_what_is_quantized_is_described_all_the_same(tmp_path: Path) -> None:
    quantized(tmp_path)
    analysis = analyze_model(tmp_path)
    assert analysis.layers == 4
    assert analysis.savings == []
    assert all("is quantized" in refusal for refusal in analysis.refusals.values())


@pytest.mark.parametrize("field", ["hidden_size", "vocab_size", "intermediate_size"])
def test_a_config_that_does_not_fit_the_shapes_is_not_believed(
    llama_copy: Path, field: str
) -> None:
    change_config(llama_copy, **{field: 320})
    with pytest.raises(CheckpointError, match=r"has shape .* its config.json says"):
        analyze_model(llama_copy)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_hidden_size_of_zero_is_refused(tmp_path: Path, family: str) -> None:
    """Here the shapes of the tensors agree with it."""
    tiny_model(family).save_pretrained(tmp_path)
    change_config(tmp_path, hidden_size=0)
    model = build_on_meta(AutoConfig.from_pretrained(tmp_path))
    tensors = {name: torch.zeros(tensor.shape) for name, tensor in model.state_dict().items()}
    change_tensors(tmp_path, lambda _: tensors)
    with pytest.raises(CheckpointError, match="hidden_size=0, which must be 1 or more"):
        analyze_model(tmp_path)


def test_no_attention_heads_are_refused(llama_copy: Path) -> None:
    change_config(llama_copy, num_attention_heads=0)
    with pytest.raises(CheckpointError, match="Cannot read the model"):
        analyze_model(llama_copy)
