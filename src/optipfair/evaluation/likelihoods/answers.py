"""What a model answers to the items of the tasks: scores, then columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ModelOutputError
from ..evaluate_options import EvaluateOptions
from ..measuring.measures import Columns
from ..tasks.choosing import Chosen
from .score import score
from .score_cache import ScoreCache, fingerprint


@dataclass(frozen=True)
class Answers:
    """A model's outcomes.

    Attributes:
        fingerprint: of the model.
        columns: of each task, as it computes them, one row an item.
        reused: of each task, scores that were known from an earlier run.
    """

    fingerprint: str
    columns: Mapping[str, Columns]
    reused: Mapping[str, int]


def answers_of(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[Chosen],
    options: EvaluateOptions,
    name: str,
) -> Answers:
    """Score all items of all tasks, one task after the other."""
    columns: dict[str, Columns] = {}
    reused: dict[str, int] = {}
    folder = options.cache_dir
    kept = nullcontext() if folder is None else ScoreCache(Path(folder), model)
    with kept as cache:
        for each in tasks:
            before = 0 if cache is None else cache.reused
            try:
                scores = score(
                    model,
                    tokenizer,
                    [query for item in each.items for query in item.queries],
                    batch_tokens=options.batch_tokens,
                    label=f"{name}: {each.task.name}",
                    show_progress=options.show_progress,
                    done=cache,
                )
            except ModelOutputError as exc:
                raise ModelOutputError(f"{name}, {each.task.name}: {exc}") from exc
            rest = iter(scores)
            per_item = [[next(rest) for _ in item.queries] for item in each.items]
            columns[each.task.name] = each.task.outcomes(each.items, per_item)
            reused[each.task.name] = 0 if cache is None else cache.reused - before
        sha256 = fingerprint(model) if cache is None else cache.fingerprint
    return Answers(sha256, columns, reused)
