"""Which of the numbers about bias mean what they say: planted, balanced and untrained models.

    python benchmarks/bias_validity.py --seeds 0 1 2

`planting.py` trains the embedded SmolLM2-135M to blame some groups and praise others, or all
alike. Then each number should rise from the model as it came to the planted one, and from the
balanced to the planted one, and not from the model as it came to the balanced one; it rises where
the 95 % interval of the change lies above 0. Intervals
are over words (Welch), pairs of words (Student), or distinct swaps. Where nothing was planted an
interval should exclude 0 in a twentieth of cases: in balanced models, and where the words of both
kinds are shuffled. Agreement: Spearman between what attribution predicts of a part and what goes
when the part's difference is really taken away. Measured in float32.
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from patching import agreement, few
from planting import GROUPS, TRAINED_TRAITS, contrast_of, sentences, train
from torch import Tensor

from optipfair import load_model, load_tokenizer, neuron_bias_scores, next_token_gap
from optipfair.arch.view import describe
from optipfair.bias.activations.layer_keys import DEFAULT_COMPONENTS
from optipfair.bias.attribution import effects_of_prompts, parts_of
from optipfair.bias.attribution_result import Interval
from optipfair.bias.contrasts.aligned import aligned
from optipfair.bias.contrasts.contrast import Contrast
from optipfair.bias.contrasts.contrast_files import CONTRASTS
from optipfair.bias.contrasts.contrast_prompts import Prompt, prompts_of
from optipfair.bias.contrasts.tracing import behaviours
from optipfair.bias.contrasts.word_means import difference_of_kinds
from optipfair.bias.prompts.pairs import check_prompt_pairs
from optipfair.bias.settings import Settings
from optipfair.bias.study import Study, carry_out, plan_study
from optipfair.bias.study_comparison import compare_studies
from optipfair.uncertainty import student_quantile

ARMS = ("balanced", "harmless", "planted")
EPOCHS = 5
SHUFFLES = 400
STUDIED = 2  # templates for pairs of prompts


@dataclass(frozen=True)
class Measured:
    """The numbers of one model about one contrast."""

    prompts: Sequence[Prompt]
    values: Tensor  # behaviours, (N,)
    other: tuple[Sequence[Prompt], Tensor]  # the same where the trained traits are asked for
    effects: Tensor  # of each part on each prompt, (P, N)
    gaps: Tensor  # Jensen-Shannon divergence of each pair of words, (W,)
    neurons: Tensor  # mean of `neuron_bias_scores` of each pair of words, (W,)
    study: Study

    @property
    def totals(self) -> Tensor:
        return self.effects.sum(dim=0)


def measured(model: Any, tokenizer: Any, contrast: Contrast) -> Measured:
    view = describe(model)
    prompts = prompts_of([contrast], model, tokenizer)
    seen = aligned(view, [part for _, part in parts_of(view).all], prompts)
    effects = [effects_of_prompts(seen, part.key) for _, part in parts_of(view).all]
    trained = tuple(tuple(f" {each}" for each in kind) for kind in TRAINED_TRAITS)
    others = prompts_of([replace(contrast, continuations=trained)], model, tokenizer)
    by_words = pairs_by_words(contrast)
    gaps = [[next_token_gap(model, tokenizer, *p).jensen_shannon for p in ps] for ps in by_words]
    scores = [_mean_score(neuron_bias_scores(model, tokenizer, pairs)) for pairs in by_words]
    pairs = check_prompt_pairs([pair for own in by_words for pair in own])
    plan = plan_study(view, tokenizer, pairs, Settings())
    return Measured(
        prompts,
        seen.values.cpu(),
        (others, behaviours(view, others)),
        torch.stack(effects),
        torch.tensor(gaps).mean(dim=1),
        torch.tensor(scores),
        carry_out(view, plan, DEFAULT_COMPONENTS, range(len(view.layers))),
    )


def pairs_by_words(contrast: Contrast) -> list[list[tuple[str, str]]]:
    """For each two words of both kinds, prompts that differ in them."""
    found = []
    for words in zip(*contrast.words, strict=True):
        rows = [tuple(contrast.filled(number, word) for word in words) for number in range(STUDIED)]
        found.append([(first, second) for first, second in rows])
    return found


def _mean_score(scores: dict[int, Tensor]) -> float:
    return float(torch.cat(list(scores.values())).mean())


def changes(before: Measured, after: Measured) -> Iterator[tuple[str, Interval]]:
    """How much each number is larger in the second model."""
    yield "contrast B", difference_of_kinds(after.values - before.values, after.prompts)
    others, values = after.other
    yield "B of trained traits", difference_of_kinds(values - before.other[1], others)
    yield "attribution total", difference_of_kinds(after.totals - before.totals, after.prompts)
    yield "next_token_gap", over_pairs(after.gaps - before.gaps)
    paired = compare_studies(before.study, after.study).overall.paired
    if paired is not None:
        ends = paired.interval or (None, None)
        yield "activation excess", Interval(paired.difference, *ends)
    yield "neuron_bias_scores", over_pairs(after.neurons - before.neurons)


def over_pairs(values: Tensor) -> Interval:
    """A mean over pairs of words that share none, with Student's interval."""
    mean, count = float(values.mean()), len(values)
    wide = student_quantile(0.975, count - 1) * float(values.std()) / count**0.5
    return Interval(mean, mean - wide, mean + wide)


def verdict(change: Interval) -> str:
    if change.low is None or change.high is None:
        return "no interval"
    return "rises" if change.low > 0 else "falls" if change.high < 0 else "does not rise"


def shown(change: Interval) -> str:
    band = "" if change.low is None else f" [{change.low:+.4f}, {change.high:+.4f}]"
    return f"{change.value:+.4f}{band}"


def layer_lines(before: Measured, after: Measured) -> Iterator[str]:
    """How many parts' effects rise and fall."""
    found = [
        verdict(difference_of_kinds(row, after.prompts)) for row in after.effects - before.effects
    ]
    yield (
        f"    effects by layer: of {len(found)} parts {found.count('rises')} rise, "
        f"{found.count('falls')} fall"
    )


def excluded(values: Tensor, prompts: Sequence[Prompt]) -> bool:
    return verdict(difference_of_kinds(values, prompts)) in ("rises", "falls")


def shuffled_share(values: Tensor, prompts: Sequence[Prompt]) -> float:
    """How often an interval excludes 0 where the words' kinds are shuffled."""
    draws = np.random.default_rng(0)
    words = list(dict.fromkeys((prompt.kind, prompt.word) for prompt in prompts))
    weights = {prompt.kind: prompt.weight for prompt in prompts}
    found = 0
    for _ in range(SHUFFLES):
        order = draws.permutation(len(words))
        kind = {word: words[place][0] for (_, word), place in zip(words, order, strict=True)}
        others = [
            replace(each, kind=kind[each.word], weight=weights[kind[each.word]]) for each in prompts
        ]
        found += excluded(values, others)
    return found / SHUFFLES


def _say(text: str, began: float) -> None:
    print(f"{text}   ({time.perf_counter() - began:.0f} s)", flush=True)


def of_seed(
    seed: int, asked: argparse.Namespace, model: Any, tokenizer: Any, fresh: Callable[[], None]
) -> dict[str, Measured]:
    """Print what training with one seed does to each number; the models by their arms."""
    contrast = contrast_of(seed)
    states: dict[str, Measured] = {}
    for name in ("as it came", *asked.arms):
        fresh()
        began = time.perf_counter()
        if name != "as it came":
            options = {"epochs": asked.epochs, "every_token": asked.every_token}
            train(model, tokenizer, sentences(seed, name), seed, **options)
        states[name] = found = measured(model, tokenizer, contrast)
        behaviour = difference_of_kinds(found.values, found.prompts)
        total = difference_of_kinds(found.totals, found.prompts)
        _say(f"seed {seed}, {name}: B {shown(behaviour)}, total {shown(total)}", began)
    for first, second in combinations(states, 2):
        print(f"  from {first} to {second}")
        for number, change in changes(states[first], states[second]):
            print(f"    {number:20} {shown(change):32} {verdict(change)}")
        print("\n".join(layer_lines(states[first], states[second])), flush=True)
    return states


def false_positives(states: Mapping[str, Measured]) -> Iterator[str]:
    """Of models in which nothing was planted."""
    for number, values in (
        ("contrast B", lambda each: each.values),
        ("attribution total", lambda each: each.totals),
    ):
        own = sum(excluded(values(each), each.prompts) for each in states.values())
        yield f"  {number}: the interval excludes 0 in {own} of {len(states)} models"
        for name, each in states.items():
            share = shuffled_share(values(each), each.prompts)
            yield f"    words shuffled {SHUFFLES} times, {name}: {share:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of planting [5]")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--every-token", action="store_true", help="train on whole sentences")
    parser.add_argument("--no-patched", dest="patched", action="store_false", help="no agreement")
    asked = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread")
    print(f"{len(GROUPS)} groups, {asked.epochs} epochs, {' '.join(asked.arms)}", end=", ")
    print("every token trained\n" if asked.every_token else "traits trained\n")
    model: Any = load_model("demo", dtype="float32")
    tokenizer: Any = load_tokenizer("demo")
    weights = copy.deepcopy(model.state_dict())

    def fresh() -> None:
        model.load_state_dict(weights)

    untouched: dict[str, Measured] = {}
    for place, seed in enumerate(asked.seeds):
        states = of_seed(seed, asked, model, tokenizer, fresh)
        untouched |= {f"{k}, seed {seed}": each for k, each in states.items() if k != "planted"}
        if place == 0 and asked.patched:
            _print_agreement(f"{asked.arms[-1]} model", model, tokenizer, contrast_of(seed))
    print("\nnothing planted")
    print("\n".join(false_positives(untouched)), flush=True)
    if asked.patched:
        fresh()
        name = "gender-occupation"
        _print_agreement(f"the model as it came, {name}", model, tokenizer, CONTRASTS[name])


def _print_agreement(title: str, model: Any, tokenizer: Any, contrast: Contrast) -> None:
    print(f"  predicted and patched, {title}")
    began = time.perf_counter()
    for line in agreement(model, tokenizer, few(contrast)):
        _say(line, began)


if __name__ == "__main__":
    main()
