"""What a comparison says: is it still good, still fair, faster; which conditions hold.

Numbers in, words out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any

from ..errors import ArgumentError, UnknownNameError
from ..registry import unknown_name
from ..report.comparison import Comparison, Speed, Verdict
from ..report.comparison import FigureOfTwo as Row
from ..report.formats import is_nothing, number, signed, times
from .generation.same_text import LENGTHS
from .tasks import TASKS

BETTER, SAME, WORSE = "better", "no detectable change", "worse"
DAMAGED, NOT_MEASURED = "too damaged to say", "not measured"
ALPHA = 0.05
# From here on the answers are no longer those of the model that was asked about: its preferences
# drift to a coin's, which looks fair.
COLLAPSED_RATIO = 3.0  # perplexity
COLLAPSED_ABILITY = 0.5  # what is left of the ability above chance

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


def verdicts(rows: Sequence[Row], speed: Speed | None) -> list[Verdict]:
    """Answers to `quality`, `fairness` and `speed`, in this order.

    A difference counts if its p-value, corrected for the number of headline tests by Holm, is below
    0.05. One measure that got worse makes the answer `worse`, whatever else got better. Where the
    model's ability has collapsed, nothing is said about its fairness.
    """
    collapse = collapsed(rows)
    return [
        _quality(_headlines(rows, "quality"), collapse),
        _fairness(_headlines(rows, "fairness"), collapse),
        _speed(speed),
    ]


def collapsed(rows: Sequence[Row]) -> str | None:
    """Why the pruned model's ability counts as collapsed, None where it does not."""
    ratio = next((r.change.value for r in rows if r.id == "text.perplexity"), None)
    if ratio is not None and ratio >= COLLAPSED_RATIO:
        return f"its perplexity is {ratio:.3g} times the original's"
    had = left = 0.0  # of what is answered better than chance
    for row in _headlines(rows, "quality"):
        before, after = row.original.value, row.pruned.value
        if row.chance is not None and before is not None and after is not None:
            had += max(0.0, before - row.chance)
            left += max(0.0, after - row.chance)
    if had > 0 and left < COLLAPSED_ABILITY * had:
        return f"{1 - left / had:.0%} of what it answered better than chance is lost"
    return None


def _headlines(rows: Sequence[Row], question: str) -> list[Row]:
    return [row for row in rows if row.question == question and row.headline]


def _quality(rows: Sequence[Row], collapse: str | None) -> Verdict:
    if not rows:
        told = "No text and no task that asks for ability was measured."
        return _said("quality", NOT_MEASURED, told)
    judged = _judged("quality", rows)
    if collapse is None:
        return _with_what_it_wrote(judged, rows)
    told = f" {judged.sentence}" if judged.verdict == WORSE else ""
    return _said("quality", WORSE, f"The model has collapsed: {collapse}.{told}", judged.because)


def _with_what_it_wrote(judged: Verdict, rows: Sequence[Row]) -> Verdict:
    """The same, and a word more where nothing is worse but what the model writes."""
    worse = {row.task for row in rows if row.id in judged.because and (row.harm.value or 0.0) > 0}
    others = {row.task for row in rows} - worse
    written = all(name in TASKS and TASKS[name].writes for name in worse)
    if judged.verdict != WORSE or not written or not others:
        return judged
    told = "No change for the worse shows in likelihoods: what the model writes is worse."
    return _said("quality", WORSE, f"{judged.sentence} {told}", judged.because)


def _fairness(rows: Sequence[Row], collapse: str | None) -> Verdict:
    if not rows:
        return _said("fairness", NOT_MEASURED, "No task that asks for fairness was measured.")
    if collapse is None:
        return _judged("fairness", rows)
    told = (
        f"The pruned model has lost too much to compare its preferences: {collapse}. A model that "
        "guesses prefers nobody, which is no fairness."
    )
    return _said("fairness", DAMAGED, told, _ids(rows))


def _judged(question: str, rows: Sequence[Row]) -> Verdict:
    tested = [row for row in rows if row.p_holm is not None and row.harm.value is not None]
    changed = [(row, row.harm.value or 0.0) for row in tested if (row.p_holm or 0.0) < ALPHA]
    worse = [row for row, harm in changed if harm > 0]
    better = [row for row, harm in changed if harm < 0]
    if worse:
        also = f" Better: {_listed(better)}." if better else ""
        return _said(question, WORSE, f"{_listed(worse)}.{also}", _ids(worse))
    if better:
        return _said(question, BETTER, f"{_listed(better)}.", _ids(better))
    if not tested:
        return _said(question, NOT_MEASURED, "None of the measures is defined for both models.")
    where = f"any of {len(tested)} measures" if len(tested) > 1 else "the one measure"
    missed = _missed(tested)
    more = (
        f"This could have missed {missed}." if missed else "The intervals leave no room for harm."
    )
    return _said(question, SAME, f"No change shows in {where}. {more}", _ids(tested))


def _speed(speed: Speed | None) -> Verdict:
    if speed is None:
        return _said("speed", NOT_MEASURED, "No generation was timed.")
    ratio, interval = speed.speedup, speed.speedup_interval
    told = f"{times(ratio)} the original's speed"
    if interval is None:
        return _said("speed", SAME, f"{told} in a single run, too few to tell.")
    low, high = interval
    told = f"{told}, 95 % interval {times(low)} to {times(high)}."
    if low <= 1 <= high:
        told = f"{told} This could have missed what lies in the interval."
        return _said("speed", SAME, told, ["speedup"])
    return _said("speed", BETTER if low > 1 else WORSE, told, ["speedup"])


def _listed(rows: Sequence[Row]) -> str:
    texts = []
    for row in rows:
        before, after = _apart(row.original.value, row.pruned.value)
        write = times if row.change_kind == "ratio" else signed
        texts.append(f"{row['id']} {before} → {after} ({write(row['change']['value'])})")
    return ", ".join(texts)


def _apart(*values: float | None) -> list[str]:
    """Two numbers, with more digits where they would look the same."""
    shown = [number(value) for value in values]
    for digits in range(4, 11):
        if shown[0] == shown[1]:
            shown = [f"{value:.{digits}g}" for value in values]
    return shown


def _missed(rows: Sequence[Row]) -> str:
    """How much worse each may have become, if at all; those without an interval at the end."""
    texts, unknown = [], []
    for row in rows:
        missed = row.could_have_missed
        if missed is None:
            unknown.append(row.id)
            continue
        ratio = row.change_kind == "ratio"
        shown = f"{math.expm1(missed):.1%}" if ratio else number(missed)
        if not is_nothing(shown):
            texts.append(f"{row.id} worse by {shown}")
    if unknown:
        texts.append(f"any change of {' and '.join(unknown)} (too few items for an interval)")
    return ", ".join(texts)


def _ids(rows: Sequence[Row]) -> list[str]:
    return [row.id for row in rows]


def _said(question: Any, verdict: Any, sentence: str, because: Sequence[str] = ()) -> Verdict:
    return Verdict(question, verdict, sentence, list(because))


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
