"""How far the time that is said before a pruning is from the time that it takes.

The command line's default on two sizes of model: the embedded one, and one of random weights in
bfloat16 with its tokenizer. Of each: what is said before the layers run, and what it takes from
then on until the folder is there.

    python benchmarks/estimate.py
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from optipfair import load_tokenizer, prune_checkpoint
from optipfair.pipeline import run
from optipfair.pipeline.estimate import Estimate
from optipfair.progress import duration
from optipfair.pruning.options.presets import chosen_by_data
from optipfair.pruning.options.prune_options import PruneOptions

KINDS: dict[str, dict[str, Any]] = {
    "MLP_GLU": {"pruning_percentage": 10},
    "DEPTH": {"num_layers_to_remove": 2},
}


def larger(folder: Path) -> Path:
    """A model of another shape, with larger layers: 6 of 1024."""
    tokenizer = load_tokenizer("demo")
    assert tokenizer is not None
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=1024,
        intermediate_size=5632,
        num_hidden_layers=6,
        num_attention_heads=16,
        num_key_value_heads=8,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    return folder


def measured(model: str | Path, out: Path, asked: dict[str, Any]) -> tuple[Estimate, float]:
    """The estimate, and the seconds from then on."""
    said: list[tuple[Estimate, float]] = []
    ask = run.estimated

    def noting(*arguments: Any) -> Estimate | None:
        found = ask(*arguments)
        assert found is not None
        said.append((found, time.perf_counter()))
        return found

    with mock.patch.object(run, "estimated", noting):
        prune_checkpoint(model, out, options=PruneOptions(**chosen_by_data(asked)))
    found, since = said[0]
    return found, time.perf_counter() - since


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, help="sequences; by default as many as are taken")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f} at the start\n"
    )
    print(f"  {'model':20}{'kind':10}{'tokens':>10}{'said':>12}{'taken':>12}{'ratio':>8}")
    with TemporaryDirectory() as work:
        models = {"SmolLM2-135M": "demo", "random, 6 x 1024": larger(Path(work) / "larger")}
        for name, model in models.items():
            for kind in options.kinds:
                asked = {"pruning_type": kind, **KINDS[kind]}
                if options.samples:
                    asked["calibration_samples"] = options.samples
                found, taken = measured(model, Path(work) / f"{name} {kind}", asked)
                print(
                    f"  {name:20}{kind:10}{found.sequences * found.tokens:10,}"
                    f"{duration(found.seconds):>12}{duration(taken):>12}"
                    f"{taken / found.seconds:8.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
