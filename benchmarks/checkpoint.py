"""What `optipfair prune` and `analyze` cost on checkpoints: time against `cp`, and peak memory.

Random Llamas in bfloat16 are written tensor by tensor, in shards. Then, in turns within each run,
all with the input in the page cache and no dirty pages at the start, and with `sync` at the end:
`cp -r`, pruning by width and by depth, and beside each a process that only makes its imports.

    python benchmarks/checkpoint.py [--sizes 1.5,6] [--runs 3] [--folder ON_A_DISK] [--keep]

Size 6 takes up to 25 GB of disk, and about as much memory for the page cache. Everything that is
written goes again, size by size, but with `--keep` the checkpoints stay in `--folder` for another
run. Size 0.1 is a quick try of the script; its times say nothing. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from transformers import GenerationConfig, LlamaConfig

from optipfair.pipeline.model_card import versions
from optipfair.report.formats import size

INDEX = "model.safetensors.index.json"
DTYPE_BYTES = 2  # bfloat16
POOL = 2**24 + 43  # random numbers that are written over and over; coprime to all shapes
MEMORY_GOAL = 150e6  # bytes, beside twice the largest tensor
ANALYZE_GOAL = 4  # seconds
HEAVY = ("torch", "transformers", "transformers.models.llama.modeling_llama")

Tensor = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    shard_bytes: float = 2e9
    has_whole_goals: bool = False  # the goals of the whole process are meant for 6 B


SIZES = {
    "0.1": Size(512, 2048, 12, 8, 4, shard_bytes=50e6),
    "1.5": Size(2048, 8192, 24, 16, 8),
    "6": Size(4096, 11008, 28, 32, 32, has_whole_goals=True),
}


@dataclass(frozen=True)
class Pruning:
    options: str
    goal_after_imports: float  # times cp
    goal_whole: float  # times cp


PRUNINGS = {
    "width": Pruning("--pruning-type MLP_GLU --method PPM --pruning-percentage 20", 1.6, 1.7),
    "depth": Pruning("--pruning-type DEPTH --num-layers-to-remove 4 --calibration none", 1.3, 1.4),
}

# Both processes end with one line on stderr: the peak of resident memory and the modules loaded.
# sys.modules lists a module before those that it imports, so IMPORTS makes the same imports in the
# same order; names that only exist at run time are skipped.
REPORT = r"""
import json
status = open("/proc/self/status").read()
peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
print("\n" + json.dumps({"peak": peak, "modules": list(sys.modules)}), file=sys.stderr)
"""
COMMAND = f"""
import sys
from optipfair.cli import main
code = main(sys.argv[1:])
{REPORT}
sys.exit(code)
"""
IMPORTS = f"""
import importlib, json, sys
for name in json.load(open(sys.argv[1])):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
{REPORT}
"""


@dataclass(frozen=True)
class Ended:
    """What a process of COMMAND or IMPORTS said at its end."""

    peak: int
    modules: list[str]


# The checkpoint


def build(folder: Path, shape: Size) -> None:
    """Write a random Llama, as transformers names and splits it, without making a model."""
    if (folder / INDEX).is_file():  # written last: complete, kept from another run
        return
    folder.mkdir(parents=True, exist_ok=True)
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
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    shards = split(llama_tensors(config), shape.shard_bytes)
    pool = torch.empty(POOL, dtype=torch.bfloat16)
    pool.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / name, shard, pool)
        weight_map |= {tensor: name for tensor, _ in shard}
    total = sum(nbytes(tensor) for shard in shards for tensor in shard)
    metadata = {"total_parameters": total // DTYPE_BYTES, "total_size": total}
    index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def llama_tensors(config: LlamaConfig) -> Iterator[Tensor]:
    """Names and shapes of an untied Llama, in the order of its state dict."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.self_attn.q_proj.weight", (queries, hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (keys, hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (keys, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, queries)
        yield f"{prefix}.mlp.gate_proj.weight", (intermediate, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (intermediate, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, intermediate)
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (config.vocab_size, hidden)


def nbytes(tensor: Tensor) -> int:
    return math.prod(tensor[1]) * DTYPE_BYTES


def split(tensors: Iterator[Tensor], shard_bytes: float) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + nbytes(tensor) > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += nbytes(tensor)
    return shards


def write_shard(path: Path, shard: Sequence[Tensor], pool: torch.Tensor) -> None:
    """Write one safetensors file: length of the header, header, tensors by name."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in sorted(shard):
        start, end = end, end + nbytes((name, shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        position = 0
        for _, shape in sorted(shard):
            position = write_values(file.write, shape, pool, position)


def write_values(
    write: Callable[[memoryview], object], shape: tuple[int, ...], pool: torch.Tensor, position: int
) -> int:
    """Write the next numbers of the pool, or ones for a norm; return the place in the pool."""
    numel = math.prod(shape)
    if len(shape) == 1:
        write(raw(torch.ones(numel, dtype=pool.dtype)))
        return position
    while numel:
        piece = pool[position : position + numel]
        write(raw(piece))
        numel -= len(piece)
        position = (position + len(piece)) % len(pool)
    return position


def raw(tensor: torch.Tensor) -> memoryview:
    return tensor.view(torch.uint8).numpy().data


def check_bytes(folder: Path) -> str:
    """Whether a folder's files are headers and the tensors of its config, and nothing else.

    Its tensors must have the names and shapes that its config gives a Llama; its files must be as
    long as these tensors and, for each file, 8 bytes and the header.
    """
    found: list[Tensor] = []
    headers = on_disk = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        found += [(k, tuple(v["shape"])) for k, v in header.items() if k != "__metadata__"]
        headers += 8 + length
        on_disk += path.stat().st_size
    expected = list(llama_tensors(LlamaConfig.from_pretrained(folder)))
    if sorted(found) != sorted(expected):
        raise SystemExit(f"{folder}: {set(found) ^ set(expected) or 'a tensor is there twice'}")
    tensors = sum(map(nbytes, found))
    if on_disk != tensors + headers:
        raise SystemExit(f"{folder}: {on_disk} bytes, not {tensors} + {headers} of headers")
    return f"{on_disk:,} bytes on disk = {tensors:,} of tensors + {headers:,} of headers"


# Processes


def run(command: Sequence[str | Path], folder: Path) -> str:
    """Run a command in `folder`, which holds no code; return its stderr, and stop if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stderr


def run_reporting(script: str, arguments: Sequence[str | Path], folder: Path) -> Ended:
    stderr = run([sys.executable, "-c", script, *arguments], folder)
    return Ended(**json.loads(stderr.splitlines()[-1]))


def timed(command: Sequence[str | Path], folder: Path) -> float:
    started = time.perf_counter()
    run(command, folder)
    return time.perf_counter() - started


def timed_writing(command: Sequence[str | Path], source: Path, output: Path) -> float:
    """Seconds of a command that makes `output` from `source`, and of `sync`; `output` goes."""
    read(source)
    os.sync()  # what others left, and the blocks that the last output freed
    started = time.perf_counter()
    run(command, output.parent)
    os.sync()
    seconds = time.perf_counter() - started
    shutil.rmtree(output)
    return seconds


def read(folder: Path) -> None:
    buffer = bytearray(2**24)
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


# The measurements


def prune_arguments(source: Path, output: Path, kind: str) -> list[str | Path]:
    paths = ["prune", "--model-path", source, "--output-path", output, "--quiet"]
    return [*paths, *PRUNINGS[kind].options.split()]


def first_run(source: Path, output: Path, kind: str) -> tuple[Ended, Ended, str]:
    """How pruning ended, how a process with the same imports did, and a check of the output.

    Leaves the imports in `imports-KIND.json`.
    """
    whole = run_reporting(COMMAND, prune_arguments(source, output, kind), output.parent)
    checked = check_bytes(output)
    shutil.rmtree(output)
    (output.parent / f"imports-{kind}.json").write_text(json.dumps(whole.modules))
    imports = run_reporting(IMPORTS, [f"imports-{kind}.json"], output.parent)
    return whole, imports, checked


def one_run(source: Path, output: Path) -> dict[str, float]:
    """Seconds of each command, one after the other."""
    optipfair = [sys.executable, "-m", "optipfair"]
    seconds = {"cp": timed_writing(["cp", "-r", source, output], source, output)}
    for kind in PRUNINGS:
        command = [*optipfair, *prune_arguments(source, output, kind)]
        seconds[kind] = timed_writing(command, source, output)
        imports = [sys.executable, "-c", IMPORTS, f"imports-{kind}.json"]
        seconds[f"{kind} imports"] = timed(imports, output.parent)
    seconds["analyze"] = timed([*optipfair, "analyze", "--model-path", source], output.parent)
    return seconds


def measure(name: str, source: Path, folder: Path, runs: int) -> None:
    """Build the checkpoint `source` where it is missing, measure with it in `folder`, print."""
    build(source, SIZES[name])
    check_bytes(source)
    tensors = [nbytes(tensor) for tensor in llama_tensors(LlamaConfig.from_pretrained(source))]
    files = len(list(source.glob("*.safetensors")))
    print(f"\nLlama of {sum(tensors) / DTYPE_BYTES / 1e9:.2f} B parameters in bfloat16:")
    print(f"{size(sum(tensors))} in {files} files, largest tensor {size(max(tensors))}")
    output = folder / "output"
    firsts = {kind: first_run(source, output, kind) for kind in PRUNINGS}
    analyzing = run_reporting(COMMAND, ["analyze", "--model-path", source], folder)
    rows = [one_run(source, output) for _ in range(runs)]
    print_times(rows, SIZES[name].has_whole_goals)
    print_peaks(firsts, 2 * max(tensors) + MEMORY_GOAL)
    print(f"  analyze  {size(analyzing.peak):>9}  in all; {heavy(analyzing)}")
    for kind, (_, _, checked) in firsts.items():
        print(f"  output of {kind}: {checked}")


def print_times(rows: Sequence[dict[str, float]], has_whole_goals: bool) -> None:
    """Medians; ratios and differences are taken within each run."""
    copies = [row["cp"] for row in rows]
    print("  Seconds, and ratios to cp; ! is above the goal")
    print("             whole    /cp   goal  imports   after    /cp   goal")
    print(f"  {'cp':8}{median(copies):8.2f}   ({min(copies):.2f} to {max(copies):.2f})")
    for kind, pruning in PRUNINGS.items():
        whole, imports = [row[kind] for row in rows], [row[f"{kind} imports"] for row in rows]
        after = [w - i for w, i in zip(whole, imports, strict=True)]
        print(
            f"  {kind:8}{median(whole):8.2f}"
            f"{against(ratio(whole, copies), pruning.goal_whole if has_whole_goals else None)}"
            f"{median(imports):9.2f}{median(after):8.2f}"
            f"{against(ratio(after, copies), pruning.goal_after_imports)}"
        )
    analyze = median(row["analyze"] for row in rows)
    print(f"  {'analyze':8}{analyze:8.2f}{mark(analyze, ANALYZE_GOAL)} goal {ANALYZE_GOAL} s")


def print_peaks(firsts: Mapping[str, tuple[Ended, Ended, str]], goal: float) -> None:
    print("  Peak of resident memory, above that of the imports alone;")
    print(f"  goal {size(goal)}: twice the largest tensor and 150 MB")
    for kind, (whole, imports, _) in firsts.items():
        above = whole.peak - imports.peak
        peaks = f"{size(whole.peak)} less {size(imports.peak)}"
        print(f"  {kind:8}{size(above):>10}{mark(above, goal)} {peaks}; {heavy(whole)}")


def ratio(seconds: Sequence[float], copies: Sequence[float]) -> float:
    return median(s / copy for s, copy in zip(seconds, copies, strict=True))


def against(value: float, goal: float | None) -> str:
    return f"{value:7.2f}{mark(value, goal)}{goal or '-':>6}"


def mark(value: float, goal: float | None) -> str:
    return "!" if goal is not None and value > goal else " "


def heavy(ended: Ended) -> str:
    """Which of the slow imports a process made."""
    loaded = [name.rpartition(".")[2] for name in HEAVY if name in ended.modules]
    return "imported " + (", ".join(loaded) or "neither torch nor transformers")


def print_machine(folder: Path, runs: int) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    disk = subprocess.run(
        ["df", "--output=fstype,source", folder], capture_output=True, text=True, check=True
    )
    print(
        f"{datetime.now(UTC):%Y-%m-%d}  {platform.machine()}, {os.cpu_count()} CPU cores,", end=" "
    )
    print(f"{size(memory)} of memory, {' on '.join(disk.stdout.split()[-2:])}, load {load}")
    print(f"{versions()}; median of {runs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1.5,6", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; on the disk to measure")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints in --folder")
    arguments = parser.parse_args()
    names, folder = arguments.sizes.split(","), arguments.folder
    if unknown := set(names) - set(SIZES):
        parser.error(f"unknown sizes: {', '.join(unknown)}. Available: {', '.join(SIZES)}.")
    if arguments.keep and not folder:
        parser.error("--keep needs a --folder to keep the checkpoints in.")
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    print_machine(folder or Path(tempfile.gettempdir()), arguments.runs)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="optipfair-", dir=folder) as temporary:
            scratch = Path(temporary).resolve()
            kept = (folder if arguments.keep else scratch) / f"llama-{name}"
            measure(name, kept.resolve(), scratch, arguments.runs)


if __name__ == "__main__":
    main()
