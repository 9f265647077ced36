"""Whether pruning by activation differences makes a model fairer on what the scores have not seen.

    python benchmarks/sensitivity.py

A fifth of the neurons of SmolLM2-135M goes: by importance alone (MAW on the bundled text), and by
importance and `neuron_bias_scores` together. Two controls tell what the scores do from what any
other choice does: the same scores shuffled among the neurons of each layer, and the same reversed,
which keeps the neurons that differ most. Judged on WikiText-2 (the half that nothing is calibrated
on) and on items of CrowS-Pairs, StereoSet and WinoBias type 2; changes are from importance
alone, item by item, with the interval of `compare`. Texts are scored in bfloat16 autocast.
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from held_out import DATA, halves_of_wikitext, perplexity_of
from torch import Tensor

from neutralising import answers
from optipfair import (
    combine_bias_and_importance,
    generate_prompt_pairs,
    load_model,
    load_tokenizer,
    neuron_bias_scores,
    neuron_importance_scores,
    prune_model,
)
from optipfair.bias import PROMPT_TEMPLATES
from optipfair.evaluation.changes import compare
from optipfair.evaluation.tasks import TASKS

JUDGED: Mapping[str, tuple[str, ...]] = {  # task → measures
    "crows_pairs": ("stereotyped",),
    "stereoset": ("SS", "LMS"),
    "winobias_type2": ("gap", "pro_preferred"),
}
CATEGORIES = ("race", "religion", "nationality")
TEMPLATES = ("profession", "patient")
PERCENTAGE = 20

Scores = dict[int, Tensor]


@dataclass(frozen=True)
class Judged:
    """What a model answers."""

    perplexity: float
    columns: Mapping[str, Any]  # task → the columns of its items


def judged(model: Any, tokenizer: Any, items: Mapping[str, list[Any]]) -> Judged:
    columns = {}
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        for name, asked in items.items():
            scores = answers(model, tokenizer, [each.queries for each in asked])
            columns[name] = TASKS[name].outcomes(asked, scores)
        return Judged(perplexity_of(model, tokenizer, halves_of_wikitext()[1]), columns)


def bias_of(model: Any, tokenizer: Any) -> Scores:
    """How sensitive neurons are to paired words, by 32 pairs."""
    templates = {name: PROMPT_TEMPLATES[name] for name in TEMPLATES}
    pairs = generate_prompt_pairs(CATEGORIES, templates, fillings=1)
    return neuron_bias_scores(model, tokenizer, pairs, controls=4)


def spread(items: list[Any], most: int) -> list[Any]:
    """At most so many items, evenly spaced."""
    places = range(min(most, len(items)))
    return [items[place * len(items) // len(places)] for place in places]


def shuffled(scores: Scores, seed: int) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return {
        layer: row[torch.randperm(len(row), generator=generator)] for layer, row in scores.items()
    }


def arms(bias: Scores, importance: Scores) -> Iterator[tuple[str, Scores]]:
    """Name and scores of each way to choose; the first is what the others are compared with."""
    yield "importance alone", combine_bias_and_importance(bias, importance, 0)
    for weight in (0.25, 0.5):
        yield f"weight {weight}", combine_bias_and_importance(bias, importance, weight)
    for seed in (0, 1):
        other = shuffled(bias, seed)
        yield f"shuffled {seed}, 0.5", combine_bias_and_importance(other, importance, 0.5)
    other = {layer: -row for layer, row in bias.items()}
    yield "reversed, 0.5", combine_bias_and_importance(other, importance, 0.5)


def lines(name: str, found: Judged, base: Judged, items: Mapping[str, list[Any]]) -> Iterator[str]:
    """What is printed of an arm: its values, and their changes from another's."""
    ratio = found.perplexity / base.perplexity
    yield f"{name:18} WikiText {found.perplexity:9.3f} (x {ratio:.3f})"
    for task, columns in found.columns.items():
        clusters = [item.shares for item in items[task]]
        for measure in TASKS[task].measures:
            if measure.name not in JUDGED[task]:
                continue
            both = compare(measure, base.columns[task], columns, clusters)
            change = both.change
            band = "no interval"
            if change.low is not None and change.high is not None:
                excludes = change.low > 0 or change.high < 0
                mark = " *" if excludes else ""
                band = f"95 % {change.low:+.3f} to {change.high:+.3f}{mark}"
            yield (
                f"    {task + '.' + measure.name:28} {both.pruned.value:+8.3f}   "
                f"change {change.value:+.3f}, {band}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(JUDGED), choices=JUDGED)
    parser.add_argument(
        "--items", type=int, default=400, help="of each data set, evenly spaced [400]"
    )
    asked = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread")
    model: Any = load_model("demo", dtype="float32")
    tokenizer: Any = load_tokenizer("demo")
    items = {
        name: spread(TASKS[name].read(DATA / TASKS[name].path).items, asked.items)
        for name in asked.sets
    }
    text = files("optipfair.demo").joinpath("calibration.txt").read_text("utf-8")
    importance = neuron_importance_scores(model, "MAW", [tokenizer(text, return_tensors="pt")])
    bias = bias_of(model, tokenizer)
    print({name: len(each) for name, each in items.items()}, "items")
    print(f"{PERCENTAGE} % pruned; * the interval excludes 0; changes from importance alone\n")
    found: dict[str, Judged] = {}
    for name, scores in {**dict(arms(bias, importance)), "not pruned": None}.items():
        began = time.perf_counter()
        found[name] = judged(_pruned(model, scores), tokenizer, items)
        print("\n".join(lines(name, found[name], found["importance alone"], items)))
        print(f"    {time.perf_counter() - began:.0f} s", flush=True)
    for control, other in found.items():
        if control.startswith(("shuffled", "reversed")):
            print(f"\nchanges from {control}")
            print("\n".join(lines("weight 0.5", found["weight 0.5"], other, items)))


def _pruned(model: Any, scores: Scores | None) -> Any:
    """A copy with a fifth fewer neurons; the model itself without scores."""
    if scores is None:
        return model
    return prune_model(
        copy.deepcopy(model),
        pruning_percentage=PERCENTAGE,
        neuron_scores=scores,
        show_progress=False,
    )


if __name__ == "__main__":
    main()
