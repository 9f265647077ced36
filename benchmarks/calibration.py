"""What calibration costs, beside plain forward passes with logits over the same tokens.

Every figure is paired in one run with the forward passes, as the median of several. Run with

    python benchmarks/calibration.py [--runs 3] [--sequences 64] [--device cuda]

The embedded model reads 64 sequences of 512 tokens, drawn at random from the demo's own text (they
overlap), 8 in a batch. On a device that is no CPU a random Llama of 8 B parameters in bfloat16
reads as many random tokens.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from common import timed
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

import optipfair
from optipfair import load_model, load_tokenizer
from optipfair.arch.view import ModelView, describe
from optipfair.batches import Batch
from optipfair.hooks import evaluating
from optipfair.pipeline.model_card import versions
from optipfair.pruning.calibration.activations import neuron_input_norms, read_batches
from optipfair.pruning.calibration.calibration_texts import CalibrationText
from optipfair.pruning.calibration.moments import MLPInputs, Tokens, collecting
from optipfair.pruning.calibration.stream import capture, run_layer
from optipfair.pruning.compensation.least_squares import fit_kept
from optipfair.pruning.decision import decide
from optipfair.pruning.importance.criteria import CRITERIA, Weights
from optipfair.pruning.importance.selection import select_neurons
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.pruning.request.pruning_request import check_request
from optipfair.report.formats import size

PERCENTAGE = 20
LENGTH = 512
TEXT = Path(optipfair.__file__).with_name("demo") / "calibration.txt"
GOALS = {"norms": 0.9, "second moments": 2.0, "AUTO, compensated": 4.0}  # times the forward


def large_llama(device: str, layers: int = 32) -> torch.nn.Module:
    """The shape of Llama 3 8B, random."""
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        dtype=torch.bfloat16,
    )
    torch.set_default_dtype(torch.bfloat16)
    with no_init_weights(), torch.device(device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(0, 0.02) if "norm" not in name else parameter.data.fill_(1)
    return model.eval()


def forward(model: torch.nn.Module, batches: Sequence[Batch], device: str) -> None:
    with evaluating(model):
        for batch in batches:
            model(input_ids=batch.input_ids.to(device))


def second_moments(view: ModelView, batches: Sequence[Batch], layer: int) -> MLPInputs:
    """Collect those of every layer, one at a time; give those of one."""
    stream = capture(view, batches)
    tokens: list[Tokens] = []
    found: list[MLPInputs] = []
    for each in view.layers:
        inputs = [MLPInputs(mlp, moments=True) for mlp in each.mlps]
        with evaluating(each.module), collecting(inputs, tokens):
            for number, hidden in enumerate(stream.hidden):
                tokens[:] = [Tokens.of(hidden, stream.masks[number], stream.firsts[number])]
                arguments = stream.arguments[number][each.index]
                stream.hidden[number] = run_layer(each.module, hidden, arguments)
        found += inputs if each.index == layer else []
    return found[0]


def solve(inputs: MLPInputs) -> None:
    """Decide one MLP: which neurons stay, and their new weights."""
    mlp, part = inputs.mlp, inputs.parts[0]
    count = mlp.width * (100 - PERCENTAGE) // 100
    criterion = CRITERIA["AUTO"]
    weights = Weights(**{role: matrix.float() for role, matrix in mlp.matrices().items()})
    scores = criterion.function(weights, part, count)
    fit_kept(weights.down.T, select_neurons(scores, count), *part.split())


def whole_run(view: ModelView, batches: Sequence[Batch]) -> None:
    data = list(batches)
    decide(
        view,
        check_request(PruneOptions("MLP_GLU", PERCENTAGE, neuron_selection_method="AUTO"), data),
        data,
    )


def beside_forward(
    model: torch.nn.Module, batches: Sequence[Batch], runs: int, device: str
) -> None:
    view = describe(model)
    middle = len(view.layers) // 2
    jobs: dict[str, Callable[[], object]] = {
        "plain forward": lambda: forward(model, batches, device),
        "norms": lambda: neuron_input_norms(view, batches),
        "second moments": lambda: second_moments(view, batches, middle),
        "AUTO, compensated": lambda: whole_run(view, batches),
    }
    forward(model, batches[:1], device)  # warm up
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(runs):
        for name, job in jobs.items():
            times[name].append(timed(job, device))
    tokens = sum(batch.tokens for batch in batches)
    print(f"  {'':20}{'seconds':>9}{'tokens/s':>10}{'/forward':>10}{'goal':>6}")
    for name, found in times.items():
        median = statistics.median(found)
        pairs = zip(found, times["plain forward"], strict=True)
        ratio = statistics.median(own / plain for own, plain in pairs)
        goal = GOALS.get(name, "")
        print(f"  {name:20}{median:9.2f}{tokens / median:10.0f}{ratio:10.2f}{goal:>6}")
    inputs = second_moments(view, batches, middle)
    alone = statistics.median(timed(lambda: solve(inputs), device) for _ in range(runs))
    print(f"  deciding one layer of {len(view.layers)}: {alone:.2f} s")


def precision(model: torch.nn.Module, batches: Sequence[Batch]) -> None:
    """Second moments of one layer's real inputs, against float64 throughout."""
    view = describe(model)
    layer = len(view.layers) // 2
    inputs = second_moments(view, batches, layer)
    exact = torch.zeros_like(inputs.parts[0].moments)
    entered: list[Tensor] = []  # the layer's hidden states, then the down projection's inputs
    modules = (view.layers[layer].module, inputs.module)
    handles = [
        module.register_forward_pre_hook(lambda _module, args: entered.append(args[0]))
        for module in modules
    ]
    with evaluating(model):
        for batch in batches:
            model.base_model(input_ids=batch.input_ids)  # type: ignore[operator]
            hidden, values = (each.flatten(0, -2).double() for each in entered)
            entered.clear()
            rows = values / hidden.square().mean(dim=-1, keepdim=True).sqrt()  # see `Tokens`
            exact += rows.T @ rows
    for handle in handles:
        handle.remove()
    difference = inputs.parts[0].moments - exact
    scale = exact.diagonal().sqrt()
    print(
        f"\nSecond moments of layer {layer} against float64 throughout: "
        f"{float(difference.norm() / exact.norm()):.1e} in the norm, at most "
        f"{float((difference / scale / scale[:, None]).abs().max()):.1e} of the diagonal"
    )


def peak(function: Callable[[], object], device: str) -> int:
    """Bytes on the device at the highest, the model included."""
    torch.accelerator.reset_peak_memory_stats(device)
    function()
    return int(torch.accelerator.max_memory_allocated(device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device, runs, count = arguments.device, arguments.runs, arguments.sequences
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    print(f"{datetime.now(UTC):%Y-%m-%d}  {device} ({name}), {os.cpu_count()} CPU cores", end=", ")
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} at the start")
    print(f"{versions()}; median of {runs}; {PERCENTAGE} % of the neurons removed")
    tokenizer: Any = load_tokenizer("demo")
    text = CalibrationText(str(TEXT), count, LENGTH)
    batches = list(read_batches(text.draw(tokenizer).batches))
    embedded = load_model("demo", device=device)
    print(f"\nembedded SmolLM2-135M, float32, {count} x {LENGTH} tokens of the demo's text")
    beside_forward(embedded, batches, runs, device)
    if device == "cpu":
        precision(embedded, batches[:2])
        return
    del embedded
    large = large_llama(device)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 128256, (count, LENGTH), generator=generator)
    random = list(read_batches(ids.split(8)))
    print(f"\nrandom Llama 8 B, bfloat16, {count} x {LENGTH} random tokens")
    beside_forward(large, random, runs, device)
    highest = peak(lambda: whole_run(describe(large), random), device)
    held = sum(p.numel() * p.element_size() for p in large.parameters())
    print(f"  peak device memory {size(highest)}, of which weights {size(held)}")


if __name__ == "__main__":
    main()
