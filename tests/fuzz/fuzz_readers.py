"""Feed mutated files to the readers of foreign formats: only errors of this library may come out.

    python tests/fuzz/fuzz_readers.py header|index|config|gguf|plan|pairs|recipe|texts
        [-max_total_time=SECONDS] [other options of libFuzzer]

Guided by coverage (atheris). A finding is a traceback, a hang of more than 10 seconds, or more than
2 GiB of memory. `make fuzz` runs them all.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["optipfair"]):
    from optipfair import OptiPFairError, PruningPlan
    from optipfair.bias.prompts.pairs import read_pairs
    from optipfair.files.gguf_header import read_gguf_header
    from optipfair.files.safetensors_reader import (
        INDEX_FILE,
        open_checkpoint,
        read_config,
        read_header,
    )
    from optipfair.pruning.calibration.calibration_texts import read_texts
    from optipfair.pruning.options.recipe import read_recipe

MEMORY = Path("/dev/shm")
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir=MEMORY if MEMORY.is_dir() else None))
TARGETS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "header": ("x.safetensors", read_header),
    "index": (INDEX_FILE, lambda path: open_checkpoint(path.parent)),
    "config": ("config.json", lambda path: read_config(path.parent)),
    "gguf": ("x.gguf", read_gguf_header),
    "plan": ("plan.json", PruningPlan.load),
    "pairs": ("pairs.jsonl", read_pairs),
    "recipe": ("recipe.yaml", read_recipe),
    "texts": ("texts.jsonl", read_texts),
}


def main() -> None:
    name = sys.argv.pop(1)
    file, read = TARGETS[name]
    path = FOLDER / file

    def once(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(OptiPFairError):
            read(path)

    limits = ["-timeout=10", "-rss_limit_mb=4096", "-max_len=20000"]
    seeds = Path(__file__).with_name("seeds") / name
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], str(FOLDER / ""), str(seeds)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
