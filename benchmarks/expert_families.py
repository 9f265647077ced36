"""Walk over every family of transformers that has experts: what is served, what is refused and why.

Of each toy model one of four experts goes. Served means: the result's logits are those of the model
whose routers cannot choose that expert (1e-5), it is saved, loads again with equal logits, and
generates the same.

python benchmarks/expert_families.py            prints a line for each family, and the counts
python benchmarks/expert_families.py --write    also writes docs/expert-families.md
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402

from optipfair.pipeline.model_card import versions  # noqa: E402
from optipfair.testing import tiny_model  # noqa: E402
from optipfair.testing.toys import UNBUILDABLE, tiny_config  # noqa: E402
from support.expert_walk import SWITCHES, served_or_refused  # noqa: E402
from support.walk import MODEL_TYPES, OK  # noqa: E402

PAGE = """# Families with experts

Written by `benchmarks/expert_families.py` ({versions}): every config of transformers that has a
number of experts. Yes means that a toy model without one of its four experts equals the one whose
routers cannot choose it, loads again with equal logits and generates the same. The rest is refused
before anything changes, or is no language model that writes text. How experts are chosen and how
many can go: [experts.md](experts.md).

| `model_type` | experts removed | why not |
|---|---|---|
"""


def with_experts() -> list[str]:
    """Model types whose config, or whose text config, has a number of experts."""
    found = []
    for name in sorted(CONFIG_MAPPING):
        fields = inspect.signature(CONFIG_MAPPING[name]).parameters
        own = any(re.search("expert", field) for field in fields)
        if own or (name in MODEL_TYPES and name not in UNBUILDABLE and _inside(name)):
            found.append(name)
    return found


def _inside(name: str) -> bool:
    config = tiny_config(name)
    fields = config.get_text_config().to_dict()
    inner = [value for value in fields.values() if isinstance(value, dict)]
    values = {**fields, **{key: value for each in inner for key, value in each.items()}}
    return any("expert" in str(k) and type(v) is int and v > 1 for k, v in values.items())


def outcome(name: str) -> str:
    if name not in MODEL_TYPES:
        return "No causal language model of transformers' own."
    if name in UNBUILDABLE:
        return f"Not built: {UNBUILDABLE[name]}."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns about its own toy models
        model: Any = tiny_model(name, **SWITCHES.get(name, {}))
        return served_or_refused(model)


def short(reason: str) -> str:
    """The part of a refusal that says why."""
    text = reason.partition(". Width and depth may work")[0].split("experts of ")[-1]
    return " ".join(text.partition(": ")[2].split() or reason.split()).rstrip(".") + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows, counts = [], Counter[str]()
    for name in with_experts():
        try:
            found = outcome(name)
        except Exception as exc:  # noqa: BLE001 - a failure of any kind is a result here
            found = f"FAILED {type(exc).__name__}: {exc}"
        kind = "served" if found == OK else "failed" if found.startswith("FAILED") else "refused"
        if found.startswith(("No causal", "Not built")):
            kind = "no text model"
        counts[kind] += 1
        why = "" if found == OK else found if kind != "refused" else short(found)
        rows.append(f"| `{name}` | {'yes' if found == OK else 'no'} | {why} |")
        print(f"{name:32}{kind:16}{why[:150]}", flush=True)
    print(versions())
    print(", ".join(f"{kind} {count}" for kind, count in counts.items()))
    if asked.write and not counts["failed"]:
        text = PAGE.format(versions=versions()) + "\n".join(rows) + "\n"
        (ROOT / "docs" / "expert-families.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
