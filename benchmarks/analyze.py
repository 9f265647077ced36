"""What `optipfair analyze` takes as a whole process, on a Llama of 1.5 B parameters in bfloat16.

    python benchmarks/analyze.py [--runs 5]

The files have their headers and their size but no values (they are sparse): none is read. In turns
with it runs a process that only imports torch and the model's class, which are most of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from transformers import LlamaConfig

from checkpoint import SIZES, llama_tensors, nbytes
from optipfair.pipeline.model_card import versions

GOAL = 4.0  # seconds
IMPORTS = "import torch; from transformers.models.llama import LlamaForCausalLM"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(
        f"{datetime.now(UTC):%Y-%m-%d}  {platform.machine()}, {os.cpu_count()} cores, load {load}"
    )
    print(f"{versions()}; median of {runs}")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        analyze = [sys.executable, "-m", "optipfair", "analyze", "--model-path", folder]
        imports = [sys.executable, "-c", IMPORTS]
        rows = [(measured(analyze), measured(imports)) for _ in range(runs)]
    print("             seconds   of CPU")
    whole, alone = zip(*rows, strict=True)
    show("analyze", whole, f"goal {GOAL} s")
    show("imports", alone)
    after = [(a[0] - b[0], a[1] - b[1]) for a, b in rows]
    show("after", after)


def write(folder: Path) -> None:
    """Write a config, and a header with a hole behind it."""
    shape = SIZES["1.5"]
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dimensions in llama_tensors(config):
        start, end = end, end + nbytes((name, dimensions))
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def measured(command: Sequence[str]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor, that a process takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def show(name: str, rows: Sequence[tuple[float, float]], note: str = "") -> None:
    clock, processor = (median(column) for column in zip(*rows, strict=True))
    print(f"  {name:8}{clock:10.2f}{processor:9.2f}  {note}".rstrip())


if __name__ == "__main__":
    main()
