"""What one model, or two on the same items, did on the text and on the tasks, as rows of figures.

Every measure has a row over all items and one over each of its groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..certainty.proportions import ALPHA
from ..certainty.sharing import sharing_of
from ..errors import ModelOutputError
from ..report.comparison import FigureOfOne, FigureOfTwo, FlippedItem, Flips, TextFacts
from ..tokenized import detokenized
from ..uncertainty import holm
from .agenda import Agenda, identifier
from .changes import compare
from .evaluate_options import EvaluateOptions
from .generation.continuations import continuations, ends_of
from .likelihoods.query_tokens import encode
from .likelihoods.score import score
from .likelihoods.score_cache import ScoreCache
from .likelihoods.score_dtype import scored_in
from .measures import Clusters, Columns, Measure, groups, taken
from .one_figure import estimate
from .tasks.choosing import Chosen
from .tasks.task import Items, Scores
from .text.two_models import OF_ONE, TEXT_MEASURES, on_text
from .turned_answers import answers_turned

SHOWN = 50  # flips listed of each task
FEWEST = 5  # items of a group, so that it has a row of its own


@dataclass(frozen=True)
class Answers:
    """A model's outcomes."""

    fingerprint: str  # of the model
    columns: Mapping[str, Columns]  # of each task, one row an item
    reused: Mapping[str, int]  # of each task, scores that were known from an earlier run


@dataclass(frozen=True)
class Measured:
    """What was found."""

    answers: list[Answers]  # of each model, to the tasks
    rows: list[Any]  # those of the text first; `FigureOfOne` for one model, `FigureOfTwo` for two
    text: TextFacts  # that was predicted


def measured(agenda: Agenda, models: Sequence[Any], tokenizer: Any) -> Measured:
    """Let one model, or two, answer the tasks and predict the text, and measure both."""
    asked = agenda.options
    answers = [
        _answers(model, tokenizer, agenda.tasks, asked, name)
        for model, name in zip(models, asked.names, strict=True)
    ]
    of_text, text = on_text(
        dict(zip(told_apart(asked.names), models, strict=True)),
        tokenizer,
        agenda.text,
        context=agenda.context,
        stride=agenda.stride,
        products=asked.score_products,
        show_progress=asked.show_progress,
    )
    own = OF_ONE if len(models) == 1 else TEXT_MEASURES
    rows = _rows("text", "quality", own, of_text, of_text[0]["drawn"].tolist(), asked.seed)
    for each in agenda.tasks:
        task = each.task
        question = "fairness" if task.question == "fairness" else "quality"
        columns = [given.columns[task.name] for given in answers]
        clusters = [item.shares for item in each.items]
        rows += _rows(task.name, question, task.measures, columns, clusters, asked.seed)
    return Measured(answers, rows, text)


def told_apart(names: Sequence[str]) -> Sequence[str]:
    """The names of the models, or what they are where both are called the same."""
    return names if len({*names}) == len(names) else ("original", "pruned")


def _answers(
    model: Any, tokenizer: Any, tasks: Sequence[Chosen], asked: EvaluateOptions, name: str
) -> Answers:
    """Let a model answer all items of all tasks, one task after the other."""
    columns: dict[str, Columns] = {}
    reused: dict[str, int] = {}
    products = scored_in(model, asked.score_products)
    with ScoreCache(asked.cache_dir, model) as cache:
        for each in tasks:
            before, task = cache.reused, each.task
            more = {"label": f"{name}: {task.name}", "show_progress": asked.show_progress}
            try:
                if task.writes:
                    answers: Any = _written(model, tokenizer, each.items, task.writes, **more)
                else:
                    more |= {"batch_tokens": asked.batch_tokens, "done": cache}
                    more |= {"products": products}
                    answers = _scored(model, tokenizer, each.items, **more)
            except ModelOutputError as exc:
                raise ModelOutputError(f"{name}, {task.name}: {exc}") from exc
            columns[task.name] = task.outcomes(each.items, answers)
            reused[task.name] = cache.reused - before
    return Answers(cache.fingerprint, columns, reused)


def _scored(model: Any, tokenizer: Any, items: Items, **more: Any) -> Scores:
    """The scores of each item's queries."""
    queries = [query for item in items for query in item.queries]
    rest = iter(score(model, tokenizer, queries, **more))
    return [[next(rest) for _ in item.queries] for item in items]


def _written(model: Any, tokenizer: Any, items: Items, count: int, **more: Any) -> list[str]:
    """What a model writes after the context of each item."""
    encoded = encode(tokenizer, [item.queries[0] for item in items])
    prompts = [each.ids[: each.start] for each in encoded]
    rows = continuations(model, prompts, count, ends_of(tokenizer, model), **more)
    return [detokenized(tokenizer, row[row >= 0]) for row in rows]


def _rows(
    task: str,
    question: str,
    measures: Sequence[Measure],
    columns: Sequence[Columns],
    clusters: Clusters,
    seed: int,
) -> list[FigureOfOne | FigureOfTwo]:
    """The rows of a task, from the columns of one model or of two, N rows each.

    Items that share a label in `clusters`, (N,), are not independent.
    """
    labels = np.empty(len(clusters), dtype=object)
    labels[:] = clusters
    rows = []
    for measure in measures:
        for group, chosen in groups(measure, columns[0]).items():
            if group is None or chosen.sum() >= FEWEST:
                own = [taken(each, chosen) for each in columns]
                about = {"task": task, "question": question, "group": group}
                rows.append(_row(about, measure, own, labels[chosen].tolist(), seed))
    return rows


def _row(
    about: dict[str, Any], measure: Measure, columns: Sequence[Columns], clusters: Any, seed: int
) -> FigureOfOne | FigureOfTwo:
    about |= {
        "id": identifier(about["task"], measure.name, about["group"]),
        "measure": measure.name,
        "help": measure.help,
        "better": measure.better,
        "scale": None if measure.scale is None else list(measure.scale),
        # Groups are looked at, the whole decides.
        "headline": measure.headline and about["group"] is None,
        "chance": measure.chance,
        "items_": len(clusters),
        "clusters": sharing_of(clusters).clusters(),
    }
    if len(columns) == 1:
        return FigureOfOne(**about, **estimate(measure, columns[0], clusters, seed=seed))
    both = compare(measure, columns[0], columns[1], clusters, seed=seed)
    # The largest harm that the data do not exclude: the upper end of its interval, at least 0.
    missed = None if both.harm.high is None else max(0.0, both.harm.high)
    return FigureOfTwo(
        **about, **vars(both), change_kind=measure.change, p_holm=None, could_have_missed=missed
    )


def flips_of(agenda: Agenda, figures: Measured) -> list[Flips]:
    """Of tasks with such answers, the items whose answer turned, with their texts."""
    first, second = figures.answers
    return [
        _flips(each, first.columns[each.task.name], second.columns[each.task.name])
        for each in agenda.tasks
        if each.task.answer is not None
    ]


def _flips(chosen: Chosen, original: Columns, pruned: Columns) -> Flips:
    task, items = chosen.task, chosen.items
    answer = task.answer or ""
    before, after = original[answer], pruned[answer]
    by = next((measure.by for measure in task.measures if measure.by), None)
    turned = [i for i in range(len(items)) if {before[i], after[i]} == {0.0, 1.0}]
    shown = [
        FlippedItem(
            items[i].id,
            None if by is None else str(original[by][i]),
            from_=task.answers[int(before[i])],
            to=task.answers[int(after[i])],
            texts=task.texts(items[i]),
        )
        for i in turned[:SHOWN]
    ]
    return Flips(
        task.name,
        **answers_turned(original, pruned, answer, [item.shares for item in items]),
        p_holm=None,
        answers=list(task.answers),
        items_=shown,
        shown=len(shown),
        total=len(turned),
    )


def corrected(
    rows: Sequence[FigureOfTwo], flips: Sequence[Flips]
) -> tuple[list[FigureOfTwo], list[Flips]]:
    """The same with p_holm and p_change_holm (Holm 1979), in two families.

    What decides verdicts is one: the headline measures. All else, groups, further measures and
    flips, is looked at, and is the other: its size must not hide what was asked. Headline tests
    that could not be below 0.05 after the correction, whatever the data, are told so and not
    counted (Tarone 1990).
    """
    headlines = _that_can_tell([row for row in rows if row.headline])
    others = [row for row in rows if not row.headline]
    looked_at = holm([*_ps(others), *(each.p for each in flips)])
    first = iter(_with_holm(headlines, holm(_ps(headlines))))
    second = iter(_with_holm(others, looked_at[: 2 * len(others)]))
    return (
        [next(first if row.headline else second) for row in rows],
        [
            replace(each, p_holm=p)
            for each, p in zip(flips, looked_at[2 * len(others) :], strict=True)
        ],
    )


def _ps(rows: Sequence[FigureOfTwo]) -> list[float | None]:
    """Both p-values of each row; those that can tell nothing are not counted."""
    return [p if row.untested is None else None for row in rows for p in (row.p, row.p_change)]


def _with_holm(rows: Sequence[FigureOfTwo], ps: Sequence[float | None]) -> list[FigureOfTwo]:
    pairs = zip(ps[::2], ps[1::2], strict=True)
    return [
        replace(row, p_holm=p, p_change_holm=p_change)
        for row, (p, p_change) in zip(rows, pairs, strict=True)
    ]


def _that_can_tell(rows: Sequence[FigureOfTwo]) -> list[FigureOfTwo]:
    """The same rows, with a reason in those whose test is too small for so many tests."""
    least = [row.least_p for row in rows for p in (row.p, row.p_change) if p is not None]
    count = next(
        (k for k in range(1, len(least) + 1) if sum((p or 0.0) * k < ALPHA for p in least) <= k), 1
    )
    return [
        replace(row, untested=f"{row.clusters} clusters of items are too few for {count} tests")
        if row.least_p is not None and row.least_p * count >= ALPHA
        else row
        for row in rows
    ]
