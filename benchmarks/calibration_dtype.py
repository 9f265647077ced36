"""Calibration of a float32 model with products in bfloat16, and without: time and result.

The embedded model loses a fifth of its neurons by AUTO, on as many sequences of 512 tokens of
bundled text as are asked for. Both ways take turns in one run, each on a copy of the model; the
result is judged on the half of WikiText-2 that `held_out.py` judges by.

    python benchmarks/calibration_dtype.py --samples 16 64
"""

from __future__ import annotations

import argparse
import copy
import os
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest import mock

import torch
from common import timed
from held_out import TOKENS, halves_of_wikitext

from optipfair import calibration_loader, load_model, load_tokenizer, perplexity, prune_model
from optipfair.pruning.calibration.fast_products import fast_products
from optipfair.pruning.compensation import by_layers

WAYS = {"bfloat16": fast_products, "float32": lambda _view: nullcontext()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", nargs="+", type=int, default=[16, 64])
    options = parser.parse_args()
    dense: Any = load_model("demo", dtype="float32")
    tokenizer: Any = load_tokenizer("demo")
    ids = tokenizer(halves_of_wikitext()[1], verbose=False)["input_ids"][:TOKENS]
    text = tokenizer.decode(ids)
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f} at the start\n\n"
        f"  {'sequences':12}{'products in':14}{'seconds':>10}{'perplexity':>12}"
    )
    for samples in options.samples:
        loader = calibration_loader("builtin", tokenizer, samples=samples)
        for name, way in WAYS.items():
            model = copy.deepcopy(dense)
            asked: dict[str, Any] = {"dataloader": loader, "show_progress": False}
            with mock.patch.object(by_layers, "fast_products", way):
                prune = partial(prune_model, model, "MLP_GLU", "AUTO", 20, **asked)
                seconds = timed(prune, "cpu")
            value = perplexity(model, tokenizer, text, stride=512).value
            print(f"  {samples:<12}{name:14}{seconds:10.1f}{value:12.3f}", flush=True)


if __name__ == "__main__":
    main()
