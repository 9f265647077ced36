"""What each of two processes does for `evaluation/test_comparing.py`, run by a launcher."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from optipfair import compare_models, evaluate_model, prune_model
from optipfair.cli import main as command_line
from optipfair.distributed import in_first, launched, rank
from optipfair.testing import byte_tokenizer, tiny_model

OPTIONS: dict[str, Any] = {"limit": 3, "max_new_tokens": 3, "num_runs": 2, "seed": 4}


def models() -> tuple[Any, Any]:
    """A toy model, and the same with fewer neurons."""
    original: Any = tiny_model("llama", num_hidden_layers=2)
    pruned: Any = prune_model(deepcopy(original), pruning_percentage=40, show_progress=False)
    return original, pruned


def steady(found: dict[str, Any]) -> dict[str, Any]:
    """A comparison without what differs from run to run: times, and who did what."""
    kept = {key: value for key, value in found.items() if key != "speed"}
    kept["verdicts"] = [each for each in found["verdicts"] if each["question"] != "speed"]
    varying = ("date", "seconds", "processes")
    kept["protocol"] = {k: v for k, v in found["protocol"].items() if k not in varying}
    kept["tasks"] = [{k: v for k, v in each.items() if k != "reused"} for each in found["tasks"]]
    return kept


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def main(data: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    original, pruned = models()
    found: dict[str, Any] = {
        "comparison": compare_models(
            *(original, pruned, byte_tokenizer()),
            data=data, output_dir=folder / "report", cache_dir=folder / "cache", **OPTIONS,
        ),
        "evaluation": evaluate_model(original, byte_tokenizer(), data=data, limit=3),
    }  # fmt: skip
    names = {"--original": original, "--pruned": pruned}
    in_first(lambda: [saved(m, folder / name) for name, m in names.items()] and None)
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        found["code"] = command_line(
            [
                *("compare", "--data", str(data), "--output-dir", str(folder / "command")),
                *(part for name in names for part in (name, str(folder / name))),
                *("--limit", "2", "--no-speed", "--no-layers", "--cache-dir", "none"),
                *("--fail-if", "kl>=0"),
            ]
        )
    found["output"] = output.getvalue()
    (folder / f"{rank()}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    with launched("cpu"):
        main(*map(Path, sys.argv[1:]))
