"""What `quality.py` measures, as data: each row of its tables is one pruning of the embedded model.

Nothing here runs a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from held_out import DOMAINS

from optipfair import presets

BUILTIN, SAMPLES = "builtin", 128
CALIBRATIONS = ("wikitext", BUILTIN, "self", "builtin,self")
SHARES, SOME_SHARES, LAYERS = (10, 20, 30, 40, 50), (10, 30, 50), (2, 4, 6, 8)
STATIC = ("PPM", "VOW", "PON", "L2")
WITH_DATA = ("ACT", "WACT", "FLAP", "OBS")
LAYERS_BY = ("block_influence", "block_perplexity", "auto", "last", "first")
WHOLE, LAYER = 134_515_008, 3_540_096  # parameters of the embedded model, and of one of its layers
PERCENT, COUNT = "%", "layers"


@dataclass(frozen=True)
class Table:
    """What its rows have in common."""

    title: str
    unit: str  # of their amounts
    choices: bool = False  # whether PIQA and ARC-Easy are measured too


TABLES = {
    "default": Table("the command line, told the share alone", PERCENT, True),
    "calibration": Table("AUTO, calibrated on one text or another", PERCENT, True),
    "methods": Table("what scores neurons", PERCENT),
    "depth": Table("layers, and the layer before them fitted to make up for them", COUNT),
    "blocks": Table("attentions and MLPs of single layers, and the block before them", COUNT),
    "equal": Table("as many parameters as so many layers have, AUTO", COUNT),
    "widths": Table("AUTO, the same share of every layer or shares by loss", PERCENT),
    "tokens": Table("AUTO, by the number of calibration sequences", PERCENT),
}


@dataclass(frozen=True)
class Row:
    """One pruning, and where it stands."""

    table: str
    name: str
    amount: int
    steps: tuple[Mapping[str, Any], ...]  # keywords of `prune_model`, call after call
    text: str | None = BUILTIN  # to calibrate on
    samples: int | None = SAMPLES  # sequences of it; None as many as the command line draws
    seed: int = 0
    command: bool = False  # whether `prune_checkpoint` does its one step, not `prune_model`

    @property
    def pruning(self) -> str:
        """What is done, in JSON; rows of several tables may do the same."""
        place = ("table", "name", "amount")
        done = {name: value for name, value in asdict(self).items() if name not in place}
        return json.dumps(done, sort_keys=True)

    def drawing(self, most: int | None, seed: int) -> Row:
        """The same with another draw, of so many sequences at most."""
        if most is None or self.text is None:
            return replace(self, seed=seed)
        return replace(self, seed=seed, samples=min(self.samples or SAMPLES, most))


DENSE = Row("dense", "not pruned", 0, (), None, None)

FIRST = (  # a table, or the name of a row, and an amount
    ("default", 10),
    ("default", 20),
    ("calibration", 20),
    ("calibration", 10),
    ("PPM", 10),
    ("depth", 4),
)


def most_telling_first(rows: Iterable[Row]) -> list[Row]:
    """The order in which to measure, so that a short run is of use."""

    def place(row: Row) -> int:
        marks = ((row.table, row.amount), (row.name, row.amount))
        return min((FIRST.index(mark) for mark in marks if mark in FIRST), default=len(FIRST))

    return sorted(rows, key=place)


def all_rows() -> Iterator[Row]:
    """Those of all tables, as they are printed."""
    yield from default_rows()
    yield from calibration_rows()
    yield from method_rows()
    yield from depth_rows()
    yield from block_rows()
    yield from equal_rows()
    yield from width_rows()
    yield from token_rows()


def default_rows() -> Iterator[Row]:
    for share in SHARES:
        step = presets.chosen_by_data({"pruning_percentage": share})
        yield Row("default", "command line", share, (step,), samples=None, command=True)


def calibration_rows() -> Iterator[Row]:
    for share in SHARES:
        domains = DOMAINS if share == 20 else ()
        for text in (*CALIBRATIONS, *domains):
            yield Row("calibration", text, share, (neurons("AUTO", share),), text)


def method_rows() -> Iterator[Row]:
    for share in SOME_SHARES:
        for method in (*STATIC, "RANDOM"):
            yield Row("methods", method, share, (neurons(method, share),), None, None)
        for method in WITH_DATA:
            yield Row("methods", method, share, (neurons(method, share),))
            fitted = neurons(method, share, compensate=True)
            yield Row("methods", f"{method} + compensation", share, (fitted,))
        yield Row("methods", "hybrid (MAW with data)", share, (neurons("MAW", share),))
        yield Row("methods", "AUTO", share, (neurons("AUTO", share),))


def depth_rows() -> Iterator[Row]:
    for count in LAYERS:
        for method in LAYERS_BY:
            weights_only = method in ("last", "first")
            text, samples = (None, None) if weights_only else (BUILTIN, SAMPLES)
            yield Row("depth", method, count, (layers(count, method),), text, samples)
            if method != "first":  # before which there is no layer to be fitted
                fitted = layers(count, method, compensate=True)
                yield Row("depth", f"{method} + replacement", count, (fitted,))


def block_rows() -> Iterator[Row]:
    for count in LAYERS:
        for kind in ("any", "attention", "mlp"):
            step = {"pruning_type": "BLOCKS", "num_blocks_to_remove": count, "block_kind": kind}
            yield Row("blocks", f"{kind}, made up for", count, ({**step, "compensate": True},))


def equal_rows() -> Iterator[Row]:
    for count in LAYERS:
        rest = {"neuron_selection_method": "AUTO", "target_params": WHOLE - count * LAYER}
        half = layers(count // 2, "block_perplexity", compensate=True)
        ways = {
            "neurons": (rest,),
            "half layers, half neurons": (half, rest),
            "1 of 3 key/value groups, neurons": (heads("group"), rest),
            "1 of 3 query heads, neurons": (heads("head"), rest),
        }
        for name, steps in ways.items():
            if name != "1 of 3 key/value groups, neurons" or count > 2:  # they hold 2.5 layers'
                yield Row("equal", name, count, steps)


def width_rows() -> Iterator[Row]:
    for share in (10, 20, 30):
        yield Row("widths", "uniform", share, (neurons("AUTO", share),))
        by_loss = neurons("AUTO", share, layer_widths="by_loss")
        yield Row("widths", "by_loss", share, (by_loss,))


def token_rows() -> Iterator[Row]:
    for samples in (32, 128, 512):
        step = neurons("AUTO", 20)
        yield Row("tokens", f"{samples} sequences", 20, (step,), samples=samples)


def neurons(method: str, share: int, **more: Any) -> dict[str, Any]:
    return {"neuron_selection_method": method, "pruning_percentage": share, **more}


def layers(count: int, method: str, **more: Any) -> dict[str, Any]:
    return {
        "pruning_type": "DEPTH",
        "num_layers_to_remove": count,
        "layer_selection_method": method,
        **more,
    }


def heads(unit: str) -> dict[str, Any]:
    """One of three, which is the least that can go."""
    return {
        "pruning_type": "ATTENTION",
        "neuron_selection_method": "AUTO",
        "pruning_percentage": 34,
        "attention_unit": unit,
    }
