"""How fast texts are scored, and how near our perplexity is to lm-eval's.

    python benchmarks/evaluation_scoring.py --data DATA [--only scoring|perplexity] [--rounds 3]

scoring: CrowS-Pairs sentences on the embedded model, by `score`, by plain forward passes over the
same batches (their logits thrown away), and by lm-eval's `HFLM.loglikelihood`. The three take
turns; times are medians. Ratios on a CPU are of processor time too, which other work on the machine
changes least (run with OMP_NUM_THREADS=1). perplexity: the beginning of a text by our rolling
windows and by lm-eval.

Prints the machine, the versions and the figures. Needs the extras `demo` and `eval`.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from common import timed
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from optipfair import load_model, perplexity
from optipfair.evaluation.likelihoods.query_tokens import encode
from optipfair.evaluation.likelihoods.score import planned, score
from optipfair.evaluation.tasks.task import Query
from optipfair.hooks import evaluating
from optipfair.loading.tokenizers import load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of evaluation data")
    parser.add_argument("--only", choices=["scoring", "perplexity"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--harness-batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=5000)
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, load",
          *(f"{load:.1f}" for load in os.getloadavg()))  # fmt: skip
    print(*(f"{name} {version(name)}" for name in ("torch", "transformers", "lm_eval")), sep=", ")
    model = load_model("demo", device=args.device)
    tokenizer = load_tokenizer("demo")
    if args.only != "perplexity":
        scoring(model, tokenizer, args)
    if args.only != "scoring":
        rolling(model, tokenizer, args)


def scoring(model: Any, tokenizer: Any, args: argparse.Namespace) -> None:
    queries = sentences(args.data / "crows_pairs" / "crows_pairs_shared.csv", args.pairs)
    batches = planned(model, encode(tokenizer, queries))
    rows = [row.inputs for batch in batches for row in batch]
    padded = sum(len(batch) * len(batch[0].inputs) for batch in batches)
    print(f"{args.pairs} pairs: {len(rows):,} rows in {len(batches)} batches, "
          f"{sum(map(len, rows)):,} tokens, {padded:,} with padding")  # fmt: skip
    found: dict[str, Any] = {}

    def ours() -> None:
        found["ours"] = [each.total for each in score(model, tokenizer, queries)]

    def harness() -> None:
        found["lm-eval"] = by_harness(model, tokenizer, queries, args.harness_batch)

    def plain() -> None:
        with evaluating(model):
            for batch in batches:
                forward(model, [row.inputs for row in batch], args.device)

    ways: dict[str, Callable[[], None]] = {"ours": ours, "plain": plain, "lm-eval": harness}
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds):
        for name in list(ways)[number % 3 :] + list(ways)[: number % 3]:
            before = time.process_time()
            clock[name].append(timed(ways[name], args.device))
            processor[name].append(time.process_time() - before)
    for kind, seconds in {"clock": clock, "processor": processor}.items():
        print(f"{kind} time:")
        shown(seconds, args.pairs)
    pairs = zip(found["ours"], found["lm-eval"], strict=True)
    print(f"largest difference from lm-eval: {max(abs(a - b) for a, b in pairs):.2g} nats")


def shown(seconds: dict[str, list[float]], pairs: int) -> None:
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"  {name:8} {middle:7.2f} s, {pairs / middle:6.2f} pairs a second, all:",
              *(f"{each:.2f}" for each in times))  # fmt: skip
    for other in ("plain", "lm-eval"):
        ratios = [a / b for a, b in zip(seconds["ours"], seconds[other], strict=True)]
        print(f"  ours / {other}: median {statistics.median(ratios):.3f} of the rounds, all:",
              *(f"{each:.3f}" for each in ratios))  # fmt: skip


def rolling(model: Any, tokenizer: Any, args: argparse.Namespace) -> None:
    whole = (args.data / "wikitext2" / "valid.txt").read_text(encoding="utf-8").strip()
    ids = tokenizer(whole[: 8 * args.tokens], add_special_tokens=False)["input_ids"][: args.tokens]
    text = tokenizer.decode(ids).strip()
    for context in (512, 2048):
        found = perplexity(model, tokenizer, text, context=context, rolling=True)
        loss = -rolling_likelihood(model, tokenizer, text, context)
        theirs = math.exp(loss / found.words)
        print(f"context {context}, {found.tokens} tokens, {found.words} words, per word: "
              f"ours {found.per_word:.6f}, lm-eval {theirs:.6f}, "
              f"relative difference {abs(found.per_word / theirs - 1):.2g}; "
              f"per token {found.value:.4f}, bits per byte {found.bits_per_byte:.5f}")  # fmt: skip


def sentences(path: Path, pairs: int) -> list[Query]:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:pairs]
    return [Query("", row[name]) for row in rows for name in ("sent_more", "sent_less")]


def forward(model: Any, rows: list[tuple[int, ...]], device: str) -> None:
    longest = max(map(len, rows))
    ids = torch.tensor([row + (0,) * (longest - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(longest) < lengths[:, None]).long()
    model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)


def by_harness(model: Any, tokenizer: Any, queries: list[Query], size: int) -> list[float]:
    live = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)
    requests = [
        Instance("loglikelihood", {}, (query.context, query.continuation), number)
        for number, query in enumerate(queries)
    ]
    return [total for total, _ in live.loglikelihood(requests, disable_tqdm=True)]


def rolling_likelihood(model: Any, tokenizer: Any, text: str, context: int) -> float:
    live = HFLM(pretrained=model, tokenizer=tokenizer, max_length=context)
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0)]
    return float(live.loglikelihood_rolling(requests, disable_tqdm=True)[0])


if __name__ == "__main__":
    main()
