"""A comparison as rows: every number for a spreadsheet, the main ones for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..results import Result
from ..uncertainty import Estimate
from ..visible import visible
from .charts import headlines
from .comparison import (
    Comparison,
    FigureOfTwo,
    Generation,
    LeftOut,
    Speed,
    SpeedRow,
    TaskFacts,
    Training,
)
from .formats import NOTHING, number, p_value, percent, signed, times, with_interval
from .views import by_position

Row = dict[str, str | int | float | None]
Place = tuple[str, str, str]  # section, id, model

COLUMNS = ["section", "id", "group", "model", "quantity", "value", "low", "high", "unit", "reason"]
VERDICT_HEADER = ("question", "verdict", "why")
MEASURE_HEADER = (
    *("measure", "original", "pruned", "change", "95 % interval"),
    "p (Holm): harm / any change",
)
FLIP_HEADER = ("answers that turned", "one way", "the other", "answered", "McNemar p (Holm)")
TOO_FEW = "too few to tell"
GENERATION_HEADER = ("of the pruned model against the original", "value", "95 % interval")
_MODELS = ("original", "pruned")
_FORMULA = tuple("=+-@\t\r＝＋－＠")  # noqa: RUF001


def comparison_csv(comparison: Mapping[str, Any]) -> str:
    """Write every number of a comparison, one a row, under `COLUMNS`.

    Numbers are unrounded; one that is not defined is empty and has its reason in the row. A text
    that a spreadsheet could take for a formula gets an apostrophe in front.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in _rows(Comparison.from_dict(comparison)):
        writer.writerow({column: _cell(value) for column, value in row.items()})
    return file.getvalue()


def verdict_rows(comparison: Comparison) -> list[list[str]]:
    """The verdicts for a terminal, under `VERDICT_HEADER`."""
    return [
        [visible(text) for text in (each.question, each.verdict, each.sentence)]
        for each in comparison.verdicts
    ]


def measure_rows(comparison: Comparison) -> list[list[str]]:
    """The measures that decide verdicts, for a terminal, under `MEASURE_HEADER`."""
    rows = []
    for each in headlines(comparison.measures):
        change, between = with_interval(
            each.change, times if each.change_kind == "ratio" else signed
        )
        before, after = number(each.original.value), number(each.pruned.value)
        name, p = visible(each.id), _tested(each)
        rows.append([name, before, after, change, between or NOTHING, p])
    return rows


def flip_rows(comparison: Comparison) -> list[list[str]]:
    """How many answers turned in each direction, for a terminal, under `FLIP_HEADER`."""
    return [
        [
            visible(each.task),
            f"{each.gained:,} to {visible(each.answers[1])}",
            f"{each.lost:,} to {visible(each.answers[0])}",
            NOTHING if each.answered is None else f"{each.answered:,}",
            TOO_FEW if each.untested is not None else p_value(each.p_holm),
        ]
        for each in comparison.flips
    ]


def generation_rows(comparison: Comparison) -> list[list[str]]:
    """How long both write the same, and how far apart they predict by position, for a terminal."""
    rows = []
    if comparison.generation is not None:
        for each in comparison.generation.same:
            name = f"the same first {each.tokens} tokens are written"
            rows.append((name, with_interval(each.share, percent)))
        parting = with_interval(comparison.generation.until_parting, number)
        rows.append(("tokens until they part, median", parting))
    for row in by_position(comparison.measures):
        name = f"KL divergence at positions {row.group}"
        rows.append((name, with_interval(row.pruned, number)))
    return [[visible(name), value, between or NOTHING] for name, (value, between) in rows]


def left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    """What was not measured, one line for each reason, which says how to get it."""
    by_reason: dict[str, list[str]] = {}
    for each in left_out:
        by_reason.setdefault(visible(each.reason), []).append(visible(each.section))
    return [f"Left out: {', '.join(sections)}: {why}." for why, sections in by_reason.items()]


def first_token_lines(tasks: Sequence[TaskFacts]) -> list[str]:
    """With which special token the texts of each task begin, one line for each token."""
    by_token: dict[str, list[str]] = {}
    for each in tasks:
        token = "no special token" if each.first_token is None else visible(each.first_token)
        by_token.setdefault(token, []).append(visible(each.name))
    return [f"Texts begin with {token}: {', '.join(own)}." for token, own in by_token.items()]


def _tested(row: FigureOfTwo) -> str:
    """The corrected p-values: of harm and, where it has one, of any change."""
    if row.untested is not None:
        return TOO_FEW
    both = [row.p_holm, *([row.p_change_holm] if row.p_change_holm is not None else [])]
    return " / ".join(dict.fromkeys(p_value(p) for p in both))


def _cell(value: str | int | float | None) -> str | int | float:
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = visible(value)
    formula = text.startswith(("\n", *_FORMULA)) or text.lstrip()[:1] in _FORMULA
    return f"'{text}" if formula else text


def _rows(comparison: Comparison) -> Iterator[Row]:
    yield from _of(("comparison", "", ""), comparison, version="")
    for model in _MODELS:
        place = ("models", "", model)
        facts = comparison.models[model]
        yield from _of(place, facts, parameters="", weight_bytes="bytes", layers="")
    yield from _of(("protocol", "", ""), comparison.protocol, **_PROTOCOL)
    for measure in comparison.measures:
        yield from _measure_rows(measure)
    for flips in comparison.flips:
        yield from _of(("flips", flips.task, ""), flips, **_FLIPS)
    for task in comparison.tasks:
        place = ("tasks", task.name, "")
        yield from _of(place, task, items="items", available="items", reused="items")
        for reason, rows in task.left_out.items():
            yield _row(place, "left_out", rows, "rows", reason=reason)
    if comparison.text:
        place = ("text", comparison.text.file, "")
        yield from _of(place, comparison.text, tokens="", words="", bytes="")
    if comparison.generation:
        yield from _generation_numbers(comparison.generation)
    if comparison.training:
        yield from _training_rows(comparison.training)
    if comparison.speed:
        yield from _speed_rows(comparison.speed)
    yield from _contrast_cells(comparison)
    for model, layers in (comparison.layers or {}).items():
        for each in layers:
            place = ("layers", f"layer {each.layer}", model)
            yield from _of(place, each, layer="", depth="share of all layers")
            yield _row(place, "excess", each.excess, "", low=each.low, high=each.high)


def _contrast_cells(comparison: Comparison) -> Iterator[Row]:
    for each in comparison.contrasts:
        for model in _MODELS:
            place, found = ("contrasts", each.contrast, model), each[model]
            yield _row(place, "size", found.value, "nats", low=found.low, high=found.high)
            for part in found.parts:
                name = f"{each.contrast}: layer {part.layer}, {part.component}"
                yield from _of(("contrasts", name, model), part, layer="", effect="nats")


_PROTOCOL = {
    "seed": "",
    "limit": "items",
    "tokens": "tokens",
    "resamples": "",
    "level": "",
    "context": "tokens",
    "stride": "tokens",
    "seconds": "s",
    "threads": "",
    "processes": "",
}
_FLIPS = {"lost": "items", "gained": "items", "answered": "items", "p": "", "p_holm": ""}
_FLIPS |= {"shown": "", "total": "items"}
_RUN = {
    "peak_memory_bytes": "bytes",
    "kv_cache_bytes": "bytes",
    "weight_bytes": "bytes",
    "generated_tokens": "tokens",
}


def _measure_rows(measure: FigureOfTwo) -> Iterator[Row]:
    ratio = measure.change_kind == "ratio"
    group: Row = {"group": measure.group}
    units = {
        "original": "of the measure",
        "pruned": "of the measure",
        "change": "pruned / original" if ratio else "pruned - original",
        "harm": "logarithm of the ratio" if ratio else "of the measure",
    }
    for quantity, unit in units.items():
        place = ("measures", measure.id, quantity if quantity in _MODELS else "")
        yield _estimate(place, quantity, measure[quantity], unit) | group
    more = dict.fromkeys(("p", "p_holm", "p_change", "p_change_holm", "least_p"), "")
    more |= {"chance": "of the measure", "could_have_missed": units["harm"]}
    more |= {"items": "items", "clusters": "clusters"}
    more |= {} if isinstance(measure.better, str) else {"better": "of the measure"}
    place = ("measures", measure.id, "")
    if measure.against_control is not None:
        yield _estimate(place, "against_control", measure.against_control, units["harm"]) | group
        more |= {"p_control_holm": ""}
    for row in _of(place, measure, **more):
        about: Row = {"reason": measure.untested} if row["quantity"] in ("p", "p_holm") else {}
        yield row | group | about
    if measure.scale is not None:
        low, high = measure.scale
        yield _row(place, "scale", None, "of the measure", **group, low=low, high=high)


def _generation_numbers(generation: Generation) -> Iterator[Row]:
    place = ("generation", "", "")
    counts = {"prompts": "prompts", "prompt_tokens": "tokens", "new_tokens": "tokens"}
    yield from _of(place, generation, **counts)
    yield _estimate(place, "until_parting", generation.until_parting, "tokens")
    for each in generation.same:
        own = ("generation", f"first {each.tokens} tokens", "")
        yield _row(own, "tokens", each.tokens, "tokens")
        yield _estimate(own, "share", each.share, "of the prompts")


def _training_rows(training: Training) -> Iterator[Row]:
    nats = "nats a token"
    yield from _of(
        ("training", "", "pruned"), training, before=nats, after=nats, tokens="tokens", seconds="s"
    )
    for name, curve in (("held back", training.judged), ("in training", training.training)):
        for place, each in enumerate(curve, start=1):
            yield from _of(
                ("training", f"{name} {place}", "pruned"), each, tokens="tokens", loss=nats
            )


def _estimate(place: Place, quantity: str, estimate: Estimate, unit: str) -> Row:
    given = dict(estimate)
    return _row(place, quantity, given.pop("value"), unit, **given)


def _speed_rows(speed: Speed) -> Iterator[Row]:
    for model in _MODELS:
        place = ("speed", "", model)
        for quantity, unit in (("time", "s"), ("tokens_per_second", "tokens/s")):
            yield _row(place, f"avg_{quantity}", speed[f"avg_{model}_{quantity}"], unit)
        for key in ("time_to_first_token", "time_per_output_token"):
            for kind, seconds in speed[model][key].items():
                yield _row(place, f"{key}_{kind}", seconds, "s")
        yield from _of(place, speed[model], **_RUN)
    yield _speedup(("speed", "", ""), speed)
    yield from _of(("speed", "", ""), speed, tps_improvement_percent="%", num_prompts="prompts")
    for each in speed.table:
        name = f"batch {each.batch_size}, {each.prompt_tokens} tokens"
        place = ("speed_table", name, "")
        yield from _of(place, each, batch_size="prompts", prompt_tokens="tokens")
        for model in _MODELS:
            rate = each[f"{model}_tokens_per_second"]
            yield _row(("speed_table", name, model), "tokens_per_second", rate, "tokens/s")
        yield _speedup(place, each)


def _speedup(place: Place, figures: Speed | SpeedRow) -> Row:
    low, high = figures.speedup_interval or (None, None)
    return _row(place, "speedup", figures.speedup, "ratio", low=low, high=high)


def _of(place: Place, figures: Result, **units: str) -> Iterator[Row]:
    """One row for each quantity that has a unit here."""
    for quantity, unit in units.items():
        yield _row(place, quantity, figures[quantity], unit)


def _row(
    place: Place, quantity: str, value: float | None, unit: str, **more: str | float | None
) -> Row:
    section, name, model = place
    about: Row = {"section": section, "id": name, "model": model}
    return about | {"quantity": quantity, "value": value, "unit": unit} | more
