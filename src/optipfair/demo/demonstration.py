"""The steps of the demonstration, each a value for the next. It prints nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..evaluation.evaluate_by_name import CompareRun, run_compare
from ..evaluation.evaluate_options import EvaluateOptions
from ..evaluation.speed.timing import time_inference
from ..evaluation.tasks.choosing import NO_DATA
from ..evaluation.text.perplexity import perplexity
from ..files.output_folder import check_output, new_folder
from ..files.safetensors_reader import open_checkpoint
from ..loading.models import load_model
from ..loading.quiet import quiet_transformers
from ..loading.sources import DEMO
from ..loading.tokenizers import load_tokenizer
from ..pipeline.prune import prune_checkpoint

PROMPT = "What is the capital of France, and what is it known for?"
WIDTH_PERCENTAGE = 10
# The pair of layers whose removal raised the perplexity on the calibration text least (34.4 from
# 29.6), among all pairs of the eight layers that matter least alone.
LAYERS = (17, 18)
DTYPE = "bfloat16"  # on disk; measured in float32, which every CPU is fast at
BLOCK = 256  # tokens


@dataclass(frozen=True)
class Row:
    """One model of the comparison."""

    name: str
    folder: Path
    parameters: int
    file_bytes: int
    perplexity: float
    tokens_per_second: float
    answer: str


def run_demo(output: Path, overwrite: bool = True) -> Iterator[Row]:
    """Save, prune and measure in a folder; yield each model's row as soon as it is known."""
    folders = {name: output / name for name in ("original", "width", "depth")}
    for folder in folders.values():
        check_output(folder, None, overwrite)
    tokenizer: Any = load_tokenizer(DEMO)
    _save_original(folders["original"], tokenizer)
    yield _measure("original", folders["original"], tokenizer)
    common: dict[str, Any] = {"dtype": DTYPE, "overwrite": overwrite, "command": "optipfair demo"}
    prune_checkpoint(
        DEMO,
        folders["width"],
        pruning_percentage=WIDTH_PERCENTAGE,
        expansion_divisor=32,  # so that the result can be quantized anywhere
        dataloader=calibration_batches(tokenizer),
        **common,
    )
    yield _measure(f"width -{WIDTH_PERCENTAGE} %", folders["width"], tokenizer)
    prune_checkpoint(DEMO, folders["depth"], "DEPTH", layer_indices=LAYERS, **common)
    yield _measure(f"depth -{len(LAYERS)} layers", folders["depth"], tokenizer)


def write_report(output: Path) -> CompareRun:
    """Compare the original with the model of fewer neurons in the folder of `run_demo`."""
    return run_compare(
        output / "original",
        output / "width",
        options=EvaluateOptions(
            data=NO_DATA,
            context=BLOCK,
            output_dir=output / "report",
            max_new_tokens=24,
            num_runs=2,
            command="optipfair demo",
        ),
        dtype="float32",
    )


def demo_text(name: str) -> str:
    """One of the texts that ship with the demo: `calibration` or `evaluation`."""
    return files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8")


def calibration_batches(tokenizer: Any) -> list[Any]:
    """The calibration text in blocks of tokens."""
    ids = tokenizer(demo_text("calibration"), return_tensors="pt")["input_ids"]
    return list(ids.split(BLOCK, dim=1))


def _save_original(folder: Path, tokenizer: Any) -> None:
    model = load_model(DEMO, dtype=DTYPE)
    with new_folder(folder) as temporary, quiet_transformers():
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(str(temporary))


def _measure(name: str, folder: Path, tokenizer: Any) -> Row:
    """Load with plain transformers and measure."""
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    with quiet_transformers():
        model = auto.from_pretrained(folder, dtype="float32")
    quality = perplexity(model, tokenizer, demo_text("evaluation"), context=BLOCK, stride=BLOCK)
    speed = time_inference(model, tokenizer, PROMPT, max_new_tokens=32, num_runs=3, warmup_runs=1)
    row = Row(
        name,
        folder,
        sum(parameter.numel() for parameter in model.parameters()),
        open_checkpoint(folder).nbytes,
        quality.value,
        speed["tokens_per_second"],
        _answer(model, tokenizer),
    )
    del model
    gc.collect()
    return row


def _answer(model: Any, tokenizer: Any) -> str:
    """The model's greedy answer to the prompt, in one line."""
    message = [{"role": "user", "content": PROMPT}]
    inputs = tokenizer.apply_chat_template(
        message, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    text = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return " ".join(text.split())
