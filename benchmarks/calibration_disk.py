"""What calibration from a checkpoint costs: time against the loaded model, memory by depth.

Random Llamas in bfloat16, all of one width, are written tensor by tensor. Each measurement is a
process of its own that decides what to keep and writes nothing; the input is in the page cache.

    python benchmarks/calibration_disk.py [--method WACT] [--runs 1] [--folder ON_A_DISK]
        [--sizes 1.5,6] [--sequential]

Size 6 takes 12 GB of disk. What is written goes again. `WACT` without `--sequential` runs each
layer once and has next to no statistics: what is left of the time is reading and running layers.
Size 0.1 and 0.4 are a quick try of the script. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from checkpoint import SIZES, Size, build, read
from optipfair.pipeline.model_card import versions
from optipfair.report.formats import size

SAME_WIDTH: dict[str, Size] = {
    "0.1": SIZES["0.1"],
    "0.4": replace(SIZES["0.1"], layers=4 * SIZES["0.1"].layers),
    "1.5": SIZES["1.5"],
    "6": replace(SIZES["1.5"], layers=4 * SIZES["1.5"].layers),
}
TIME_GOAL = 1.3  # times the loaded model

# Prints the seconds (also those of CPU) of the call, and the peak of resident memory.
DECIDE = r"""
import json, sys, time
import torch
from pathlib import Path
from optipfair.arch.view import describe
from optipfair.checkpoint.stored_decision import decide_stored
from optipfair.checkpoint.stored_model import StoredModel
from optipfair.loading.models import load_config, load_model
from optipfair.pruning.decision import decide
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.pruning.request.pruning_request import check_request
from optipfair.loading.sources import find_source
folder, method, rows, loaded, sequential = sys.argv[1:]
ids = torch.randint(0, 32000, (int(rows), 256), generator=torch.Generator().manual_seed(0))
data = list(ids.split(1))
asked = PruneOptions(
    "MLP_GLU", 20, neuron_selection_method=method, sequential=sequential == "sequential"
)
request = check_request(asked, data)
started, worked = time.perf_counter(), time.process_time()
if loaded == "loaded":
    plan = decide(describe(load_model(folder)), request, data)[0]
else:
    stored = StoredModel(Path(folder), load_config(find_source(folder)))
    plan = decide_stored(stored, request, dataloader=data)
seconds, cpu = time.perf_counter() - started, time.process_time() - worked
status = open("/proc/self/status").read()
peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak, "digest": plan.digest}))
"""


def decide(source: Path, *arguments: str) -> dict[str, float]:
    """Run DECIDE in a process of its own."""
    read(source)
    command: Sequence[str | Path] = [sys.executable, "-c", DECIDE, source, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare_with_loaded(source: Path, name: str, method: str, order: str, runs: int) -> None:
    """Time and memory on the files and in memory, in turns; 8 sequences of 256 tokens."""
    streamed, loaded = [], []
    for _ in range(runs):
        streamed.append(decide(source, method, "8", "streamed", order))
        loaded.append(decide(source, method, "8", "loaded", order))
    assert {each["digest"] for each in streamed} == {each["digest"] for each in loaded}
    times = [median(each["seconds"] for each in way) for way in (streamed, loaded)]
    works = [median(each["cpu"] for each in way) for way in (streamed, loaded)]
    peaks = [max(each["peak"] for each in way) for way in (streamed, loaded)]
    print(
        f"\n{name} B, {method}, {order}, 8 x 256 tokens, the same plan both ways (median of {runs})"
    )
    print(f"  from the files  {times[0]:7.1f} s, {works[0]:7.1f} s of CPU, peak {size(peaks[0])}")
    print(f"  loaded          {times[1]:7.1f} s, {works[1]:7.1f} s of CPU, peak {size(peaks[1])}")
    ratios = [pair[0] / pair[1] for pair in (times, works)]
    print(f"  {ratios[0]:.2f} times as long, {ratios[1]:.2f} by CPU (goal {TIME_GOAL})", flush=True)


def peak_by_depth(sources: dict[str, Path], method: str, order: str) -> None:
    """Peak memory of models that differ in the number of layers; 4 sequences of 256 tokens."""
    print(f"\nPeak memory from the files, {method}, {order}, 4 x 256 tokens")
    for name, source in sources.items():
        found = decide(source, method, "4", "streamed", order)
        layers = SAME_WIDTH[name].layers
        print(
            f"  {name:>4} B, {layers:3} layers: {size(found['peak'])}, {found['seconds']:.1f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1.5,6")
    parser.add_argument("--method", default="WACT")
    parser.add_argument("--sequential", action="store_true")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    print(versions())
    order = "sequential" if options.sequential else "at once"
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        sources = {name: folder / name for name in options.sizes.split(",")}
        first = next(iter(sources))
        build(sources[first], SAME_WIDTH[first])
        compare_with_loaded(sources[first], first, options.method, order, options.runs)
        for name, source in sources.items():
            build(source, SAME_WIDTH[name])
        peak_by_depth(sources, options.method, order)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
