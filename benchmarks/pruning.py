"""What pruning costs: time and memory of `prune_model` against copying the weights, and more.

Every figure is paired in one run with what it is compared to, as the median of several. Run with

    python benchmarks/pruning.py [--runs 5] [--skip-large] [--device cuda]

The embedded model and a random Llama of 1.5 B parameters in bfloat16 are used.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from common import timed
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

from optipfair import load_model, prune_model
from optipfair.arch.view import describe
from optipfair.hooks import evaluating
from optipfair.pipeline.model_card import versions
from optipfair.pruning.calibration.activations import neuron_input_norms
from optipfair.report.formats import size

METHODS = {"PPM": 2.0, "PON": 3.5, "L2": 3.5, "VOW": 5.0}  # goals, times the copy
PERCENTAGE = 20


def large_llama() -> torch.nn.Module:
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=8,
        dtype=torch.bfloat16,
    )
    torch.set_default_dtype(torch.bfloat16)
    with no_init_weights():
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02)
    return model.eval()


MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "embedded": lambda: load_model("demo"),
    "large": large_llama,
}


def peak_memory(model: str, method: str, device: str) -> float:
    """Peak bytes that pruning takes beside the model, in a process of its own.

    On CPU the high-water mark of resident memory is reset before (`clear_refs`), and the memory
    allocator has nothing to recycle; elsewhere the device's own counter is read.
    """
    command = [sys.executable, __file__, "--peak", model, method, "--device", device]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def print_peak(model: str, method: str, device: str) -> None:
    victim = MODELS[model]().to(device)
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
        before = high_water_mark()
        prune(victim, method)
        print(high_water_mark() - before)
    else:
        torch.accelerator.reset_peak_memory_stats(device)
        before = torch.accelerator.memory_allocated(device)
        prune(victim, method)
        print(torch.accelerator.max_memory_allocated(device) - before)


def high_water_mark() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def pruning(kind: str, name: str, model: torch.nn.Module, runs: int, device: str) -> None:
    """Time and peak memory of `prune_model`, each run beside copies of the MLP weights.

    A copy into memory that is new to the process pays for its pages, one into recycled memory
    does not, and pruning meets either. So both are measured: `new` allocates the copies, `kept`
    overwrites the same ones again.
    """
    model = model.to(device)
    view = describe(model)
    weights = [tensor.detach() for mlp in view.mlps for tensor in mlp.tensors.values()]
    layer_bytes = sum(p.numel() * p.element_size() for p in view.container[0].parameters())
    print(f"\n{name}: {size(sum(w.numel() * w.element_size() for w in weights))} of MLP weights;")
    print(f"one layer holds {size(layer_bytes)}. Times in ms, ratios to the copies.")
    print(
        f"  {'':5}{'copy new':>10}{'kept':>8}{'prune':>9}{'/new':>7}{'/kept':>7}{'goal':>6}  peak"
    )
    for method, goal in METHODS.items():
        rows = [one_pruning(model, weights, method, device) for _ in range(runs + 1)][1:]
        new, kept, pruned = (statistics.median(column) for column in zip(*rows, strict=True))
        to_new = statistics.median(row[2] / row[0] for row in rows)
        to_kept = statistics.median(row[2] / row[1] for row in rows)
        print(
            f"  {method:5}{1e3 * new:10.1f}{1e3 * kept:8.1f}{1e3 * pruned:9.1f}"
            f"{to_new:7.2f}{to_kept:7.2f}{goal:6.1f}  {size(peak_memory(kind, method, device))}"
        )


def one_pruning(
    model: torch.nn.Module, weights: list[torch.Tensor], method: str, device: str
) -> tuple[float, float, float]:
    """Seconds of a copy into new memory, into kept memory, and of pruning."""
    copies: list[torch.Tensor] = []
    new = timed(lambda: copies.extend(w.clone() for w in weights), device)
    kept = timed(lambda: [c.copy_(w) for c, w in zip(copies, weights, strict=True)], device)
    copies.clear()
    victim = copy.deepcopy(model)
    return new, kept, timed(lambda: prune(victim, method), device)


def prune(model: torch.nn.Module, method: str) -> None:
    prune_model(
        model,
        neuron_selection_method=method,
        pruning_percentage=PERCENTAGE,
        show_progress=False,
    )


def calibration(model: torch.nn.Module, runs: int, device: str) -> None:
    """Data-driven calibration on 64 x 256 tokens against plain forward passes with logits."""
    model = model.to(device)
    generator = torch.Generator().manual_seed(0)
    batches = torch.randint(0, 49152, (64, 256), generator=generator).split(8)

    def forward() -> None:
        with evaluating(model):
            for batch in batches:
                model(input_ids=batch.to(device))

    plain, ours = [], []
    for run in range(runs + 1):
        plain.append(timed(forward, device))
        ours.append(timed(lambda: neuron_input_norms(describe(model), batches), device))
        if run == 0:
            plain, ours = [], []
    ratio = statistics.median(o / p for o, p in zip(ours, plain, strict=True))
    print("\nCalibration, embedded model, 64 x 256 tokens (goal 0.9)")
    print(
        f"  plain forward {statistics.median(plain):6.2f} s   calibration "
        f"{statistics.median(ours):6.2f} s   ratio {ratio:.2f}"
    )


def start_up(runs: int) -> None:
    print("\nStart-up, fresh processes")
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import optipfair": [sys.executable, "-c", "import optipfair"],
        "optipfair --help (goal 500 ms)": [sys.executable, "-m", "optipfair", "--help"],
    }
    for label, command in commands.items():
        times = [
            timed(lambda c=command: subprocess.run(c, check=True, capture_output=True), "cpu")
            for _ in range(runs + 1)
        ][1:]
        print(f"  {label:32}{1e3 * statistics.median(times):8.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--skip-large", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "METHOD"), help="one measurement")
    arguments = parser.parse_args()
    device = arguments.device
    if arguments.peak:
        print_peak(*arguments.peak, device)
        return
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    print(f"{datetime.now(UTC):%Y-%m-%d}  {device} ({name}), {os.cpu_count()} CPU cores")
    print(f"{versions()}; median of {arguments.runs}; {PERCENTAGE} % of the neurons removed")
    embedded = load_model("demo")
    pruning("embedded", "embedded SmolLM2-135M, float32", embedded, arguments.runs, device)
    calibration(embedded, arguments.runs, device)
    start_up(arguments.runs)
    if not arguments.skip_large:
        pruning("large", "random Llama 1.5 B, bfloat16", large_llama(), arguments.runs, device)


if __name__ == "__main__":
    main()
