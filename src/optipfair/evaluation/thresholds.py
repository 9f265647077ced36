"""Conditions on a comparison, as `--fail-if` gives them: read, checked, and which of them hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import ge, gt, le, lt

from ..errors import ArgumentError, UnknownNameError
from ..registry import unknown_name
from ..report.comparison import Comparison
from .generation.same_text import LENGTHS

_FORM = re.compile(r"\s*(?P<name>[^<>=]+?)\s*(?P<sign><=|>=|<|>)\s*(?P<limit>\S+)\s*")
_SIGNS: dict[str, Callable[[float, float], bool]] = {">=": ge, "<=": le, ">": gt, "<": lt}
_PARTS = ("original", "change", "harm")
_SHORT = {
    "perplexity_ratio": "text.perplexity.change",
    "kl": "text.kl",
    "agreement": "text.agreement",
}
_SPEED = ("speedup", "tps_improvement_percent")
_GENERATION = ("generation.until_parting", *(f"generation.same_{n}" for n in LENGTHS))
_SIZES = ("parameters_ratio", "weight_bytes_ratio")


@dataclass(frozen=True)
class Threshold:
    """One condition of `--fail-if`, under which a comparison fails in CI."""

    text: str
    name: str
    sign: str
    limit: float


def read_thresholds(texts: Iterable[str]) -> list[Threshold]:
    """Conditions from texts such as `perplexity_ratio>1.2` or `piqa.acc.change<-0.05`."""
    thresholds = []
    for text in texts:
        match = _FORM.fullmatch(text)
        try:
            limit = float(match["limit"]) if match else math.nan
        except ValueError:
            limit = math.nan
        if match is None or math.isnan(limit):
            raise ArgumentError(
                f"{text!r} is no condition. Give NAME>NUMBER, with >, >=, < or <=, for example "
                "'perplexity_ratio>1.2'."
            )
        thresholds.append(Threshold(text.strip(), match["name"], match["sign"], limit))
    return thresholds


def check_thresholds(
    thresholds: Sequence[Threshold], ids: Sequence[str], unmeasured: Mapping[str, str]
) -> None:
    """Refuse names that no measure of this comparison has; groups are not known beforehand."""
    plain = [*_SHORT, *_SPEED, *_SIZES, *_GENERATION, *ids]
    known = {*plain, *(f"{name}.{part}" for name in ids for part in _PARTS)}
    for threshold in thresholds:
        name = re.sub(r"\[[^\]]*\]", "", threshold.name)
        about = "speed" if name in _SPEED else name.split(".")[0]
        if about in unmeasured:
            raise ArgumentError(
                f"The condition {threshold.text!r} cannot be checked, since {about} is not "
                f"measured: {unmeasured[about]}."
            )
        if name not in known:
            raise UnknownNameError(
                unknown_name("measure", threshold.name, plain)
                + " Behind those of a task may stand .original, .change or .harm."
            )


def failures(thresholds: Sequence[Threshold], comparison: Comparison) -> list[str]:
    """The conditions that hold, in words; an unknown value counts as one for which it does."""
    values = _values(comparison)
    failed = []
    for threshold in thresholds:
        value = values.get(threshold.name)
        if value is None or _SIGNS[threshold.sign](value, threshold.limit):
            told = "not known" if value is None else f"{value:.4g}"
            failed.append(f"{threshold.text}: {threshold.name} is {told}")
    return failed


def _values(comparison: Comparison) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for row in comparison.measures:
        values |= {f"{row.id}.{part}": row[part].value for part in _PARTS}
        values[row.id] = row.pruned.value
    values |= {short: values.get(long) for short, long in _SHORT.items()}
    values |= {name: getattr(comparison.speed, name, None) for name in _SPEED}
    if comparison.generation is not None:
        values[_GENERATION[0]] = comparison.generation.until_parting.value
        same = comparison.generation.same
        values |= {f"generation.same_{each.tokens}": each.share.value for each in same}
    original, pruned = comparison.models.original, comparison.models.pruned
    values["parameters_ratio"] = pruned.parameters / original.parameters
    values["weight_bytes_ratio"] = pruned.weight_bytes / original.weight_bytes
    return values
