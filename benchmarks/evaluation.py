"""What evaluating costs, on the embedded model. Run with

    python benchmarks/evaluation.py [--only speed compare] [--runs 12] [--data DATA --preset full]

- speed: `time_inference` of a single run against a bare `generate` call of the same kind (greedy,
  the same prompt, the same number of tokens), taking turns; so all that it does beside the calls is
  borne by one of them. The ratios are medians of pairs; that of two bare calls to each other says
  what the machine does by itself. And, within `time_inference`, the share of its time that passes
  outside `generate`, which a busy machine hardly blurs.
- compare: minutes of the whole comparison of the model with its form of 20 % fewer neurons, and
  what it says. Scores are kept nowhere unless `--cache-dir` names a folder (a run that was stopped
  goes on there, and its minutes are then those of the rest).
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import timed
from numpy.typing import NDArray
from transformers import GenerationConfig

from optipfair import compare_models, load_model, load_tokenizer, prune_model, time_inference
from optipfair.demo.demonstration import calibration_batches
from optipfair.pipeline.model_card import versions
from optipfair.uncertainty import bootstrap_bounds

Times = NDArray[np.float64]

PROMPT = "The city council met on Tuesday to decide about the new bridge, and"
TOKENS = 32  # new ones, of a call


def speed(model: Any, tokenizer: Any, arguments: argparse.Namespace) -> None:
    runs: int = arguments.runs
    inputs = tokenizer(PROMPT, return_tensors="pt")
    settings = GenerationConfig(max_new_tokens=TOKENS, do_sample=False)
    model.generation_config = GenerationConfig()  # no end of text, no sampling

    def bare() -> None:
        found = model.generate(**inputs, generation_config=settings)
        assert found.shape[1] == inputs["input_ids"].shape[1] + TOKENS

    outside: list[float] = []

    def measured() -> None:
        started = time.perf_counter()
        with watching(model) as inside:
            time_inference(model, tokenizer, PROMPT, TOKENS, num_runs=1, warmup_runs=0)
        outside.append(1 - sum(inside) / (time.perf_counter() - started))

    times = in_turns([measured, bare, bare], runs)
    whole, alone = np.median(times[:, :2, 0], axis=0)
    print(
        f"\ntime_inference of one run of {TOKENS} tokens: {whole:.2f} s; the call alone "
        f"{alone:.2f} s; medians of {runs}\n"
        f"  overhead {overhead(times[:, 0] / times[:, 1])} (goal: 2 % at most)\n"
        f"  two bare calls: {overhead(times[:, 2] / times[:, 1])}\n"
        f"  share of its time outside generate: {np.median(outside):.2%}"
    )


@contextmanager
def watching(model: Any) -> Iterator[list[float]]:
    """The seconds that each `generate` call of the model takes."""
    inside: list[float] = []
    generate = model.generate

    def watched(**arguments: Any) -> Any:
        started = time.perf_counter()
        found = generate(**arguments)
        inside.append(time.perf_counter() - started)
        return found

    model.generate = watched
    yield inside
    del model.generate


def in_turns(jobs: Sequence[Callable[[], None]], runs: int) -> Times:
    """Seconds by the clock and of CPU, (runs, jobs, 2); every second round goes backwards."""
    jobs[0]()  # to warm up
    rows = []
    for number in range(runs):
        order = range(len(jobs)) if number % 2 == 0 else reversed(range(len(jobs)))
        found = {which: seconds(jobs[which]) for which in order}
        rows.append([found[which] for which in range(len(jobs))])
    return np.array(rows)


def seconds(job: Callable[[], None]) -> tuple[float, float]:
    before = time.process_time()
    return timed(job, "cpu"), time.process_time() - before


def overhead(ratios: Times) -> str:
    """Of ratios (runs, 2), by the clock and of CPU, the medians with their 95 % intervals."""
    texts = []
    for column in ratios.T:
        found = bootstrap_bounds(column, np.median)
        interval = f" [{found[0] - 1:+.2%}, {found[1] - 1:+.2%}]" if found else ""
        texts.append(f"{np.median(column) - 1:+.2%}{interval}")
    return f"{texts[0]} by the clock, {texts[1]} by CPU seconds"


def compare(model: Any, tokenizer: Any, arguments: argparse.Namespace) -> None:
    batches = calibration_batches(tokenizer)
    pruned = prune_model(
        copy.deepcopy(model), pruning_percentage=20, dataloader=batches, show_progress=False
    )
    with TemporaryDirectory() as folder:
        found = compare_models(
            *(model, pruned, tokenizer),
            data=arguments.data,
            preset=arguments.preset,
            cache_dir=arguments.cache_dir,
            output_dir=arguments.output_dir or folder,
            show_progress=True,
        )
    protocol = found["protocol"]
    reused = sum(each["reused"] for each in found["tasks"])
    print(f"\ncompare, preset {protocol['preset']}, {protocol['tokens']:,} tokens for both models: "
          f"{protocol['seconds'] / 60:.1f} minutes, with {reused} scores from the cache "
          "(goal for quick: 10 at most)")  # fmt: skip
    for each in found["verdicts"]:
        print(f"  {each['question']}: {each['verdict']}. {each['sentence']}")


PARTS: Mapping[str, Callable[[Any, Any, argparse.Namespace], None]] = {
    "speed": speed,
    "compare": compare,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--data", type=Path, help="folder of evaluation data, for `compare`")
    parser.add_argument("--preset", default="quick", choices=["quick", "full"])
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--output-dir", type=Path, help="where the report is kept")
    arguments = parser.parse_args()
    print(
        f"{datetime.now(UTC).date()}  cpu ({platform.machine()}), {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} at the start\n"
        f"{versions()}; SmolLM2-135M, float32"
    )
    model, tokenizer = load_model("demo", dtype="float32"), load_tokenizer("demo")
    for part in arguments.only:
        PARTS[part](model, tokenizer, arguments)


if __name__ == "__main__":
    main()
