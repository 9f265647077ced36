"""What pruning costs on text that no calibration sees: the embedded model, by method and amount.

`quality_rows.py` says what is measured, `held_out.py` on what; the model is in bfloat16. The
seconds are those of pruning, calibration included, drawing its text not; those of the command line
are all that a user waits for. Each row is kept in a cache as soon as it is measured, so a run that
is stopped goes on.

    python benchmarks/quality.py --minutes 60
    python benchmarks/quality.py --only calibration --shares 20 --samples 32
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from held_out import DATA, DOMAINS, ITEMS, TEXTS, TOKENS, Kept, halves_of_wikitext, judged
from quality_rows import (
    COUNT,
    DENSE,
    LAYERS,
    PERCENT,
    SAMPLES,
    SHARES,
    TABLES,
    Row,
    all_rows,
    most_telling_first,
)
from transformers import __version__ as transformers_version

from optipfair import (
    __version__,
    calibration_loader,
    load_model,
    load_tokenizer,
    prune_checkpoint,
    prune_model,
)
from optipfair.evaluation.speed.footprint import MemoryMeter, memory_meter

DTYPE = "bfloat16"
COLUMNS = (*TEXTS, "all", "worst/best", "lambada %", "piqa %", "arc_easy %", "seconds")


def main() -> None:
    options = read_options()
    every = [row.drawing(options.samples, options.seed) for row in all_rows()]
    with_choices = {row.pruning for row in every if TABLES[row.table].choices} | {DENSE.pruning}
    rows = [row for row in every if asked(row, options)]
    results = Results(options.cache, options.tokens, options.items)
    if not options.print:
        until = time.monotonic() + 60 * options.minutes
        measure([DENSE, *most_telling_first(rows)], with_choices, results, until)
    print_tables(rows, results)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("quality-cache.jsonl"))
    parser.add_argument("--minutes", type=float, default=170, help="stop starting rows after this")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--shares", nargs="+", type=int, default=SHARES, help="of these alone")
    parser.add_argument("--layers", nargs="+", type=int, default=LAYERS, help="of these alone")
    parser.add_argument("--samples", type=int, help="calibration sequences at most")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="that are judged of each text")
    parser.add_argument("--items", type=int, default=ITEMS, help="that are judged of each task")
    parser.add_argument("--print", action="store_true", help="only print what is in the cache")
    return parser.parse_args()


def asked(row: Row, options: argparse.Namespace) -> bool:
    """Whether a row is of a table and an amount that are to be measured."""
    amounts = {PERCENT: options.shares, COUNT: options.layers}[TABLES[row.table].unit]
    return row.table in options.only and row.amount in amounts


@dataclass(frozen=True)
class Measured:
    """What a pruning cost."""

    kept: Kept
    seconds: float
    peak_bytes: int | None

    @classmethod
    def of_dict(cls, found: dict[str, Any]) -> Measured:
        return cls(**{**found, "kept": Kept(**found["kept"])})


class Results:
    """What is measured so far, by what was done and on how much it was judged; kept in a file."""

    def __init__(self, file: Path, tokens: int, items: int) -> None:
        self.file, self.tokens, self.items = file, tokens, items
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        entries = map(json.loads, lines)
        self.known = {entry["key"]: Measured.of_dict(entry["found"]) for entry in entries}

    def of(self, row: Row) -> Measured | None:
        return self.known.get(self._key(row))

    def keep(self, row: Row, measured: Measured) -> None:
        self.known[self._key(row)] = measured
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": self._key(row), "found": asdict(measured)}) + "\n")

    def _key(self, row: Row) -> str:
        return f"{self.tokens} tokens, {self.items} items: {row.pruning}"


def measure(
    rows: Iterable[Row], with_choices: Collection[str], results: Results, until: float
) -> None:
    """Measure the rows that are not known, as long as there is time to start one.

    Those that prune in one of the ways `with_choices` are measured on PIQA and ARC-Easy too.
    """
    dense: Any = load_model("demo", dtype=DTYPE)
    tokenizer: Any = load_tokenizer("demo")
    for row in rows:
        if results.of(row) is not None:
            continue
        if time.monotonic() > until:
            return
        judge = partial(
            judged,
            tokenizer=tokenizer,
            choices=row.pruning in with_choices,
            tokens=results.tokens,
            items=results.items,
        )
        results.keep(row, measured(pruning(row, dense, tokenizer), judge, memory_meter(dense)))


def measured(
    prune: Callable[[], Any], judge: Callable[[Any], Kept], memory: MemoryMeter
) -> Measured:
    memory.start()
    started = time.perf_counter()
    model = prune()
    seconds, peak = time.perf_counter() - started, memory.read()
    return Measured(judge(model), seconds, peak)


def pruning(row: Row, dense: Any, tokenizer: Any) -> Callable[[], Any]:
    """What gives the pruned model of a row."""
    if row.command:
        return partial(by_command, row)
    loader = drawn(row, dense, tokenizer)
    return partial(in_memory, row, copy.deepcopy(dense), loader)


def by_command(row: Row) -> Any:
    (step,) = row.steps
    with TemporaryDirectory() as folder:
        pruned = Path(folder) / "pruned"
        prune_checkpoint("demo", pruned, **step, calibration_samples=row.samples, seed=row.seed)
        return load_model(pruned, dtype=DTYPE)


def in_memory(row: Row, model: Any, loader: Iterable[Any] | None) -> Any:
    for step in row.steps:
        prune_model(model, **step, dataloader=loader, seed=row.seed, show_progress=False)
    return model


def drawn(row: Row, dense: Any, tokenizer: Any) -> Iterable[Any] | None:
    """The calibration sequences of a row; a text that the library does not know is a file to it."""
    if row.text is None:
        return None
    draw = partial(calibration_loader, model=dense, samples=row.samples or SAMPLES, seed=row.seed)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "text.txt"
        if row.text not in own_texts():
            return draw(row.text, tokenizer)
        file.write_text(own_texts()[row.text], encoding="utf-8")
        return draw(str(file), tokenizer)


@cache
def own_texts() -> dict[str, str]:
    """The half of WikiText that is not judged, and the domains of the library's `builtin` text."""
    lines = (DATA / "text_mix" / "calibration.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    domains = {
        domain: "\n\n".join(row["text"] for row in rows if row["domain"] == domain)
        for domain in DOMAINS
    }
    return {"wikitext": halves_of_wikitext()[0], **domains}


def print_tables(rows: Sequence[Row], results: Results) -> None:
    versions = {"optipfair": __version__, "torch": torch.__version__}
    versions["transformers"] = transformers_version
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"{DTYPE}, {results.tokens} tokens of each text, {results.items} items of each task")
    dense = results.of(DENSE)
    if dense is None:
        print("The model that is not pruned is not measured yet.")
        return
    print_head("not pruned: perplexity")
    print_line("", {**dense.kept.perplexities, **percent(dense)})
    found = [(row, each) for row in rows if (each := results.of(row)) is not None]
    for name, of_table in groupby(found, key=lambda pair: pair[0].table):
        table = TABLES[name]
        print_head(f"{table.title}; perplexity / that of the model that is not pruned")
        for row, each in of_table:
            print_line(f"{row.name}, {row.amount} {table.unit}", compared(each, dense))
    print_costs(found)


def compared(measured: Measured, dense: Measured) -> dict[str, float]:
    """The numbers of a row, by column."""
    ratios = measured.kept.ratios(dense.kept)
    of_domains = [ratios[domain] for domain in DOMAINS]
    return {
        **ratios,
        "all": measured.kept.headline(dense.kept),
        "worst/best": max(of_domains) / min(of_domains),
        **percent(measured),
        "seconds": measured.seconds,
    }


def percent(measured: Measured) -> dict[str, float]:
    return {f"{task} %": 100 * share for task, share in measured.kept.accuracies.items()}


def print_head(title: str) -> None:
    print(f"\n{title}\n\n  {'':44}" + "".join(f"{name:>11}" for name in COLUMNS))


def print_line(name: str, numbers: Mapping[str, float]) -> None:
    cells = [f"{numbers[column]:#.4g}" if column in numbers else "" for column in COLUMNS]
    print(f"  {name:44}" + "".join(f"{cell:>11}" for cell in cells))


def print_costs(found: Iterable[tuple[Row, Measured]]) -> None:
    """The longest pruning of a name, and the one that held most."""
    print("\nseconds of the longest pruning, and the most memory of the process meanwhile, which")
    print(f"holds the whole model beside the pruned one\n\n  {'':48}{'seconds':>10}{'GB':>8}")
    named: dict[str, list[Measured]] = defaultdict(list)
    for row, each in found:
        named[f"{row.table}: {row.name}"].append(each)
    for name, costs in named.items():
        peak = max(each.peak_bytes or 0 for each in costs)
        memory = f"{peak / 1e9:.2f}" if peak else "-"
        print(f"  {name:48}{max(each.seconds for each in costs):10.1f}{memory:>8}")


if __name__ == "__main__":
    main()
