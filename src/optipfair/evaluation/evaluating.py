"""One model by itself: what it scores on a text and on tasks, each figure with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..option_fields import checked_keywords, taking
from ..report.comparison import Evaluation, LeftOut
from .agenda import Agenda, make_agenda
from .describing import described_model, described_task, protocol_of
from .evaluate_options import CHOICE, SCORING, EvaluateOptions
from .likelihoods.score import check_batch_tokens
from .rows import measured

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@taking(EvaluateOptions, CHOICE, SCORING)
def evaluate_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str = "model",
    **options: Any,
) -> Evaluation:
    """Measure a model on a text and on tasks, offline.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        name: how the model is called.
        (the options)

    Returns:
        `measures` (each with `value`, `low` and `high`, the 95 % bootstrap interval over items;
        None with a `reason`), `tasks`, `text` and `protocol`. It reads as a dict, and `to_dict()`
        gives plain data for strict JSON.

    Raises:
        ArgumentError, UnknownNameError, DataError: refused before the model ran.
        ModelOutputError: the model gives numbers that are not finite.
    """
    asked = EvaluateOptions(names=(name,), **checked_keywords(evaluate_model, options))
    return evaluate_by(make_agenda(tokenizer, model.config, asked), model, tokenizer)


def evaluate_by(agenda: Agenda, model: Any, tokenizer: Any) -> Evaluation:
    """Carry out an agenda, as `evaluate_model` does."""
    check_batch_tokens(agenda.options.batch_tokens)
    figures = measured(agenda, [model], tokenizer)
    return Evaluation(
        version=1,
        kind="evaluation",
        model=described_model(model, agenda.options.names[0], figures.answers[0].fingerprint),
        protocol=protocol_of(agenda, model),
        measures=figures.rows,
        tasks=[described_task(each, figures.answers) for each in agenda.tasks],
        text=figures.text,
        left_out=[LeftOut(name, reason) for name, reason in agenda.missing.items()],
    )
