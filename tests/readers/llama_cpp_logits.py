"""Run by the Python of an environment that holds llama-cpp-python and not this library.

python llama_cpp_logits.py FILE ...    logits of the tokens in ids.npy beside each file
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from llama_cpp import Llama

if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        ids = np.load(path.parent / "ids.npy")
        # As long as the text: longrope chooses its factors by the length of the context, which is
        # a multiple of 256. Keys and values in float32 (0), so that rounding does not add up.
        model = Llama(str(path), n_ctx=len(ids), logits_all=True, verbose=False, type_k=0, type_v=0)
        model.eval(ids.tolist())
        np.save(path.with_suffix(".npy"), np.array(model.scores[: len(ids)]))
