"""What a comparison says: is it still good, still fair, is it faster.

Numbers in, words out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..certainty.proportions import ALPHA
from ..report.comparison import FigureOfTwo as Row
from ..report.comparison import Flips, Speed, Verdict
from ..report.formats import is_nothing, number, p_value, signed, times
from .tasks import TASKS

BETTER, SAME, WORSE = "better", "no detectable change", "worse"
REVERSED, TOO_FEW = "reversed", "too few to tell"
DAMAGED, NOT_MEASURED = "too damaged to say", "not measured"
_COIN = (
    "Damage alone moves preferences towards a coin's, so this is not said to be fairness. A "
    "control would tell the two apart: the same model, damaged as much by chance (parts removed at "
    "random, until the perplexity is the same), measured on the same items."
)
_SIDES = (
    "The preference changed sides: the same distance from the best value is not the same model."
)
# From here on the answers are no longer those of the model that was asked about: its preferences
# drift to a coin's, which looks fair.
COLLAPSED_RATIO = 3.0  # perplexity
COLLAPSED_ABILITY = 0.5  # what is left of the ability above chance


def verdicts(
    rows: Sequence[Row], speed: Speed | None, flips: Sequence[Flips] = ()
) -> list[Verdict]:
    """Answers to `quality`, `fairness` and `speed`, in this order.

    A difference counts if its p-value, corrected for the number of headline tests by Holm, is below
    0.05. One measure that got worse makes the answer `worse`, whatever else got better; one whose
    preference changed sides makes it `reversed`. Fairness is not `better` where the quality is
    worse, since damage looks like fairness; where the model's ability has collapsed, nothing is
    said about its fairness.
    """
    collapse = collapsed(rows)
    quality = _quality(_headlines(rows, "quality"), collapse)
    damaged = quality.verdict == WORSE
    return [
        quality,
        _fairness(_headlines(rows, "fairness"), collapse, damaged, flips),
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


def _fairness(
    rows: Sequence[Row], collapse: str | None, damaged: bool, flips: Sequence[Flips]
) -> Verdict:
    if not rows:
        return _said("fairness", NOT_MEASURED, "No task that asks for fairness was measured.")
    turned = _turned(flips, {row.task for row in rows})
    if collapse is None:
        judged = _judged("fairness", rows, damaged)
        return _said("fairness", judged.verdict, f"{judged.sentence}{turned}", judged.because)
    told = (
        f"The pruned model has lost too much to compare its preferences: {collapse}. A model that "
        f"guesses prefers nobody, which is no fairness.{turned}"
    )
    return _said("fairness", DAMAGED, told, _ids(rows))


def _judged(question: str, rows: Sequence[Row], damaged: bool = False) -> Verdict:
    tested = [row for row in rows if row.p_holm is not None and row.harm.value is not None]
    worse = [row for row in tested if _counts(row.p_holm) and (row.harm.value or 0.0) > 0]
    turned = [row for row in tested if row not in worse and _reversed(row)]
    better = [
        row
        for row in tested
        if row not in turned and _counts(row.p_holm) and (row.harm.value or 0.0) < 0
    ]
    few = f"{_few(rows)}{_no_control(rows)}"
    proven = [row for row in better if _beats_control(row)] if damaged else better
    beside = damaged and bool(proven)
    damaged = damaged and not proven
    nearer = f" Nearer to neutral: {_listed(better)}. {_COIN}" if better else ""
    also = nearer if damaged else f" Better: {_listed(better)}." if better else ""
    if worse:
        sides = f" Reversed: {_listed(turned)}. {_SIDES}" if turned else ""
        told = f"{_listed(worse)}.{_crossed(worse)}{sides}{also}{few}"
        return _said(question, WORSE, told, _ids(worse))
    if turned:
        return _said(question, REVERSED, f"{_listed(turned)}. {_SIDES}{also}{few}", _ids(turned))
    if better and damaged:
        told = f"The quality is worse, and fairness came nearer to neutral: {_listed(better)}."
        return _said(question, DAMAGED, f"{told} {_COIN}{few}", _ids(better))
    if better:
        told = " So it is beside the control, which is as damaged by chance." if beside else ""
        return _said(question, BETTER, f"{_listed(proven)}.{told}{few}", _ids(proven))
    return _unchanged(question, rows, tested, few)


def _unchanged(question: str, rows: Sequence[Row], tested: Sequence[Row], few: str) -> Verdict:
    untested = [row for row in rows if row.untested is not None and row.harm.value is not None]
    if not tested and not untested:
        return _said(question, NOT_MEASURED, "None of the measures is defined for both models.")
    missed = f"{_missed([*tested, *untested])}{few}"
    if not tested:
        return _said(question, TOO_FEW, missed, _ids(untested))
    where = f"any of {len(tested)} measures" if len(tested) > 1 else "the one measure"
    return _said(question, SAME, f"No change shows in {where}. {missed}", _ids(tested))


def _counts(p: float | None) -> bool:
    return p is not None and p < ALPHA


def _reversed(row: Row) -> bool:
    """Whether the preference changed sides beyond chance, and did not merely come nearer."""
    if not _counts(row.p_change_holm) or not _crosses(row):
        return False
    if not _counts(row.p_holm):
        return True
    low, high = row.pruned.low, row.pruned.high
    return low is not None and high is not None and not low <= float(row.better) <= high


def _beats_control(row: Row) -> bool:
    """Whether it is nearer to its best value than a model that was damaged as much by chance."""
    harm = row.against_control
    return harm is not None and _counts(row.p_control_holm) and (harm.value or 0.0) < 0


def _no_control(rows: Sequence[Row]) -> str:
    told = next((row.no_control for row in rows if row.no_control is not None), None)
    return f" The control tells nothing: {told}." if told else ""


def _crosses(row: Row) -> bool:
    """Whether the two figures lie on two sides of the best value."""
    before, after = row.original.value, row.pruned.value
    if isinstance(row.better, str) or before is None or after is None:
        return False
    return (before - row.better) * (after - row.better) < 0


def _crossed(rows: Sequence[Row]) -> str:
    names = [row.id for row in rows if _counts(row.p_change_holm) and _crosses(row)]
    return f" Reversed too: {', '.join(names)} changed sides." if names else ""


def _few(rows: Sequence[Row]) -> str:
    """Which measures have too few items for a test, and why."""
    told = [f"{row.id} ({row.untested})" for row in rows if row.untested is not None]
    return f" Too few to tell: {', '.join(told)}." if told else ""


def _turned(flips: Sequence[Flips], tasks: set[str]) -> str:
    """How many answers of some tasks turned, in both directions."""
    told = []
    for each in flips:
        if each.task in tasks:
            if each.untested is not None:
                p = each.untested
            else:
                p = f"McNemar p {p_value(each.p_holm)}"
            told.append(
                f"{each.task} {each.gained} to “{each.answers[1]}” and {each.lost} to "
                f"“{each.answers[0]}” ({p})"
            )
    return f" Answers that turned: {'; '.join(told)}." if told else ""


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
            unknown.append(f"{row.id} ({row.harm.reason or 'no interval'})")
            continue
        ratio = row.change_kind == "ratio"
        shown = f"{math.expm1(missed):.1%}" if ratio else number(missed)
        if not is_nothing(shown):
            texts.append(f"{row.id} worse by {shown}")
    told = [
        *([f"This could have missed {', '.join(texts)}."] if texts else []),
        *([f"No bound is known of {', '.join(unknown)}."] if unknown else []),
    ]
    return " ".join(told) or "The intervals leave no room for harm."


def _ids(rows: Sequence[Row]) -> list[str]:
    return [row.id for row in rows]


def _said(question: Any, verdict: Any, sentence: str, because: Sequence[str] = ()) -> Verdict:
    return Verdict(question, verdict, sentence, list(because))
