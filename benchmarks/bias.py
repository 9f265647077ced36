"""What comparing prompts costs and finds, on the embedded model. Run with

    python benchmarks/bias.py [--runs 3] [time capture memory findings]

- time: `visualize_bias` on the seven default pairs, all three types of figures, against the same
  forward passes alone plus saving as many figures of the same kinds from random arrays;
- capture: all components of all layers, against the same batches without hooks; without the head
  both times;
- memory: the peak for 100 pairs against 10, each in a process of its own;
- findings: how far pairs exceed their neutral controls, and how often neutral controls that play
  the pair are called significant.

Ratios are paired in one run, medians of several.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import timed

from optipfair import load_model, load_tokenizer, visualize_bias
from optipfair.arch.view import describe
from optipfair.bias import COMPONENTS, DEFAULT_PROMPT_PAIRS, PromptPair, generate_prompt_pairs
from optipfair.bias.activations.capture import _batches
from optipfair.bias.activations.layer_keys import DEFAULT_COMPONENTS
from optipfair.bias.figures.panels import Line, Panel, heatmap, mean_difference
from optipfair.bias.figures.pca import Points, pca
from optipfair.bias.prompts.pairs import check_prompt_pairs
from optipfair.bias.study import Plan, Study, carry_out, plan_study
from optipfair.bias.study_summary import summarize_study
from optipfair.bias.swap_means import Swap, mean_of_swaps
from optipfair.cli.bias_command import row_notes, summary_table
from optipfair.hooks import evaluating
from optipfair.pipeline.model_card import versions
from optipfair.report.formats import size

LEVEL = 0.05
TYPES = ["mean_diff", "heatmap", "pca"]
PARTS = ("time", "capture", "memory", "findings")


def default_plan(model: Any, tokenizer: Any) -> Plan:
    return plan_of(model, tokenizer, check_prompt_pairs(DEFAULT_PROMPT_PAIRS))


def plan_of(model: Any, tokenizer: Any, pairs: Sequence[PromptPair]) -> Plan:
    return plan_study(describe(model), tokenizer, pairs)


def passes(model: Any, plan: Plan) -> None:
    """The forward passes alone, on the same batches."""
    with evaluating(model):
        for batch in _batches(plan.comparisons):
            model.base_model(**batch.inputs(torch.device("cpu")), use_cache=False)


def random_figures(plan: Plan, widths: Sequence[int], folder: Path) -> None:
    """As many figures of the same kinds and sizes as `visualize_bias` draws, of three layers."""
    rng = np.random.default_rng(0)
    for number in range(len(plan.pairs)):
        tokens = len(plan.comparisons[number].alignment.units)
        rows = [f"token {row}" for row in range(tokens)]
        edited = [row == 0 for row in range(tokens)]
        lines = {
            name: Line([0, 15, 29], rng.random(3).tolist(), (np.zeros(3).tolist(), [1.0] * 3))
            for name in DEFAULT_COMPONENTS
        }
        mean_difference(lines).savefig(folder / f"mean_diff_{number}.png")
        for kind, width in enumerate(widths):
            arrays = rng.standard_normal((3, 2, tokens, width)).astype(np.float32)
            panels = [Panel(f"layer {i}", a[1] - a[0], rows, edited) for i, a in enumerate(arrays)]
            points = [Points(f"layer {i}", a[0], a[1], rows, edited) for i, a in enumerate(arrays)]
            heatmap(panels).savefig(folder / f"heatmap_{kind}_{number}.png")
            pca(points).savefig(folder / f"pca_{kind}_{number}.png")


@dataclass(frozen=True)
class Measured:
    """Medians of seconds by the clock, and ratios of a job to what it is compared with.

    Attributes:
        job, plain: seconds; `plain` of each thing that it is compared with.
        ratio, cpu_ratio: to their sum, by the clock and by CPU seconds, medians of pairs.
    """

    job: float
    plain: list[float]
    ratio: float
    cpu_ratio: float

    def __str__(self) -> str:
        return f"{self.ratio:.2f} times by the clock, {self.cpu_ratio:.2f} by CPU seconds"


def against(
    job: Callable[[], object], plain: Sequence[Callable[[], object]], runs: int
) -> Measured:
    rows = np.array([[seconds(each) for each in (*plain, job)] for _ in range(runs)])
    ratios = np.median(rows[:, -1] / rows[:, :-1].sum(axis=1), axis=0)
    clock = np.median(rows[:, :, 0], axis=0)
    return Measured(clock[-1], list(clock[:-1]), *ratios)


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of CPU."""
    before = time.process_time()
    return timed(function, "cpu"), time.process_time() - before


def time_of_figures(model: Any, tokenizer: Any, runs: int) -> None:
    plan = default_plan(model, tokenizer)
    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    widths = [inner if c in ("gate_proj", "up_proj") else hidden for c in DEFAULT_COMPONENTS]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, found = visualize_bias(model, tokenizer, None, [], show_progress=False)
        times = against(
            lambda: visualize_bias(
                model, tokenizer, None, TYPES, output_dir=str(folder / "own"), show_progress=False
            ),
            [lambda: passes(model, plan), lambda: random_figures(plan, widths, folder)],
            runs,
        )
        count = len(list((folder / "own").glob("*.png")))
        assert count == len(list(folder.glob("*.png")))
    summary = found["summary"]
    print(
        f"\nvisualize_bias, seven default pairs, {count} figures of three layers, all metrics of "
        f"all layers\n  {summary['prompts']} prompts in {summary['forward_passes']} forward passes "
        f"(7 pairs and {summary['controls']} controls)\n  {times.job:.1f} s; the passes alone "
        f"{times.plain[0]:.1f} s, as many figures of random arrays {times.plain[1]:.1f} s\n"
        f"  {times} (goal 1.5)"
    )


def time_of_capture(model: Any, tokenizer: Any, runs: int) -> None:
    plan, view = default_plan(model, tokenizer), describe(model)
    layers = range(len(view.layers))
    passes(model, plan)
    times = against(
        lambda: carry_out(view, plan, list(COMPONENTS), layers),
        [lambda: passes(model, plan)],
        runs,
    )
    print(
        f"\nCapture and reduction of all {len(COMPONENTS)} components of {len(layers)} layers\n"
        f"  {times.job:.2f} s; the same batches without hooks {times.plain[0]:.2f} s\n"
        f"  {times} (goal 1.3)"
    )


def memory(counts: Sequence[int]) -> None:
    print("\nPeak memory of the process (VmHWM), numbers of all layers, 2 controls a pair")
    for count in counts:
        command = [sys.executable, __file__, "--pairs", str(count)]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"  {count:4} pairs: {size(int(found))}")


def peak_for(model: Any, tokenizer: Any, count: int) -> int:
    pairs = generate_prompt_pairs(["race", "religion"])[:count]
    assert len(pairs) == count
    visualize_bias(model, tokenizer, pairs, [], show_progress=False, controls=2)  # type: ignore[arg-type]
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return int(status.split()[0]) * 1024


def findings(model: Any, tokenizer: Any, each: int) -> None:
    view = describe(model)
    pairs = generate_prompt_pairs()
    categories = dict.fromkeys(pair.category for pair in pairs)
    chosen: list[PromptPair] = []
    for category in categories:
        own = [pair for pair in pairs if pair.category == category]
        chosen += [own[i * len(own) // each] for i in range(each)]  # evenly over its attributes
    for label, plan in (
        ("the seven default pairs", default_plan(model, tokenizer)),
        (f"generated pairs, {each} a category", plan_of(model, tokenizer, chosen)),
    ):
        study = carry_out(view, plan, list(DEFAULT_COMPONENTS), range(len(view.layers)))
        summary = summarize_study(study)
        _, header, rows = summary_table("", summary)
        print(f"\nExcess over controls, {label}")
        for row in (header, *rows):
            print(f"  {row[0]:14}" + "".join(f"{c:>12}" for c in row[1:6]), end="")
            print(f"{row[6]:>22}{row[7]:>10}")
        for note in row_notes(summary):
            print(f"  {note}")
        significant = [key for key, row in summary["keys"].items() if (row["p_holm"] or 1) < LEVEL]
        print(
            f"  keys unlike their controls after Holm: {len(significant)} of {len(summary['keys'])}"
        )
    false_positives(study, tests=200, together=7)


def false_positives(study: Study, tests: int, together: int) -> None:
    """Let one control of each pair play the pair against the others, in swaps of other words."""
    values = study.values[:, ~np.isnan(study.values).any(axis=0)]
    plan, swaps = study.plan, {}
    for number, swap in enumerate(study.plan.swaps):
        if len(plan.owned[number]) == 8:
            swaps.setdefault(swap.label, []).append(number)
    rng = np.random.default_rng(0)
    above, overall, keys = 0, 0, []
    for _ in range(tests):
        chosen = rng.choice(len(swaps), size=together, replace=False)
        members = [rng.choice(list(swaps.values())[each]) for each in chosen]
        players = rng.integers(8, size=together)
        excess = []
        for member, player in zip(members, players, strict=True):
            rows = values[list(plan.owned[member])]
            excess.append(rows[player] - np.delete(rows, player, axis=0).mean(axis=0))
        means = values[list(plan.owned[members[0]])].mean(axis=1)
        above += bool(means[players[0]] >= means.max())
        roles = [
            neutral_swap(plan.controls[member].words, player)
            for member, player in zip(members, players, strict=True)
        ]
        found = mean_of_swaps(np.stack(excess), roles)
        p_value = mean_of_swaps(np.stack(excess).mean(axis=1, keepdims=True), roles).p_value(0)
        overall += p_value is not None and p_value <= LEVEL
        keys.append(float((found.p_values <= LEVEL).mean()) if found.p_values is not None else 0.0)
    print(
        f"\nControls against controls, {tests} of each\n"
        f"  a single one above its 7 others: {above / tests:.1%} (expected 12.5%)\n"
        f"  {together} together, p <= {LEVEL}, mean over all keys: {overall / tests:.1%}\n"
        f"  the same, single keys: {statistics.mean(keys):.1%}"
    )


def neutral_swap(words: Sequence[tuple[str, ...]], player: int) -> Swap:
    """The words of the control that plays the pair, less those of the others."""
    loads = dict.fromkeys(words[player], 1.0)
    for word in (word for i, each in enumerate(words) if i != player for word in each):
        loads[word] = loads.get(word, 0.0) - 1 / (len(words) - 1)
    return Swap((words[player], words), loads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--each", type=int, default=30, help="generated pairs of a category")
    parser.add_argument("--pairs", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model, tokenizer = load_model("demo"), load_tokenizer("demo")
    if arguments.pairs:
        print(peak_for(model, tokenizer, arguments.pairs))
        return
    print(
        f"{datetime.now(UTC):%Y-%m-%d}  cpu ({platform.machine()}), {os.cpu_count()} cores",
        end=", ",
    )
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} at the start")
    print(f"{versions()}; SmolLM2-135M, float32; median of {arguments.runs}")
    if "time" in arguments.parts:
        time_of_figures(model, tokenizer, arguments.runs)
    if "capture" in arguments.parts:
        time_of_capture(model, tokenizer, arguments.runs)
    if "memory" in arguments.parts:
        memory([10, 100])
    if "findings" in arguments.parts:
        findings(model, tokenizer, arguments.each)


if __name__ == "__main__":
    main()
