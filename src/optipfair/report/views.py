"""The parts of a comparison as the page shows them: sentences and rows. It knows no HTML."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from .comparison import (
    Comparison,
    FigureOfTwo,
    FlippedItem,
    Generation,
    LeftOutWithWay,
    Speed,
    Spread,
    TaskFacts,
)
from .formats import NOTHING, memory, number, percent, plain, seconds, times

_WORD = re.compile(r"\s+|\w+|[^\w\s]")
_MOST = 2000  # words of a text; comparing takes the square of it

# What may be missing, and what to say where the comparison itself does not.
_SECTIONS = {
    "measures": ("nothing was measured", "Compare with a text or with at least one task."),
    "text": ("no text was scored", "Give a text to measure perplexity."),
    "tasks": ("no task was run", "Choose one or more tasks, and the folder with their data."),
    "flips": ("no task with right or wrong answers was run", "Choose a task that has answers."),
    "generation": (
        "how long both models write the same was not measured",
        "Turn on the measurement of generation.",
    ),
    "speed": ("speed and memory were not measured", "Turn on the measurement of speed."),
    "samples": ("no texts were generated", "Give prompts to continue."),
    "layers": ("the layers were not compared", "Turn on the layer profile of the bias module."),
    "ability and bias": (
        "it needs a measure of ability and one of bias that have a scale with ends",
        "Choose tasks of both kinds.",
    ),
}


class Run(NamedTuple):
    """A piece of text, and whether the other text has something else there."""

    text: str
    marked: bool


@dataclass(frozen=True)
class Pair:
    """One figure of both models: as text, and as per cent of the larger."""

    label: str
    original: str
    pruned: str
    original_bar: float | None
    pruned_bar: float | None
    note: str


def marked_texts(item: FlippedItem) -> list[list[Run]]:
    """The texts of an item whose answer changed, the first two marked where they differ."""
    texts = [[Run(text, False)] for text in item.texts]
    if len(texts) > 1:
        texts[:2] = marked_pair(*item.texts[:2])
    return texts


def speed_pairs(speed: Speed) -> list[Pair]:
    """Speed and memory of both models, one figure a row."""
    sides = speed.original, speed.pruned
    rate = [speed.avg_original_tokens_per_second, speed.avg_pruned_tokens_per_second]
    whole = [speed.avg_original_time, speed.avg_pruned_time]
    kinds = " / ".join(dict.fromkeys(side.peak_memory_kind for side in sides))
    peak, cache, weights = (
        [side[key] for side in sides]
        for key in ("peak_memory_bytes", "kv_cache_bytes", "weight_bytes")
    )
    return [
        _pair("Tokens per second", rate, number, "more is better"),
        _pair("Time for a prompt", whole, seconds, "mean; less is better"),
        _spread("Time to the first token", [side.time_to_first_token for side in sides]),
        _spread("Time per further token", [side.time_per_output_token for side in sides]),
        _pair("Peak memory", peak, memory, f"{kinds}; less is better"),
        _pair("Cache of keys and values", cache, memory, "less is better"),
        _pair("Weights", weights, memory, "less is better"),
    ]


def speedup(speed: Speed) -> str:
    """The speedup in one line."""
    ends = speed.speedup_interval
    between = f" (95 % interval {times(ends[0])} to {times(ends[1])})" if ends else ""
    return (
        f"{times(speed.speedup)} the speed of the original{between}, "
        f"over {speed.num_prompts:,} prompts."
    )


def same_text(generation: Generation) -> str:
    """How long both models write the same, in plain sentences."""
    shares = [
        f"the same first {each.tokens} tokens for {percent(each.share.value)}"
        for each in generation.same
    ]
    told = f"The two models write {' and '.join(shares)} of {generation.prompts:,} beginnings."
    half = generation.until_parting.value
    if half is None:
        return told
    if half >= generation.new_tokens:
        return f"{told} At least half of them do not part within {generation.new_tokens} tokens."
    if half < 1:
        return f"{told} Half of them part at the first token."
    return f"{told} Half of them part after {plain(half)} token{'s' * (half > 1)} or fewer."


def by_position(measures: Sequence[FigureOfTwo]) -> list[FigureOfTwo]:
    """How far the predictions are from the original's, for each group of positions."""
    return [
        each
        for each in measures
        if each.task == "text" and each.measure == "kl" and each.group is not None
    ]


def left_out(comparison: Comparison, *, plane: bool, profile: bool) -> list[LeftOutWithWay]:
    """What the comparison says is left out, and what else is not drawn."""
    drawn = comparison | {"ability and bias": plane, "layers": profile}
    named = {each.section for each in comparison.left_out}
    return comparison.left_out + [
        LeftOutWithWay(section, reason, how)
        for section, (reason, how) in _SECTIONS.items()
        if not drawn[section] and section not in named
    ]


def rows_left_out(task: TaskFacts) -> str:
    """The rows of a task's file that were not used, by reason."""
    counts = Counter[str](task.left_out).most_common()
    return "; ".join(f"{count:,}: {reason}" for reason, count in counts) or NOTHING


def _spread(label: str, sides: Sequence[Spread]) -> Pair:
    row = _pair(label, [side.median for side in sides], seconds, "median; less is better")
    first, second = (f" ({seconds(side.min)} to {seconds(side.max)})" for side in sides)
    return replace(row, original=row.original + first, pruned=row.pruned + second)


def _pair(
    label: str, values: Sequence[float | None], write: Callable[[Any], str], note: str
) -> Pair:
    largest = max(value or 0.0 for value in values)
    bars = [round(100 * v / largest, 1) if v is not None and largest > 0 else None for v in values]
    return Pair(label, write(values[0]), write(values[1]), bars[0], bars[1], note)


def marked_pair(first: str, second: str) -> tuple[list[Run], list[Run]]:
    """Two texts as runs, marked where they differ word by word; very long ones whole, unmarked."""
    words = [_WORD.findall(text) for text in (first, second)]
    if max(map(len, words)) > _MOST:
        return [Run(first, False)], [Run(second, False)]
    codes = SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes()
    left = [("".join(words[0][a:b]), kind != "equal") for kind, a, b, _, _ in codes]
    right = [("".join(words[1][c:d]), kind != "equal") for kind, _, _, c, d in codes]
    return _joined(left), _joined(right)


def _joined(pieces: list[tuple[str, bool]]) -> list[Run]:
    """Without empty runs, and marked ones together with the spaces between them."""
    runs: list[Run] = []
    for text, marked in pieces:
        if not text:
            continue
        if marked and len(runs) > 1 and runs[-2].marked and runs[-1].text.isspace():
            between = runs.pop().text
            runs[-1] = Run(runs[-1].text + between + text, True)
        else:
            runs.append(Run(text, marked))
    return runs
