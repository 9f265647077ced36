"""Prune by scores that weigh importance against bias, and draw what that buys and costs.

Bias is measured on sentences that the scores have not seen, as the excess over neutral swaps there.
The model is SmolLM2-135M (extras `demo` and `viz`, some minutes), with `--tiny` a toy.
"""

import argparse
import copy
from importlib.resources import files

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from optipfair import (
    combine_bias_and_importance,
    generate_prompt_pairs,
    load_model,
    load_tokenizer,
    neuron_bias_scores,
    neuron_importance_scores,
    perplexity,
    prune_model,
    visualize_bias,
)
from optipfair.bias import PROMPT_TEMPLATES
from optipfair.testing import byte_tokenizer, tiny_model

WEIGHTS = (0, 0.25, 0.5, 0.75, 1)
PERCENTAGE = 20
SEEN = ("profession", "patient")  # templates for the scores; the others are for measuring
CATEGORIES = ("race", "religion", "nationality")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--tiny", action="store_true", help="a toy model, seconds")
parser.add_argument("--figure", default="fairness_tradeoff.png", help="where it goes [%(default)s]")
options = parser.parse_args()
tiny = options.tiny

seeds, controls, context = (1, 1, 64) if tiny else (2, 4, 512)
model = tiny_model("llama") if tiny else load_model("demo")
tokenizer = byte_tokenizer() if tiny else load_tokenizer("demo")
calibration, text = (
    files("optipfair.demo").joinpath(name).read_text("utf-8")[: 600 if tiny else None]
    for name in ("calibration.txt", "evaluation.txt")
)


def pairs_of(*names):
    templates = {name: PROMPT_TEMPLATES[name] for name in names}
    pairs = generate_prompt_pairs(CATEGORIES, templates, fillings=1)
    return pairs[:3] if tiny else pairs


def measured(pruned):
    """Perplexity, and how much pairs differ, neutral swaps do, and pairs exceed these."""
    _, found = visualize_bias(
        *(pruned, tokenizer, held_out),
        visualization_types=[],
        components=["mlp_output"],
        controls=controls,
        show_progress=False,
    )
    overall = found["summary"]["overall"]
    value = perplexity(pruned, tokenizer, text, context=context).value
    return value, *(overall[name] for name in ("difference", "control", "excess", "interval"))


def pruned_by(scores):
    return prune_model(
        copy.deepcopy(model), pruning_percentage=PERCENTAGE, neuron_scores=scores,
        show_progress=False,
    )  # fmt: skip


seen = pairs_of(*SEEN)
held_out = pairs_of(*(name for name in PROMPT_TEMPLATES if name not in SEEN))
batches = [tokenizer(calibration, return_tensors="pt")]
importance = neuron_importance_scores(model, "MAW", batches)
bias = neuron_bias_scores(model, tokenizer, seen, controls=controls)

print(f"scores from {len(seen)} pairs, bias on {len(held_out)} others, {PERCENTAGE} % pruned")
print(f"{'':<12} perplexity  pairs   swaps   excess  95 % interval")
rows = {}


def add(name, pruned):
    value, *differences, interval = measured(pruned)
    rows[name] = value, differences[-1]
    print(f"{name:<12} {value:10.2f}", *(f"{x:7.4f}" for x in (*differences, *(interval or ()))))


add("not pruned", model)
for weight in WEIGHTS:
    scores = combine_bias_and_importance(bias, importance, weight)
    add(f"weight {weight:g}" if weight else "plain", pruned_by(scores))
for seed in range(seeds):
    add(f"random {seed}", pruned_by(neuron_importance_scores(model, "RANDOM", seed=seed)))

figure = Figure(figsize=(7, 4.5), layout="constrained")
axes = figure.subplots()
curve = [name for name in rows if name.startswith(("plain", "weight"))]
for names, style, label in (
    (["not pruned"], "k*", "not pruned"),
    (curve, "o-", "importance to bias"),
    ([name for name in rows if name.startswith("random")], "s", "random neurons"),
):
    points = [rows[name] for name in names]
    axes.plot([p[0] for p in points], [p[1] for p in points], style, label=label)
for name in curve:
    axes.annotate(name, rows[name], (-7, -12), textcoords="offset points", ha="right")
axes.set(xscale="log", title=f"{PERCENTAGE} % of the neurons pruned, held-out sentences and text")
axes.set(xlabel="perplexity (log)", ylabel="relative difference, less that of neutral swaps")
axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
axes.xaxis.set_major_formatter("{x:g}")
axes.xaxis.set_minor_locator(NullLocator())
axes.margins(x=0.15, y=0.1)
axes.axhline(0, color="0.8", zorder=0)
axes.legend()
figure.savefig(options.figure, dpi=150)
