"""One model by itself: what it scores on a text and on tasks, each figure with its interval."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .agenda import Agenda, make_agenda
from .describing import described_model, described_task, described_text, protocol_of
from .likelihoods.answers import answers_of
from .likelihoods.score import check_batch_tokens
from .measuring.measures import Columns, Measure, estimate, groups, taken
from .rows import FEWEST, identifier
from .text.two_models import TEXT_MEASURES, on_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSION = 1  # of the JSON
_OF_TWO = ("kl", "agreement")  # say something of a second model only


def evaluate_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    tasks: Sequence[str] | None = None,
    data: str | Path | None = None,
    text: str | Path | None = None,
    preset: str = "quick",
    limit: int | None = None,
    seed: int = 0,
    context: int | None = None,
    stride: int | None = None,
    cache_dir: str | Path | None = None,
    name: str = "model",
    batch_tokens: int | None = None,
    command: str | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Measure a model on a text and on tasks, offline.

    The arguments are those of `compare_models`.

    Returns:
        Plain data for strict JSON: `measures` (each with `value`, `low` and `high`, the 95 %
        bootstrap interval over items; None with a `reason`), `tasks`, `text` and `protocol`.

    Raises:
        ArgumentError, UnknownNameError, DataError: refused before the model ran.
        ModelOutputError: the model gives numbers that are not finite.
    """
    agenda = make_agenda(
        tokenizer,
        model.config,
        tasks=tasks,
        data=data,
        text=text,
        preset=preset,
        limit=limit,
        seed=seed,
        context=context,
        stride=stride,
    )
    return evaluate_by(
        *(agenda, model, tokenizer),
        cache_dir=cache_dir,
        name=name,
        batch_tokens=batch_tokens,
        command=command,
        show_progress=show_progress,
    )


def evaluate_by(
    agenda: Agenda,
    model: Any,
    tokenizer: Any,
    *,
    cache_dir: str | Path | None,
    name: str,
    batch_tokens: int | None,
    command: str | None,
    show_progress: bool,
) -> dict[str, Any]:
    """Carry out an agenda; the arguments are those of `evaluate_model`."""
    check_batch_tokens(batch_tokens)
    answers = answers_of(
        *(model, tokenizer, agenda.tasks),
        name=name,
        cache_dir=cache_dir,
        batch_tokens=batch_tokens,
        show_progress=show_progress,
    )
    rows: list[dict[str, Any]] = []
    text = None
    if agenda.text is not None:
        found = on_text(
            *({name: model}, tokenizer, agenda.text.content),
            context=agenda.context,
            stride=agenda.stride,
            tokens=agenda.text.tokens,
            show_progress=show_progress,
        )
        own = [measure for measure in TEXT_MEASURES if measure.name not in _OF_TWO]
        columns = found.columns[0]
        rows = _rows("text", "quality", own, columns, range(len(columns["nll"])), agenda.seed)
        text = described_text(agenda.text, found)
    for each in agenda.tasks:
        task = each.task
        question = "fairness" if task.question == "fairness" else "quality"
        clusters = [item.cluster for item in each.items]
        columns = answers.columns[task.name]
        rows += _rows(task.name, question, task.measures, columns, clusters, agenda.seed)
    return {
        "version": VERSION,
        "kind": "evaluation",
        "model": described_model(model, name, answers.fingerprint),
        "protocol": protocol_of(agenda, command, model, models=1),
        "measures": rows,
        "tasks": [described_task(each, [answers]) for each in agenda.tasks],
        "text": text,
        "left_out": [{"section": each.task.name, "reason": each.reason} for each in agenda.missing],
    }


def _rows(
    task: str,
    question: str,
    measures: Sequence[Measure],
    columns: Columns,
    clusters: Sequence[Hashable],
    seed: int,
) -> list[dict[str, Any]]:
    found = []
    for measure in measures:
        for group, rows in groups(measure, columns).items():
            if group is not None and rows.sum() < FEWEST:
                continue
            labels = [label for label, taken_ in zip(clusters, rows, strict=True) if taken_]
            value = estimate(measure, taken(columns, rows), labels, seed=seed)
            found.append(
                {
                    "id": identifier(task, measure.name, group),
                    "task": task,
                    "measure": measure.name,
                    "group": group,
                    "question": question,
                    "help": measure.help,
                    "better": measure.better,
                    "scale": None if measure.scale is None else list(measure.scale),
                    "headline": measure.headline and group is None,
                    **asdict(value),
                    "chance": measure.chance,
                    "items": len(labels),
                    "clusters": len(set(labels)),
                }
            )
    return found
