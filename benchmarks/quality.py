"""What pruning costs on real text: the embedded model's perplexity, by method and share removed.

Calibrates on the first half of the WikiText-2 validation text (shared data), measures on the
second: context 512, windows side by side, the first 20,000 tokens, tokenised once, without special
tokens. The text is detokenised (`@-@` and spaces before punctuation are undone).
The model is in bfloat16. Each row is kept in a cache as soon as it is measured, so a run that is
stopped goes on.

    python benchmarks/quality.py --minutes 60
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from transformers import __version__ as transformers_version

from optipfair import __version__, load_model, load_tokenizer, perplexity, prune_model
from optipfair.arch.view import MLPView, describe
from optipfair.batches import Batch
from optipfair.evaluation.speed.footprint import memory_meter
from optipfair.evaluation.tasks.reading import detokenised
from optipfair.pruning.calibration.activations import neuron_input_norms
from optipfair.pruning.cut.surgery import apply_plan
from optipfair.pruning.importance.mlp_scores import score_mlp_with_data
from optipfair.pruning.layers.strategies import (
    LAYER_STRATEGIES,
    ranks_layers,
    select_layers_to_remove,
)
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.pruning.planning import choose_neurons, plan_counts
from optipfair.pruning.request.pruning_request import check_request
from optipfair.pruning.request.solving import Sizes

DATA = Path(os.environ.get("OPTIPFAIR_DATA", Path(__file__).parents[2] / "shared" / "data"))
TOKENS, CONTEXT = 20_000, 512
LENGTH = 512
PRESET, FEW = 128, 32  # sequences: what the command line draws by itself, and for all other rows
SHARES = (10, 20, 30, 40, 50)
DRAWN = (10, 30, 50)  # shares at which the preset, the hybrid and random have three draws
STATIC = ("PPM", "VOW", "PON", "L2")
CALIBRATED = ("ACT", "WACT", "FLAP", "OBS")
DEPTHS = (2, 4, 6, 8, 10)
BLOCK = "block_perplexity"  # chooses the layers of mixed rows
WAYS = ("width", "half layers, half width", "key/value groups")
LAYERS_BY = ("block_influence", "block_perplexity", "angular", "last", "perplexity", "auto")


@dataclass(frozen=True)
class Row:
    """One pruning: its name in the table and the arguments of `prune_model`."""

    name: str
    share: int
    method: str
    data: bool
    compensate: bool
    draw: int = 0
    samples: int = FEW
    widths: str = "uniform"

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class DepthRow:
    """One removal of layers, the layer before each block fitted to it or not."""

    layers: int
    method: str
    compensate: bool

    @property
    def key(self) -> str:
        return json.dumps({"depth": asdict(self)}, sort_keys=True)


@dataclass(frozen=True)
class EqualRow:
    """A way to remove as many parameters as so many layers have, all with compensation."""

    layers: int
    way: str

    @property
    def key(self) -> str:
        return json.dumps({"equal": asdict(self)}, sort_keys=True)


def depth_rows(methods: Sequence[str] = LAYERS_BY) -> Iterator[DepthRow]:
    for method in methods:
        for layers in DEPTHS:
            yield DepthRow(layers, method, False)
            yield DepthRow(layers, method, True)


def equal_rows() -> Iterator[EqualRow]:
    for way in WAYS:
        yield from (EqualRow(layers, way) for layers in DEPTHS)


def drawn_rows(draw: int, shares: Sequence[int] = DRAWN) -> Iterator[Row]:
    for share in shares:
        yield Row("AUTO (preset)", share, "AUTO", True, True, draw, PRESET)
        yield Row("hybrid (MAW with data)", share, "MAW", True, False, draw, PRESET)
        yield Row("RANDOM", share, "RANDOM", False, False, draw)


def all_rows() -> Iterator[Row | DepthRow | EqualRow]:
    """The most telling first, so that a short run is of use."""
    yield from drawn_rows(0)
    yield from depth_rows(LAYERS_BY[:3])
    yield from (row for row in rows() if not row.data and not row.draw)
    yield from equal_rows()
    yield from depth_rows(LAYERS_BY[3:])
    yield from rows()


def rows() -> Iterator[Row]:
    yield from drawn_rows(0, SHARES)
    yield from (row for draw in (1, 2) for row in drawn_rows(draw))
    for share in DRAWN:
        yield Row("AUTO, layer_widths by_loss", share, "AUTO", True, True, 0, PRESET, "by_loss")
    for share in (10, 30, 50, 20, 40):
        yield from (
            Row(f"{method}, weights only", share, method, False, False) for method in STATIC
        )
        yield from (Row(method, share, method, True, False) for method in CALIBRATED)
        yield Row("AUTO", share, "AUTO", True, True)
        yield Row("hybrid + compensation", share, "MAW", True, True)
        for method in (*STATIC[1:], *CALIBRATED, "RANDOM"):
            yield Row(f"{method} + compensation", share, method, True, True)


ROWS = {"width": Row, "depth": DepthRow, "equal": EqualRow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("quality-cache.jsonl"))
    parser.add_argument("--minutes", type=float, default=170, help="stop starting rows after this")
    parser.add_argument(
        "--only", choices=["width", "depth", "equal"], help="measure only these rows"
    )
    parser.add_argument("--print", action="store_true", help="only print what is in the cache")
    options = parser.parse_args()
    known = read(options.cache)
    if not options.print:
        measure(known, options.cache, time.monotonic() + 60 * options.minutes, options.only)
    print_table(known)
    print_depth_table(known)
    print_equal_table(known)
    print_costs(known)


def measure(
    known: dict[str, dict[str, Any]], file: Path, until: float, only: str | None = None
) -> None:
    text = detokenised((DATA / "wikitext2" / "valid.txt").read_text(encoding="utf-8"))
    tokenizer: Any = load_tokenizer("demo")
    half = len(text) // 2
    calibration = torch.tensor(tokenizer(text[:half], verbose=False)["input_ids"])
    evaluated = tokenizer.decode(tokenizer(text[half:], verbose=False)["input_ids"][:TOKENS])
    dense: Any = load_model("demo", dtype="bfloat16")
    if "dense" not in known:
        keep(known, file, "dense", timed(dense, tokenizer, evaluated, lambda model: None))

    @cache
    def chosen(method: str) -> Callable[[int], Any]:
        if not ranks_layers(method):
            return lambda count: select_layers_to_remove(len(layers), count, method)
        return LAYER_STRATEGIES[method].function(view, draw(calibration, 0, FEW), False)

    view = describe(dense)
    layers = view.layers

    @cache
    def norms(number: int, samples: int) -> Any:
        return neuron_input_norms(view, draw(calibration, number, samples))

    for row in all_rows():
        if row.key in known or (only is not None and not isinstance(row, ROWS[only])):
            continue
        if time.monotonic() > until:
            return
        if isinstance(row, DepthRow):
            batches = draw(calibration, 0, FEW) if row.compensate else []
            change = removing(partial(chosen, row.method), row.layers, batches)
        elif isinstance(row, EqualRow):
            change = as_many(row, partial(chosen, BLOCK), draw(calibration, 0, FEW))
        elif (row.method, row.data, row.compensate) == ("MAW", True, False):
            change = partial(scored_by, row, partial(norms, row.draw, row.samples))
        else:
            change = narrowing(row, draw(calibration, row.draw, row.samples) if row.data else [])
        keep(known, file, row.key, timed(dense, tokenizer, evaluated, change))


def narrowing(row: Row, batches: list[Batch]) -> Callable[[Any], object]:
    return lambda model: prune_model(
        model,
        "MLP_GLU",
        row.method,
        row.share + 1e-9,  # an exact 10 is the specification's default
        dataloader=[{"input_ids": batch.input_ids} for batch in batches] or None,
        compensate=row.compensate,
        layer_widths=row.widths,
        seed=row.draw,
        show_progress=False,
    )


def scored_by(row: Row, norms_of_draw: Callable[[], Any], model: Any) -> None:
    """The hybrid; other shares of a draw have its statistics too, which are taken once."""
    view, norms = describe(model), norms_of_draw()
    request = check_request(
        PruneOptions("MLP_GLU", row.share, neuron_selection_method=row.method), [()]
    )
    counts = plan_counts(view, request, Sizes.of_model(view), with_data=True)

    def scores(mlps: Sequence[MLPView]) -> list[torch.Tensor]:
        return [score_mlp_with_data(mlp, norms[mlp.layer, mlp.spec.name]) for mlp in mlps]

    apply_plan(model, choose_neurons(view, counts, scores))


Chosen = Callable[[], Callable[[int], Any]]  # how many layers → which; once asked for, known


def removing(chosen: Chosen, layers: int, batches: list[Batch]) -> Callable[[Any], object]:
    return lambda model: prune_model(
        model,
        "DEPTH",
        layer_indices=chosen()(layers),
        dataloader=[{"input_ids": batch.input_ids} for batch in batches] or None,
        compensate=bool(batches),
        show_progress=False,
    )


def as_many(row: EqualRow, block: Chosen, batches: list[Batch]) -> Callable[[Any], object]:
    """Remove what `row.layers` layers hold in another way."""

    def change(model: Any) -> None:
        one = sum(p.numel() for p in describe(model).layers[0].module.parameters())
        target = sum(p.numel() for p in model.parameters()) - row.layers * one
        common: dict[str, Any] = {"dataloader": batches, "show_progress": False}
        if row.way == "key/value groups":
            prune_model(model, "ATTENTION", "AUTO", 34, **common)  # one of three: 2.5 layers
        elif row.way != "width":
            removing(block, row.layers // 2, batches)(model)
        if sum(p.numel() for p in model.parameters()) > target:
            prune_model(model, "MLP_GLU", "AUTO", None, target_params=target, **common)

    return change


def timed(dense: Any, tokenizer: Any, text: str, change: Callable[[Any], object]) -> dict[str, Any]:
    model = copy.deepcopy(dense)
    memory = memory_meter(model)
    memory.start()
    started = time.perf_counter()
    change(model)
    seconds, peak = time.perf_counter() - started, memory.read()
    value = perplexity(model, tokenizer, text, context=CONTEXT, stride=CONTEXT).value
    return {"perplexity": value, "seconds": seconds, "peak_bytes": peak}


def draw(ids: torch.Tensor, seed: int, samples: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, len(ids) - LENGTH, (samples,), generator=generator).tolist()
    picked = torch.stack([ids[start : start + LENGTH] for start in starts])
    return [Batch(part, torch.ones_like(part).bool()) for part in torch.split(picked, 8)]


def read(cache_file: Path) -> dict[str, dict[str, Any]]:
    if not cache_file.is_file():
        return {}
    lines = cache_file.read_text(encoding="utf-8").splitlines()
    return {entry["key"]: entry["found"] for entry in map(json.loads, lines)}


def keep(known: dict[str, Any], cache_file: Path, key: str, found: dict[str, Any]) -> None:
    known[key] = found
    with cache_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": key, "found": found}) + "\n")


def print_table(known: dict[str, dict[str, Any]]) -> None:
    print(
        f"optipfair {__version__}, transformers {transformers_version}, torch {torch.__version__}"
    )
    print(f"bfloat16, calibration {FEW} x {LENGTH} tokens, {PRESET} for the preset and the hybrid")
    print(f"evaluated {TOKENS} tokens, context {CONTEXT}")
    dense = known["dense"]["perplexity"]
    print(
        f"dense {dense:.2f}; perplexity, and in brackets perplexity / dense - 1 (median of draws)\n"
    )
    print(f"  {'MLP neurons removed':28}" + "".join(f"{share:>16} %" for share in SHARES))
    for name in dict.fromkeys(row.name for row in rows()):
        cells = [cell(known, name, share, dense) for share in SHARES]
        if any(cells):
            print(f"  {name:28}" + "".join(f"{each:>18}" for each in cells))


def print_costs(known: dict[str, dict[str, Any]]) -> None:
    """The longest row of a name, as others may use its statistics, and the one that held most."""
    print("\nseconds of the longest pruning, and the most memory of the process meanwhile, which")
    print("holds the model twice, whole and pruned\n")
    print(f"  {'':40}{'seconds':>10}{'GB':>8}")
    named: dict[str, list[dict[str, Any]]] = {}
    for row in all_rows():
        if "peak_bytes" in known.get(row.key, {}):
            named.setdefault(title(row), []).append(known[row.key])
    for name, found in named.items():
        seconds = max(each["seconds"] for each in found)
        peak = max(each["peak_bytes"] or 0 for each in found)
        print(f"  {name:40}{seconds:10.1f}" + (f"{peak / 1e9:8.2f}" if peak else f"{'-':>8}"))


def title(row: Row | DepthRow | EqualRow) -> str:
    if isinstance(row, Row):
        return row.name
    if isinstance(row, EqualRow):
        return f"as many as layers have: {row.way}"
    return f"layers by {row.method}" + (" + replacement" if row.compensate else "")


def print_depth_table(known: dict[str, dict[str, Any]]) -> None:
    if not any(row.key in known for row in depth_rows()):
        return
    dense = known["dense"]["perplexity"]
    loss = {
        row: known[row.key]["perplexity"] / dense - 1 for row in depth_rows() if row.key in known
    }
    print(
        "\nperplexity, and in brackets what is lost (perplexity / dense - 1) as a share of what "
        "plain removal by block influence loses\n"
    )
    print(f"  {'layers removed':28}" + "".join(f"{layers:>18}" for layers in DEPTHS))
    for method in LAYERS_BY:
        for compensate in (False, True):
            cells = []
            for layers in DEPTHS:
                own = loss.get(DepthRow(layers, method, compensate))
                plain = loss.get(DepthRow(layers, "block_influence", False))
                value = "" if own is None else f"{dense * (1 + own):.4g}"
                share = "" if own is None or not plain else f" ({own / plain:.2f})"
                cells.append(value + share)
            if any(cells):
                name = method + (" + replacement" if compensate else "")
                print(f"  {name:28}" + "".join(f"{each:>18}" for each in cells))


def print_equal_table(known: dict[str, dict[str, Any]]) -> None:
    if not any(row.key in known for row in equal_rows()):
        return
    print("\nperplexity with as many parameters removed as so many layers have, compensated\n")
    print(f"  {'layers':28}" + "".join(f"{layers:>18}" for layers in DEPTHS))
    kept = [("layers alone, " + m, [DepthRow(n, m, True) for n in DEPTHS]) for m in LAYERS_BY]
    ways = [(way, [EqualRow(n, way) for n in DEPTHS]) for way in WAYS]
    for name, each in [*kept, *ways]:
        values = [known[row.key]["perplexity"] if row.key in known else None for row in each]
        if any(values):
            print(f"  {name:28}" + "".join(f"{v:>18.4g}" if v else " " * 18 for v in values))


def cell(known: dict[str, dict[str, Any]], name: str, share: int, dense: float) -> str:
    values = [
        known[row.key]["perplexity"]
        for row in rows()
        if (row.name, row.share) == (name, share) and row.key in known
    ]
    if not values:
        return ""
    value = statistics.median(values)
    return f"{value:.4g} ({value / dense - 1:.3g})"


if __name__ == "__main__":
    main()
