"""A comparison as rows: every number for a spreadsheet, the main ones for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .charts import headlines
from .formats import NOTHING, number, p_value, signed, times, visible, with_interval

Figures = Mapping[str, Any]
Row = dict[str, str | int | float | None]

COLUMNS = (
    *("section", "id", "group", "model", "quantity", "value", "low", "high", "unit", "reason"),
)
VERDICT_HEADER = ("question", "verdict", "why")
MEASURE_HEADER = ("measure", "original", "pruned", "change", "95 % interval", "p (Holm)")
_MODELS = ("original", "pruned")
_FORMULA = tuple("=+-@\t\r＝＋－＠")  # noqa: RUF001


def comparison_csv(comparison: Figures) -> str:
    """Write every number of a comparison, one a row.

    Numbers are unrounded; one that is not defined is empty and has its reason in the row. A text
    that a spreadsheet could take for a formula gets an apostrophe in front.

    Args:
        comparison: as `comparison.schema.json` describes it.

    Returns:
        Text with a header (`COLUMNS`), fields separated by commas, lines ended by a line feed.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in _rows(comparison):
        writer.writerow([_cell(row.get(column)) for column in COLUMNS])
    return file.getvalue()


def verdict_rows(comparison: Figures) -> list[list[str]]:
    """The verdicts for a terminal, under `VERDICT_HEADER`."""
    return [
        [visible(each[key]) for key in ("question", "verdict", "sentence")]
        for each in comparison["verdicts"]
    ]


def measure_rows(comparison: Figures) -> list[list[str]]:
    """The measures that decide verdicts, for a terminal, under `MEASURE_HEADER`."""
    rows = []
    for each in headlines(comparison["measures"]):
        write = times if each["change_kind"] == "ratio" else signed
        change, between = with_interval(each["change"], write)
        rows.append(
            [
                visible(each["id"]),
                *(number(each[model]["value"]) for model in _MODELS),
                change,
                between or NOTHING,
                p_value(each["p_holm"]),
            ]
        )
    return rows


def left_out_lines(left_out: Sequence[Figures]) -> list[str]:
    """What was not measured, one line for each reason, which says how to get it."""
    by_reason: dict[str, list[str]] = {}
    for each in left_out:
        by_reason.setdefault(visible(each["reason"]), []).append(visible(each["section"]))
    return [f"Left out: {', '.join(sections)}: {why}." for why, sections in by_reason.items()]


def _cell(value: str | int | float | None) -> str | int | float:
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return (
        f"'{text}" if text.startswith(("\n", *_FORMULA)) or text.lstrip()[:1] in _FORMULA else text
    )


def _rows(comparison: Figures) -> Iterator[Row]:
    yield from _of("comparison", "", "", comparison, {"version": ""})
    for model in _MODELS:
        units = {"parameters": "", "weight_bytes": "bytes", "layers": ""}
        yield from _of("models", "", model, comparison["models"][model], units)
    yield from _of("protocol", "", "", comparison["protocol"], _PROTOCOL)
    for measure in comparison["measures"]:
        yield from _measure_rows(measure)
    for flips in comparison["flips"]:
        yield from _of("flips", flips["task"], "", flips, _FLIPS)
    for task in comparison["tasks"]:
        yield from _of("tasks", task["name"], "", task, dict.fromkeys(_TASK, "items"))
        for reason, rows in task["left_out"].items():
            yield _row("tasks", task["name"], "", "left_out", rows, "rows", reason=reason)
    if comparison["text"]:
        units = dict.fromkeys(("tokens", "words", "bytes"), "")
        yield from _of("text", comparison["text"]["file"], "", comparison["text"], units)
    if comparison["speed"]:
        yield from _speed_rows(comparison["speed"])
    for model, layers in (comparison["layers"] or {}).items():
        for each in layers:
            name = f"layer {each['layer']}"
            yield _row("layers", name, model, "layer", each["layer"], "")
            yield _row("layers", name, model, "depth", each["depth"], "share of all layers")
            ends = {end: each[end] for end in ("low", "high")}
            yield _row("layers", name, model, "excess", each["excess"], "") | ends


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
_FLIPS = {"lost": "items", "gained": "items", "p": "", "p_holm": "", "shown": "", "total": "items"}
_TASK = ("items", "available", "reused")
_TIMES = ("time_to_first_token", "time_per_output_token")
_RUN = {
    "peak_memory_bytes": "bytes",
    "kv_cache_bytes": "bytes",
    "weight_bytes": "bytes",
    "generated_tokens": "tokens",
}


def _measure_rows(measure: Figures) -> Iterator[Row]:
    ratio = measure["change_kind"] == "ratio"
    units = {
        "original": "of the measure",
        "pruned": "of the measure",
        "change": "pruned / original" if ratio else "pruned - original",
        "harm": "logarithm of the ratio" if ratio else "of the measure",
    }
    for quantity, unit in units.items():
        model = quantity if quantity in _MODELS else ""
        estimate = measure[quantity]
        rest = {key: estimate[key] for key in ("low", "high", "reason")}
        yield _row("measures", measure["id"], model, quantity, estimate["value"], unit) | {
            "group": measure["group"],
            **rest,
        }
    more = {"p": "", "p_holm": "", "chance": "of the measure", "could_have_missed": units["harm"]}
    more |= {"items": "items", "clusters": "clusters"}
    if not isinstance(measure["better"], str):
        more["better"] = "of the measure"
    for quantity, unit in more.items():
        row = _row("measures", measure["id"], "", quantity, measure[quantity], unit)
        yield row | {"group": measure["group"]}
    if measure["scale"] is not None:
        low, high = measure["scale"]
        row = _row("measures", measure["id"], "", "scale", None, "of the measure")
        yield row | {"group": measure["group"], "low": low, "high": high}


def _speed_rows(speed: Figures) -> Iterator[Row]:
    for model in _MODELS:
        for quantity, unit in (("time", "s"), ("tokens_per_second", "tokens/s")):
            value = speed[f"avg_{model}_{quantity}"]
            yield _row("speed", "", model, f"avg_{quantity}", value, unit)
        for key in _TIMES:
            spread = speed[model][key]
            for kind in ("median", "min", "max"):
                yield _row("speed", "", model, f"{key}_{kind}", spread[kind], "s")
        yield from _of("speed", "", model, speed[model], _RUN)
    yield _row("speed", "", "", "speedup", speed["speedup"], "ratio") | _ends(speed)
    units = {"tps_improvement_percent": "%", "num_prompts": "prompts"}
    yield from _of("speed", "", "", speed, units)
    for each in speed["table"]:
        name = f"batch {each['batch_size']}, {each['prompt_tokens']} tokens"
        sizes = {"batch_size": "prompts", "prompt_tokens": "tokens"}
        yield from _of("speed_table", name, "", each, sizes)
        for model in _MODELS:
            value = each[f"{model}_tokens_per_second"]
            yield _row("speed_table", name, model, "tokens_per_second", value, "tokens/s")
        yield _row("speed_table", name, "", "speedup", each["speedup"], "ratio") | _ends(each)


def _ends(figures: Figures) -> Row:
    low, high = figures["speedup_interval"] or (None, None)
    return {"low": low, "high": high}


def _of(
    section: str, name: str, model: str, figures: Figures, units: Mapping[str, str]
) -> Iterator[Row]:
    """One row for each quantity that has a unit here."""
    for quantity, unit in units.items():
        yield _row(section, name, model, quantity, figures[quantity], unit)


def _row(
    section: str,
    name: str,
    model: str,
    quantity: str,
    value: float | None,
    unit: str,
    *,
    reason: str | None = None,
) -> Row:
    return {
        "section": section,
        "id": name,
        "model": model,
        "quantity": quantity,
        "value": value,
        "unit": unit,
        "reason": reason,
    }
