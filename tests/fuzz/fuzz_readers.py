"""Feed mutated files to the readers of foreign formats: only errors of this library may come out.

    python tests/fuzz/fuzz_readers.py header|index|config|gguf|plan|pairs|table|recipe|texts
        [-max_total_time=SECONDS] [other options of libFuzzer]

Guided by coverage (atheris). A finding is a traceback, a hang of more than 10 seconds, or more than
4 GB of memory. `make fuzz` runs them all.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris
import numpy as np
import safetensors.numpy

with atheris.instrument_imports(include=["optipfair"]):
    from optipfair import OptiPFairError, PruningPlan
    from optipfair.bias.prompts.pairs import read_prompt_pairs
    from optipfair.files.gguf_header import read_gguf_header
    from optipfair.files.safetensors_reader import (
        INDEX_FILE,
        open_checkpoint,
        read_config,
        read_header,
    )
    from optipfair.pruning.calibration.text_sources import read_source
    from optipfair.pruning.cut.plan import WidthCut
    from optipfair.pruning.options.recipe import read_recipe

MEMORY = Path("/dev/shm")
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir=MEMORY if MEMORY.is_dir() else None))
TARGETS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "header": ("x.safetensors", read_header),
    "index": (INDEX_FILE, lambda path: open_checkpoint(path.parent)),
    "config": ("config.json", lambda path: read_config(path.parent)),
    "gguf": ("x.gguf", read_gguf_header),
    "plan": ("plan.json", PruningPlan.load),
    "pairs": ("pairs.jsonl", read_prompt_pairs),
    "recipe": ("recipe.yaml", read_recipe),
    "table": ("pairs.csv", read_prompt_pairs),
    "texts": ("texts.jsonl", lambda path: read_source(str(path))),
}


def seeds(name: str) -> Path:
    """A folder with one good file of a kind, from which mutation begins."""
    folder = FOLDER / "seeds"
    folder.mkdir()
    (folder / "good").write_bytes(GOOD[name])
    return folder


GOOD: dict[str, bytes] = {
    "header": safetensors.numpy.save({"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.int8)}),
    "index": b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}',
    "config": b'{"model_type": "llama", "num_hidden_layers": 2, "rope_theta": 1e4, "x": [null]}',
    "gguf": b"GGUF"
    + struct.pack("<IQQ", 3, 1, 2)
    + struct.pack("<Q20sIQ5s", 20, b"general.architecture", 8, 5, b"llama")
    + struct.pack("<Q17sII", 17, b"llama.block_count", 4, 2)
    + struct.pack("<Q1sIQIQ", 1, b"a", 1, 4, 0, 0)
    + bytes(64),
    "plan": PruningPlan("llama", 4, (0, 2, 3), (WidthCut(0, "mlp", 8, ((0, 1, 4),)),))
    .to_json()
    .encode(),
    "pairs": b'{"prompt1": "The man ran.", "prompt2": "The woman ran.", "category": "gender"}\n',
    "table": b"prompt1,prompt2,category\nThe man ran.,The woman ran.,gender\n",
    "recipe": b"model_path: demo\npruning_percentage: 20\nlayer_indices: [1, 2]\ndevice: cpu\n",
    "texts": b'{"text": "One."}\n{"messages": [{"role": "user", "content": "Two?"}]}\n',
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
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], str(seeds(name))], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
