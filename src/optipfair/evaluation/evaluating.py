"""One model by itself: what it scores on a text and on tasks, each figure with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..report.comparison import Evaluation, LeftOut
from .agenda import Agenda, Settings, make_agenda
from .describing import described_model, described_task, protocol_of
from .likelihoods.score import check_batch_tokens
from .rows import measured

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
) -> Evaluation:
    """Measure a model on a text and on tasks, offline.

    The arguments are those of `compare_models`.

    Returns:
        `measures` (each with `value`, `low` and `high`, the 95 % bootstrap interval over items;
        None with a `reason`), `tasks`, `text` and `protocol`. It reads as a dict, and `to_dict()`
        gives plain data for strict JSON.

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
    settings = Settings(
        names=(name,),
        cache_dir=cache_dir,
        batch_tokens=batch_tokens,
        command=command,
        show_progress=show_progress,
    )
    return evaluate_by(agenda, model, tokenizer, settings)


def evaluate_by(agenda: Agenda, model: Any, tokenizer: Any, settings: Settings) -> Evaluation:
    """Carry out an agenda, as `evaluate_model` does."""
    check_batch_tokens(settings.batch_tokens)
    figures = measured(agenda, [model], tokenizer, settings)
    return Evaluation(
        version=1,
        kind="evaluation",
        model=described_model(model, settings.names[0], figures.answers[0].fingerprint),
        protocol=protocol_of(agenda, settings, model),
        measures=figures.rows,
        tasks=[described_task(each, figures.answers) for each in agenda.tasks],
        text=figures.text,
        left_out=[LeftOut(each.task.name, each.reason) for each in agenda.missing],
    )
