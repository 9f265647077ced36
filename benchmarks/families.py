"""Walk over every causal language model of transformers: what is served, what is refused and why.

python benchmarks/families.py            prints the counts, the refusals, time and memory
python benchmarks/families.py --write    also writes docs/families.md, which a test compares
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
DATA = ROOT / "src" / "optipfair" / "arch" / "served.json"
sys.path.insert(0, str(ROOT / "tests"))

from optipfair.arch.families import FAMILIES  # noqa: E402
from optipfair.pipeline.model_card import versions  # noqa: E402
from optipfair.testing.toys import UNBUILDABLE  # noqa: E402
from support.walk import MODEL_TYPES, OK, Outcome, walk  # noqa: E402

PAGE = """# Families

Written by `benchmarks/families.py` from toy models of every causal language model that
transformers builds ({versions}). Width: 25 % of the MLP neurons removed. Depth: the last layer,
the last two, or layer 1 removed; yes where at least one of them is served. "Yes" means that the
saved result loads again with equal logits, generates the same, and, for width, equals the model
with those neurons set to zero. Everything else is refused before anything changes.
The decoders of `emu3` and `mllama` reload through their own class only, pruned or not:
`AutoModelForCausalLM` does not know them.

Not built: {unbuilt}.

| `model_type` | width | depth | why not | models |
|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    outcomes: dict[str, Outcome] = {}
    failed: dict[str, str] = {}
    for name in MODEL_TYPES:
        if name in UNBUILDABLE:
            continue
        try:
            outcomes[name] = walk(name)
        except Exception as exc:  # noqa: BLE001 - a failure of any kind is a result here
            failed[name] = f"{type(exc).__name__}: {exc}"
    report(outcomes, failed, time.perf_counter() - started)
    if arguments.write and not failed:
        (ROOT / "docs" / "families.md").write_text(page(outcomes), encoding="utf-8")
        DATA.write_text(json.dumps(data(outcomes), indent=1) + "\n", encoding="utf-8")


def report(outcomes: Mapping[str, Outcome], failed: Mapping[str, str], seconds: float) -> None:
    width = sum(outcome.width == OK for outcome in outcomes.values())
    depth = sum(outcome.depth == OK for outcome in outcomes.values())
    print(versions())
    print(f"built {len(outcomes) + len(failed)} of {len(MODEL_TYPES)}")
    print(f"width ok {width}, refused {len(outcomes) - width}")
    print(f"depth ok {depth}, refused {len(outcomes) - depth}")
    with_data = sum(outcome.data == OK for outcome in outcomes.values())
    print(f"width with data ok {with_data}, refused {width - with_data} more")
    print(f"failed {len(failed)}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{seconds:.0f} s, peak memory {peak:.1f} GB")
    for name, reason in failed.items():
        print(f"FAILED  {name}: {reason}")
    for name, outcome in outcomes.items():
        if outcome.width != OK:
            print(f"width   {name}: {outcome.width}")
        elif outcome.data != OK:
            print(f"data    {name}: {outcome.data}")
        if outcome.depth != OK:
            print(f"depth   {name}: {outcome.depth}")


def data(outcomes: Mapping[str, Outcome]) -> list[dict[str, object]]:
    """What `optipfair families` prints."""
    return [
        {
            "model_type": name,
            "width": outcome.width == OK,
            "depth": outcome.depth == OK,
            "why_not": why_not(outcome),
            "models": FAMILIES[name].examples if name in FAMILIES else "",
        }
        for name, outcome in outcomes.items()
    ]


def why_not(outcome: Outcome) -> str:
    reasons = [each for each in (outcome.width, outcome.depth) if each != OK]
    return " ".join(dict.fromkeys(map(short, reasons)))


def page(outcomes: Mapping[str, Outcome]) -> str:
    unbuilt = "; ".join(f"`{name}` ({reason})" for name, reason in UNBUILDABLE.items())
    rows = []
    for row in data(outcomes):
        served = ["yes" if row[kind] else "no" for kind in ("width", "depth")]
        cells = [f"`{row['model_type']}`", *served, str(row["why_not"]), str(row["models"])]
        rows.append("| " + " | ".join(cells) + " |")
    return PAGE.format(versions=versions(), unbuilt=unbuilt) + "\n".join(rows) + "\n"


def short(reason: str) -> str:
    """The part of a refusal that says why, fit for a table."""
    text, _, _ = reason.partition(" Depth pruning works")
    text, _, _ = text.partition(". Families with")
    text = text.split("load as another model: ")[-1].split("; ")[0]
    return " ".join(text.split()).replace("|", "/")[:220].rstrip(".") + "."


if __name__ == "__main__":
    main()
