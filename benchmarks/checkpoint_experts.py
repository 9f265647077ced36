"""What removing experts from a checkpoint costs: time against `cp`, and peak memory.

A random Qwen3-MoE in bfloat16 is written tensor by tensor, each expert apart, as published ones
are. Then, in turns within each run, with the input in the page cache, no dirty pages at the start
and `sync` at the end: `cp -r`, and removing a quarter of the experts by the norm of their weights,
which reads all of them, and by chance, which looks for NaN in them. Beside each stands a process
that only makes its imports.

    python benchmarks/checkpoint_experts.py [--layers 32] [--runs 3] [--folder ON_A_DISK]

32 layers are 6 B parameters and take up to 35 GB of disk. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import GenerationConfig, Qwen3MoeConfig

from checkpoint import (
    COMMAND,
    DTYPE_BYTES,
    IMPORTS,
    INDEX,
    POOL,
    Tensor,
    nbytes,
    print_machine,
    run_reporting,
    split,
    timed,
    timed_writing,
    write_shard,
)
from optipfair.report.formats import size

GOAL = 1.6  # times cp
EXPERTS = 64


def config_of(layers: int) -> Qwen3MoeConfig:
    return Qwen3MoeConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=6144,
        moe_intermediate_size=448,
        num_experts=EXPERTS,
        num_experts_per_tok=8,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=64,
        tie_word_embeddings=False,
        architectures=["Qwen3MoeForCausalLM"],
        dtype="bfloat16",
    )


def tensors_of(config: Any) -> Iterator[Tensor]:
    """Names and shapes as they are published."""
    hidden, narrow, dim = config.hidden_size, config.moe_intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * dim, config.num_key_value_heads * dim
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{prefix}.self_attn.{name}_proj.weight", (rows, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, queries)
        for name in ("q", "k"):
            yield f"{prefix}.self_attn.{name}_norm.weight", (dim,)
        yield f"{prefix}.mlp.gate.weight", (config.num_experts, hidden)
        for expert in range(config.num_experts):
            for name in ("gate", "up"):
                yield f"{prefix}.mlp.experts.{expert}.{name}_proj.weight", (narrow, hidden)
            yield f"{prefix}.mlp.experts.{expert}.down_proj.weight", (hidden, narrow)
        for name in ("input", "post_attention"):
            yield f"{prefix}.{name}_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (config.vocab_size, hidden)


def build(folder: Path, layers: int) -> int:
    """Write the checkpoint; the number of its parameters."""
    config = config_of(layers)
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    shards = split(tensors_of(config), 4e9)
    pool = torch.empty(POOL, dtype=torch.bfloat16)
    pool.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / name, shard, pool)
        weight_map |= {tensor: name for tensor, _ in shard}
    total = sum(nbytes(tensor) for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return total // DTYPE_BYTES


def arguments_of(source: Path, output: Path, method: str) -> list[str | Path]:
    return [
        *("prune", "--model-path", source, "--output-path", output, "--quiet"),
        *("--pruning-type", "EXPERTS", "--num-experts-to-remove", str(EXPERTS // 4)),
        *("--expert-selection-method", method),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; on the disk to measure")
    asked = parser.parse_args()
    print_machine(asked.folder or Path(tempfile.gettempdir()), asked.runs)
    with tempfile.TemporaryDirectory(prefix="optipfair-", dir=asked.folder) as temporary:
        scratch = Path(temporary).resolve()
        source, output = scratch / "model", scratch / "output"
        source.mkdir()
        count = build(source, asked.layers)
        own = [nbytes(each) for each in tensors_of(config_of(asked.layers))]
        layer = sum(own[1:-2]) // asked.layers
        print(f"{count / 1e9:.2f} B parameters, a layer {size(layer)}; {EXPERTS} experts each")
        measure(source, output, asked.runs)


def measure(source: Path, output: Path, runs: int) -> None:
    peaks, imports = {}, {}
    for method in ("NORM", "RANDOM"):
        ended = run_reporting(COMMAND, arguments_of(source, output, method), output.parent)
        (output.parent / "imports.json").write_text(json.dumps(ended.modules))
        alone = run_reporting(IMPORTS, ["imports.json"], output.parent)
        peaks[method] = ended.peak - alone.peak
        for path in output.iterdir():
            path.unlink()
        output.rmdir()
    rows: dict[str, list[float]] = {"cp": [], "NORM": [], "RANDOM": []}
    for _ in range(runs):
        rows["cp"].append(timed_writing(["cp", "-r", source, output], source, output))
        for method in ("NORM", "RANDOM"):
            command = [sys.executable, "-m", "optipfair", *arguments_of(source, output, method)]
            rows[method].append(timed_writing(command, source, output))
            script = [sys.executable, "-c", IMPORTS, "imports.json"]
            imports[method] = timed(script, output.parent)
    print(f"  cp      {median(rows['cp']):8.2f} s")
    for method in ("NORM", "RANDOM"):
        pairs = list(zip(rows[method], rows["cp"], strict=True))
        whole = median(own / copy for own, copy in pairs)
        after = median((own - imports[method]) / copy for own, copy in pairs)
        print(
            f"  {method:8}{median(rows[method]):8.2f} s, {whole:.2f} x cp; without imports "
            f"{after:.2f} x (goal {GOAL}); peak above imports {size(peaks[method])}"
        )


if __name__ == "__main__":
    main()
