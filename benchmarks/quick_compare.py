"""How much sooner a quick comparison scores, and what that does to its figures.

    python benchmarks/quick_compare.py --data DATA --pruned FOLDER [--limit 30]
    python benchmarks/quick_compare.py --data DATA --pruned FOLDER --whole

Items of every task of the quick preset, and some windows of its text, are scored by each model in
three ways, which take turns task by task: `plain` (each text in a row of its own, float32), `trees`
(common beginnings once, float32) and `fast` (the same, products in bfloat16 where the processor has
units for them: the default). Printed for each task: seconds of the clock and of the processor, the
largest and the mean difference of a token's log-probability from `plain` in nats, and items whose
answer another way turns. `--whole` runs the comparison itself once, as the command line would, and
prints what it says beforehand, its verdicts and its seconds.

Prints the machine and the versions too. Needs the extra `demo`, and a folder that `optipfair prune
--model-path demo` has written.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optipfair import load_model
from optipfair.evaluation.agenda import make_agenda
from optipfair.evaluation.evaluate_by_name import run_compare
from optipfair.evaluation.evaluate_options import EvaluateOptions
from optipfair.evaluation.likelihoods import score as scoring
from optipfair.evaluation.likelihoods.score import score
from optipfair.evaluation.likelihoods.score_dtype import scored_in
from optipfair.evaluation.text.two_models import Text, on_text
from optipfair.loading.tokenizers import load_tokenizer

WAYS = ("plain", "trees", "fast")


@dataclass
class Found:
    """Of one way: what it took, and what it gave."""

    clock: float = 0.0
    processor: float = 0.0
    logprobs: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of evaluation data")
    parser.add_argument("--pruned", type=Path, required=True, help="the folder of the pruned model")
    parser.add_argument("--limit", type=int, default=30, help="items of each task")
    parser.add_argument("--windows", type=int, default=4, help="of the text, 512 tokens each")
    parser.add_argument("--whole", action="store_true", help="the comparison itself, once")
    args = parser.parse_args()
    units = [n for n, known in torch.cpu.get_capabilities().items() if known and "bf16" in n]
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {', '.join(units)}, load",
          *(f"{load:.1f}" for load in os.getloadavg()))  # fmt: skip
    print(*(f"{name} {version(name)}" for name in ("torch", "transformers")), sep=", ")
    if args.whole:
        whole(args)
    else:
        paired(args)


def paired(args: argparse.Namespace) -> None:
    tokenizer = load_tokenizer("demo")
    models = {name: load_model(name, dtype="float32") for name in ("demo", str(args.pruned))}
    asked = EvaluateOptions(data=args.data, limit=args.limit)
    agenda = make_agenda(tokenizer, asked, *(model.config for model in models.values()))
    print(f"{'task':16} items " + "  ".join(f"{way + ' s (cpu)':>16}" for way in WAYS)
          + "   trees: max        fast: max  mean      answers turned")  # fmt: skip
    all_of: dict[str, Found] = {way: Found() for way in WAYS}
    for chosen in agenda.tasks:
        if chosen.task.writes:
            continue
        own: dict[str, Found] = {way: Found() for way in WAYS}
        for model in models.values():
            for way in WAYS:
                measured_way(model, tokenizer, chosen, way, own[way])
        print_row(chosen.task.name, len(models) * len(chosen.items), own)
        for way, found in own.items():
            all_of[way].clock += found.clock
            all_of[way].processor += found.processor
            all_of[way].logprobs += found.logprobs
            all_of[way].answers += found.answers
    print_row("all", 0, all_of)
    on_windows(models, tokenizer, agenda.text, args.windows)


def measured_way(model: Any, tokenizer: Any, chosen: Any, way: str, found: Found) -> None:
    queries = [query for item in chosen.items for query in item.queries]
    products = scored_in(model) if way == "fast" else None
    clock, processor = time.perf_counter(), time.process_time()
    with in_rows_of_their_own(way == "plain"):
        scores = score(model, tokenizer, queries, products=products)
    found.clock += time.perf_counter() - clock
    found.processor += time.process_time() - processor
    found.logprobs += [logprob for each in scores for logprob in each.logprobs]
    rest = iter(scores)
    by_item = [[next(rest) for _ in item.queries] for item in chosen.items]
    if chosen.task.answer is not None:
        columns = chosen.task.outcomes(chosen.items, by_item)
        found.answers += np.asarray(columns[chosen.task.answer], dtype=float).tolist()


@contextmanager
def in_rows_of_their_own(wanted: bool) -> Iterator[None]:
    before = scoring._room_for_trees
    if wanted:
        scoring._room_for_trees = lambda _: 0
    try:
        yield
    finally:
        scoring._room_for_trees = before


def print_row(name: str, items: int, own: dict[str, Found]) -> None:
    plain = own["plain"]
    apart = {way: np.abs(np.subtract(found.logprobs, plain.logprobs)) for way, found in own.items()}
    turned = {
        way: int((~np.isclose(plain.answers, found.answers, equal_nan=True)).sum())
        for way, found in own.items()
    }
    seconds = "  ".join(f"{f.clock:8.1f} ({f.processor:5.1f})" for f in own.values())
    print(
        f"{name:16} {items or '':>5} {seconds}   {apart['trees'].max():.1e}        "
        f"{apart['fast'].max():.3f}  {apart['fast'].mean():.4f}    trees {turned['trees']}, "
        f"fast {turned['fast']} of {len(plain.answers)}",
        flush=True,
    )


def on_windows(models: dict[str, Any], tokenizer: Any, text: Text, windows: int) -> None:
    part = Text(text.name, text.content, text.sha256, 512 * windows)
    for products in ("float32", "bfloat16"):
        clock, processor = time.perf_counter(), time.process_time()
        both, _ = on_text(models, tokenizer, part, products=products)
        seconds = time.perf_counter() - clock, time.process_time() - processor
        tokens = both[0]["tokens"].sum()
        losses = [float(each["nll"].sum() / tokens) for each in both]
        divergence = float(both[1]["kl"].sum() / tokens)
        same = float(both[1]["same"].sum() / tokens)
        print(
            f"text, {products:8} {seconds[0]:6.1f} s ({seconds[1]:.1f}): perplexity "
            f"{np.exp(losses[0]):.4f} and {np.exp(losses[1]):.4f}, ratio "
            f"{np.exp(losses[1] - losses[0]):.5f}, KL {divergence:.5f}, agreement {same:.4f}"
        )


def whole(args: argparse.Namespace) -> None:
    clock, processor = time.perf_counter(), time.process_time()
    result = run_compare(
        "demo", args.pruned, options=EvaluateOptions(data=args.data), say=print
    )  # fmt: skip
    seconds = time.perf_counter() - clock, time.process_time() - processor
    print(f"{seconds[0]:.0f} s, {seconds[1]:.0f} s of processor time, models loaded too; scored in "
          f"{result.comparison.protocol.scored_in}, {result.comparison.protocol.seconds:.0f} s "
          "without loading")  # fmt: skip
    for verdict in result.comparison.verdicts:
        print(f"{verdict.question}: {verdict.verdict}. {verdict.sentence}")
    print("load at the end", *(f"{load:.1f}" for load in os.getloadavg()))


if __name__ == "__main__":
    main()
