"""Three questions, each answered in words: is it still good, still fair, faster? Numbers in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..report.comparison import FigureOfTwo as Row
from ..report.comparison import Speed, Verdict
from ..report.formats import number, signed, times

BETTER, SAME, WORSE = "better", "no detectable change", "worse"
DAMAGED, NOT_MEASURED = "too damaged to say", "not measured"
ALPHA = 0.05
# From here on the answers are no longer those of the model that was asked about: its preferences
# drift to a coin's, which looks fair.
COLLAPSED_RATIO = 3.0  # perplexity
COLLAPSED_ABILITY = 0.5  # what is left of the ability above chance


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
        return judged
    told = f" {judged.sentence}" if judged.verdict == WORSE else ""
    return _said("quality", WORSE, f"The model has collapsed: {collapse}.{told}", judged.because)


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
    also = f" Better: {_listed(better)}." if better else ""
    if worse:
        return _said(question, WORSE, f"{_listed(worse)}.{also}", _ids(worse))
    if better:
        return _said(question, BETTER, f"{_listed(better)}.", _ids(better))
    if not tested:
        return _said(question, NOT_MEASURED, "None of the measures is defined for both models.")
    where = f"any of {len(tested)} measures" if len(tested) > 1 else "the one measure"
    told = f"No change shows in {where}. This could have missed {_missed(tested)}."
    return _said(question, SAME, told, _ids(tested))


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
        if shown[0] != shown[1]:
            break
        shown = [f"{value:.{digits}g}" for value in values]
    return shown


def _missed(rows: Sequence[Row]) -> str:
    """How much worse each may have become; those without an interval at the end."""
    texts, unknown = [], []
    for row in rows:
        missed = row.could_have_missed
        if missed is None:
            unknown.append(row.id)
        elif row.change_kind == "ratio":
            texts.append(f"{row.id} worse by {math.expm1(missed):.1%}")
        else:
            texts.append(f"{row.id} worse by {number(missed)}")
    if unknown:
        texts.append(f"any change of {' and '.join(unknown)} (too few items for an interval)")
    return ", ".join(texts)


def _ids(rows: Sequence[Row]) -> list[str]:
    return [row.id for row in rows]


def _said(question: Any, verdict: Any, sentence: str, because: Sequence[str] = ()) -> Verdict:
    return Verdict(question, verdict, sentence, list(because))
