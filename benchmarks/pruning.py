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
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

from optipfair import load_model, prune_model
from optipfair.arch.view import describe
from optipfair.hooks import evaluating
from optipfair.pruning.calibration import neuron_input_norms
from optipfair.report.card import size, versions

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


def timed(function: Callable[[], object], device: str) -> float:
    synchronize(device)
    started = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize(device)


class PeakMemory:
    """Resident memory above the start, sampled every millisecond (or the device's own peak)."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __enter__(self) -> PeakMemory:
        if self.device != "cpu":
            torch.accelerator.reset_peak_memory_stats(self.device)
            self.start = torch.accelerator.memory_allocated(self.device)
            return self
        self.start = self.peak = resident()
        self.running = True
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device != "cpu":
            self.bytes = torch.accelerator.max_memory_allocated(self.device) - self.start
            return
        self.running = False
        self.thread.join()
        self.bytes = max(self.peak - self.start, 0)

    def _sample(self) -> None:
        while self.running:
            self.peak = max(self.peak, resident())
            time.sleep(0.001)


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def pruning(name: str, model: torch.nn.Module, runs: int, device: str) -> None:
    """Time and peak memory of `prune_model`, each run beside a copy of the MLP weights."""
    model = model.to(device)
    weights = [tensor for mlp in describe(model).mlps for tensor in mlp.tensors.values()]
    layer_bytes = sum(
        p.numel() * p.element_size() for p in describe(model).container[0].parameters()
    )
    print(f"\n{name}: {size(sum(w.numel() * w.element_size() for w in weights))} of MLP weights")
    print(f"  {'':6}{'copy ms':>10}{'prune ms':>10}{'ratio':>8}{'goal':>6}{'peak':>11}  one layer")
    for method, goal in METHODS.items():
        copies, prunes, peaks = [], [], []
        for run in range(runs + 1):
            copies.append(timed(lambda: [w.detach().clone() for w in weights], device))
            victim = copy.deepcopy(model)
            prunes.append(timed(lambda v=victim, m=method: prune(v, m), device))
            victim = copy.deepcopy(model)
            with PeakMemory(device) as memory:
                prune(victim, method)
            peaks.append(memory.bytes)
            del victim
            if run == 0:  # warm-up
                copies, prunes, peaks = [], [], []
        ratio = statistics.median(p / c for p, c in zip(prunes, copies, strict=True))
        copied, pruned = 1e3 * statistics.median(copies), 1e3 * statistics.median(prunes)
        peak = size(statistics.median(peaks))
        print(f"  {method:6}{copied:10.1f}{pruned:10.1f}{ratio:8.2f}{goal:6.1f}{peak:>11}", end="")
        print(f"  {size(layer_bytes)}")


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
    arguments = parser.parse_args()
    device = arguments.device
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    print(f"{datetime.now(UTC):%Y-%m-%d}  {device} ({name}), {os.cpu_count()} CPU cores")
    print(f"{versions()}; median of {arguments.runs}; {PERCENTAGE} % of the neurons removed")
    embedded = load_model("demo")
    pruning("embedded SmolLM2-135M, float32", embedded, arguments.runs, device)
    calibration(embedded, arguments.runs, device)
    start_up(arguments.runs)
    if not arguments.skip_large:
        pruning("random Llama 1.5 B, bfloat16", large_llama(), arguments.runs, device)


if __name__ == "__main__":
    main()
