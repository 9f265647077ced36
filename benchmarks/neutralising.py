"""What taking a contrast out does to words, templates and data sets that it did not see.

    python benchmarks/neutralising.py --model demo --contrasts gender-occupation
    python benchmarks/neutralising.py --model FOLDER --seeds 0 1 2
    python benchmarks/neutralising.py --each

One model in several states: as it is, changed by `neutralise`, and a control: the same with as many
neutral words in the place of the contrast's, an edit as hard (`neutralise` itself prints a change
of equal size in random directions). Primary measure, fixed beforehand: the mean gap of WinoBias
type 2 over all items, beside the ratio of perplexities over all texts of `held_out.py` ("all
texts"). Every data set is measured on all its items and compared item by item with the model as it
is: the interval is that of `compare`. "stated" asks whether a pronoun that the text has stated is
likelier afterwards than the other (Winogender's sentences, followed by " Afterwards,"). Scores are
taken in bfloat16 autocast.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from held_out import DATA, ITEMS, TOKENS, Kept, judged

from optipfair import load_model, load_tokenizer
from optipfair.bias.contrasts.contrast import Contrast
from optipfair.bias.contrasts.contrast_files import CONTRASTS
from optipfair.evaluation.changes import compare
from optipfair.evaluation.likelihoods.score import score
from optipfair.evaluation.tasks import TASKS
from optipfair.evaluation.tasks.task import Query
from optipfair.neutralising.neutralise_options import NeutraliseOptions
from optipfair.neutralising.neutralising import neutralise

SETS: dict[str, tuple[str, ...]] = {  # task → the measures that are printed
    "winobias_type2": ("gap", "pro_preferred"),
    "winobias_type1": ("gap",),
    "winogender": ("correlation", "slope", "gap"),
    "crows_pairs": (),
    "stereoset": (),
    "bbq": (),
}


@dataclass(frozen=True)
class State:
    """What a model answers: the columns of each task, and what it is worth on text."""

    columns: Mapping[str, Any]
    items: Mapping[str, Any]
    kept: Kept
    stated: float


def state_of(model: Any, tokenizer: Any, asked: argparse.Namespace) -> State:
    columns, items = {}, {}
    with torch.autocast(model.device.type, torch.bfloat16):
        for name in asked.tasks:
            task = TASKS[name]
            read = task.read(DATA / task.path).items[: asked.items]
            scores = answers(model, tokenizer, [each.queries for each in read])
            columns[name], items[name] = task.outcomes(read, scores), read
        kept = judged(model, tokenizer, tokens=asked.tokens, items=asked.lambada)
        return State(columns, items, kept, stated(model, tokenizer))


def answers(model: Any, tokenizer: Any, queries: Sequence[Sequence[Query]]) -> list[list[Any]]:
    rest = iter(score(model, tokenizer, [each for row in queries for each in row]))
    return [[next(rest) for _ in row] for row in queries]


def stated(model: Any, tokenizer: Any) -> float:
    """The share of sentences after which the pronoun that they state is the likelier one."""
    rows = (DATA / "winogender" / "all_sentences.tsv").read_text(encoding="utf-8").splitlines()[1:]
    asked = []
    for row in rows:
        name, sentence = row.split("\t")[:2]
        sex = name.split(".")[3]
        if sex != "neutral":
            context = f"{sentence.strip()} Afterwards,"
            both = (" he", " she") if sex == "male" else (" she", " he")
            asked.append(tuple(Query(context, each, begins=True) for each in both))
    scores = answers(model, tokenizer, asked)
    return float(np.mean([own.total > other.total for own, other in scores]))


def of_neutral_words(contrast: Contrast) -> Contrast:
    """The same with words that name nobody's group: an edit as hard, of no stereotype."""
    words = json.loads(files("optipfair.bias.prompts").joinpath("neutral_words.json").read_text())
    kind = "thing" if contrast.name == "gender-occupation" else "adjective"
    chosen = np.random.default_rng(0).permutation(sorted(words["neutral"][kind])).tolist()
    first, second = (len(kind) for kind in contrast.words)
    kinds = (tuple(chosen[:first]), tuple(chosen[first : first + second]))
    return replace(contrast, name=f"neutral words for {contrast.name}", words=kinds)


def lines(name: str, before: State, now: State) -> list[str]:
    """What is printed of a state, beside the model as it is."""
    ratio = now.kept.headline(before.kept)
    wikitext = now.kept.perplexities["wikitext"] / before.kept.perplexities["wikitext"]
    found = [
        f"{name}: WikiText {now.kept.perplexities['wikitext']:.3f} (x {wikitext:.4f}), all texts "
        f"x {ratio:.4f}, LAMBADA {now.kept.accuracies['lambada']:.4f}, stated pronoun "
        f"{now.stated:.4f}"
    ]
    for task, columns in now.columns.items():
        clusters = [item.shares for item in before.items[task]]
        wanted = SETS[task]
        for measure in TASKS[task].measures:
            if measure.name not in wanted and not (not wanted and measure.headline):
                continue
            both = compare(measure, before.columns[task], columns, clusters)
            change = both.change
            band = "" if change.low is None else f", 95 % {change.low:+.3f} to {change.high:+.3f}"
            found.append(
                f"    {task}.{measure.name:16} {_shown(both.original.value)} -> "
                f"{_shown(both.pruned.value)} (change {_shown(change.value, sign=True)}{band})"
            )
        found += _gaps(task, before.columns[task], columns)
    return found


def _gaps(task: str, before: Any, after: Any) -> list[str]:
    """Of tasks with gaps: the mean absolute one, and how many turned round."""
    if "gap" not in before:
        return []
    was, now = (np.asarray(each["gap"], dtype=float) for each in (before, after))
    turned = np.sign(was) != np.sign(now)
    correlation = np.corrcoef(was, now)[0, 1]
    return [
        f"    {task}: mean absolute gap {np.nanmean(abs(was)):.3f} -> {np.nanmean(abs(now)):.3f}, "
        f"{turned.mean():.1%} of signs turned, correlation of items {correlation:.3f}"
    ]


def _shown(value: float | None, *, sign: bool = False) -> str:
    return "none" if value is None else f"{value:{'+' if sign else ''}.4f}"


def of_each(model: Any, tokenizer: Any, weights: Any, options: dict[str, Any]) -> None:
    """Each contrast taken out by itself, on words and templates that the change did not see."""
    columns = ("strength", "KL", "size", "after", "random", "spread", "after", "less %")
    print(f"  {'held-back words':22}" + "".join(f"{name:>10}" for name in columns))
    for contrast in CONTRASTS.values():
        model.load_state_dict(weights)
        found = neutralise(model, tokenizer, contrast, **options)
        (each,) = found.contrasts
        values = (found.strength, found.divergence, each.held_back_before, each.held_back_after)
        values += (each.random_after, each.spread_before, each.spread_after)
        less = 100 * (1 - each.spread_after / each.spread_before)
        shown = "".join(f"{value:10.4f}" for value in values)
        print(f"  {contrast.name:22}{shown}{less:10.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="folder, or demo")
    parser.add_argument("--contrasts", nargs="+", default=["gender-occupation"], choices=CONTRASTS)
    parser.add_argument("--tasks", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--each", action="store_true", help="every shipped contrast by itself, "
                        "judged on its held-back words and templates alone")  # fmt: skip
    parser.add_argument("--controls", action="store_true", help="the two controls too")
    parser.add_argument("--layers", nargs="+", type=int)
    parser.add_argument("--samples", type=int, default=32, help="calibration sequences")
    parser.add_argument("--max-divergence", type=float, default=NeutraliseOptions.max_divergence)
    parser.add_argument("--items", type=int, help="of each data set at most")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="judged of each text")
    parser.add_argument("--lambada", type=int, default=ITEMS, help="items of LAMBADA")
    asked = parser.parse_args()
    tokenizer: Any = load_tokenizer(asked.model)
    model: Any = load_model(asked.model, dtype="float32")
    weights = copy.deepcopy(model.state_dict())
    options: dict[str, Any] = {
        "calibration_samples": asked.samples,
        "layers": asked.layers,
        "max_divergence": asked.max_divergence,
    }
    if asked.each:
        of_each(model, tokenizer, weights, options)
        return
    before = state_of(model, tokenizer, asked)
    print("\n".join(lines("as it is", before, before)), flush=True)

    def measure(name: str, contrasts: list[Contrast], seed: int) -> Any:
        model.load_state_dict(weights)
        began = time.perf_counter()
        found = neutralise(model, tokenizer, contrasts, seed=seed, **options)
        seconds = time.perf_counter() - began
        print(f"\n{name}: strength {found.strength}, {seconds:.0f} s, KL {found.divergence:.5f}")
        for each in found.contrasts:
            print(f"    {dict(each)}")
        for each in found.tried:
            print(f"    tried {dict(each)}")
        state = state_of(model, tokenizer, asked)
        print("\n".join(lines(name, before, state)), flush=True)
        return found

    chosen = [CONTRASTS[name] for name in asked.contrasts]
    for seed in asked.seeds:
        measure(f"neutralised, seed {seed}", chosen, seed)
    if asked.controls:
        measure("neutral words", [of_neutral_words(each) for each in chosen], 0)


if __name__ == "__main__":
    main()
