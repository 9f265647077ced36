"""Texts that no calibration sees, and what a model keeps of its ability on all of them.

WikiText-2 (the second half of the validation text), the last words of LAMBADA, and what is held
back of each domain of `text_mix/train.jsonl`: the documents whose text has the lowest SHA-256, a
twentieth of the domain's characters, and at least 32,000 of them. Of each text the first
`TOKENS` tokens count, in windows of 512 side by side; the text is tokenised once, without special
tokens. PIQA and ARC-Easy are measured where they are asked for.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from optipfair import evaluate_model, perplexity
from optipfair.evaluation.tasks.reading import detokenised
from optipfair.files.held_back import LEAST, held_back

DATA = Path(os.environ.get("OPTIPFAIR_DATA", Path(__file__).parents[2] / "shared" / "data"))
DOMAINS = ("code", "fiction", "math", "prose", "speech")
TEXTS = ("wikitext", "lambada", *DOMAINS)  # those of the headline
TOKENS, ITEMS = 8192, 400  # of each text, and of each task
_CONTEXT = 512


@dataclass(frozen=True)
class Kept:
    """What a model is worth on texts that it was not calibrated on."""

    perplexities: Mapping[str, float]  # by `TEXTS`; of LAMBADA, of the last word
    accuracies: Mapping[str, float]  # lambada, and where asked for piqa and arc_easy

    def ratios(self, dense: Kept) -> dict[str, float]:
        """Of each perplexity to that of the model that was not pruned."""
        return {name: value / dense.perplexities[name] for name, value in self.perplexities.items()}

    def headline(self, dense: Kept) -> float:
        """The geometric mean of these ratios."""
        return math.exp(sum(map(math.log, self.ratios(dense).values())) / len(self.perplexities))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judged(
    model: Any, tokenizer: Any, *, choices: bool = False, tokens: int = TOKENS, items: int = ITEMS
) -> Kept:
    """Measure a model on all texts, and with `choices` on PIQA and ARC-Easy."""
    tasks = ["lambada", "piqa", "arc_easy"] if choices else ["lambada"]
    options: dict[str, Any] = {"data": DATA, "preset": "full", "limit": items}
    with NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as short:  # measured below
        short.write(" the" * _CONTEXT)
        short.flush()
        found = evaluate_model(model, tokenizer, tasks=tasks, text=short.name, **options)
    values = {each["id"]: each["value"] for each in found["measures"]}
    perplexities = {
        name: perplexity_of(model, tokenizer, text, tokens) for name, text in texts().items()
    }
    perplexities["lambada"] = values["lambada.perplexity"]
    return Kept(
        {name: perplexities[name] for name in TEXTS},
        {task: values[f"{task}.acc"] for task in tasks},
    )


def texts() -> dict[str, str]:
    """WikiText and the domains: name → text."""
    held_back: dict[str, list[str]] = defaultdict(list)
    for row in held_back_rows():
        held_back[row["domain"]].append(row["text"])
    domains = {name: "\n\n".join(held_back[name]) for name in DOMAINS}
    return {"wikitext": halves_of_wikitext()[1], **domains}


def halves_of_wikitext() -> tuple[str, str]:
    """The validation text: what may be calibrated on, and what is measured."""
    text = detokenised((DATA / "wikitext2" / "valid.txt").read_text(encoding="utf-8"))
    return text[: len(text) // 2], text[len(text) // 2 :]


def held_back_rows() -> Iterator[dict[str, str]]:
    """The rows of `text_mix/train.jsonl` that nothing may be trained on."""
    lines = (DATA / "text_mix" / "train.jsonl").read_text(encoding="utf-8").split("\n")
    by_domain: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in map(json.loads, filter(None, lines)):
        by_domain[row["domain"]].append(row)
    for rows in by_domain.values():
        for place in held_back([row["text"] for row in rows], LEAST):
            yield rows[place]


def perplexity_of(model: Any, tokenizer: Any, text: str, tokens: int = TOKENS) -> float:
    """Of the first tokens of a text, in windows side by side."""
    ids = tokenizer(text, verbose=False)["input_ids"][:tokens]
    whole = tokenizer.decode(ids)
    return perplexity(model, tokenizer, whole, context=_CONTEXT, stride=_CONTEXT).value
