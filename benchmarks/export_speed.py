"""How fast a pruned model runs in llama.cpp beside the whole one, and how large its file is.

    OPTIPFAIR_ENGINES=FOLDER python benchmarks/export_speed.py --pruned FOLDER

Both models are exported, loaded in one process of the Python that has llama.cpp, and timed in
turns: tokens of a prompt read at once, and tokens written one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import gguf

from optipfair import export_model

TIMED = """
import json, sys, time
from statistics import median
import llama_cpp.llama_cpp as library
from llama_cpp import Llama

default = library.llama_model_default_params
def as_they_are():  # repacked weights crash 0.3.36 on processors with AMX
    found = default()
    found.use_extra_bufts = False
    return found
library.llama_model_default_params = as_they_are
files, threads, runs = sys.argv[1:-2], int(sys.argv[-2]), int(sys.argv[-1])
quiet = {"verbose": False, "n_ctx": 1024, "n_threads": threads, "n_threads_batch": threads}
models = [Llama(file, **quiet) for file in files]
prompt = [(7 * n) % 4000 + 100 for n in range(256)]
found = [{"read": [], "written": []} for _ in files]
for run in range(runs + 1):
    for model, rates in zip(models, found):
        model.reset()
        began = time.perf_counter()
        model.eval(prompt)
        read = time.perf_counter() - began
        began = time.perf_counter()
        for token in prompt[:64]:
            model.eval([token])
        written = time.perf_counter() - began
        if run:  # the first is slow
            rates["read"].append(len(prompt) / read)
            rates["written"].append(64 / written)
print(json.dumps([{name: median(each) for name, each in rates.items()} for rates in found]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--pruned", required=True)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16", "q8_0"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    asked = parser.parse_args()
    python = Path(os.environ["OPTIPFAIR_ENGINES"], "llama_cpp", "bin", "python")
    for dtype in asked.dtypes:
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for place, model in enumerate((asked.model, asked.pruned)):
                output = Path(folder, str(place))
                export_model(model, output, to="llama.cpp", dtype=dtype)
                files.append(output / "model.gguf")
            ask = [str(python), "-c", TIMED, *map(str, files), str(asked.threads), str(asked.runs)]
            whole, pruned = json.loads(subprocess.run(ask, check=True, capture_output=True).stdout)
            print(f"{dtype}, {asked.threads} threads, median of {asked.runs} runs in turns")
            for name, what in (("read", "tokens of a prompt"), ("written", "tokens written")):
                print(
                    f"    {what} a second: {whole[name]:.1f} whole, {pruned[name]:.1f} pruned "
                    f"(x {pruned[name] / whole[name]:.3f})"
                )
            for name, file in zip(("whole", "pruned"), files, strict=True):
                weights = sum(tensor.n_bytes for tensor in gguf.GGUFReader(file).tensors)
                size = file.stat().st_size
                print(
                    f"    {name}: {size:,} bytes, weights {weights:,} "
                    f"(file / weights {size / weights:.4f})"
                )


if __name__ == "__main__":
    main()
