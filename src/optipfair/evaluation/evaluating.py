"""One model by itself: what it scores on a text and on tasks; and what was measured, on what."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch
import transformers

from .._version import __version__
from ..distributed import world_size
from ..option_fields import checked_keywords, taking
from ..report.comparison import Evaluation, LeftOut, ModelFacts, Protocol, TaskFacts, Versions
from ..uncertainty import DRAWS, LEVEL
from .agenda import Agenda, make_agenda
from .evaluate_options import CHOICE, SCORING, EvaluateOptions
from .likelihoods.query_tokens import first_token
from .likelihoods.score_dtype import in_words, scored_in
from .rows import Measured, measured
from .speed.footprint import weight_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_TOLD = ("name", "question", "help", "source", "protocol")


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
        `measures` (each with `value`, `low` and `high`, the 95 % interval over items; None with a
        `reason`), `tasks`, `text` and `protocol`. It reads as a dict, and `to_dict()`
        gives plain data for strict JSON.

    Raises:
        ArgumentError, UnknownNameError, DataError: refused before the model ran.
        ModelOutputError: the model gives numbers that are not finite.
    """
    asked = EvaluateOptions(names=(name,), **checked_keywords(evaluate_model, options))
    return evaluate_by(make_agenda(tokenizer, asked, model.config), model, tokenizer)


def evaluate_by(agenda: Agenda, model: Any, tokenizer: Any) -> Evaluation:
    """Carry out an agenda, as `evaluate_model` does."""
    agenda = agenda.for_models([model])
    figures = measured(agenda, [model], tokenizer)
    (facts,) = model_facts(agenda, [model], figures)
    return Evaluation(
        version=1,
        kind="evaluation",
        model=facts,
        protocol=protocol_of(agenda, [model]),
        measures=figures.rows,
        tasks=task_facts(agenda, figures, tokenizer),
        text=figures.text,
        left_out=[
            LeftOut(name, reason)
            for name, reason in (*agenda.missing.items(), *agenda.unwritten.items())
        ],
    )


def model_facts(agenda: Agenda, models: Sequence[Any], figures: Measured) -> list[ModelFacts]:
    """The models: their names, kinds and sizes, and the digests of their weights."""
    return [
        ModelFacts(
            name=name,
            model_type=model.config.model_type,
            fingerprint=answers.fingerprint,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            weight_bytes=weight_bytes(model),
            dtype=str(model.get_input_embeddings().weight.dtype).removeprefix("torch."),
            layers=getattr(model.config.get_text_config(), "num_hidden_layers", None),
            device=str(model.get_input_embeddings().weight.device),
        )
        for name, model, answers in zip(agenda.options.names, models, figures.answers, strict=True)
    ]


def task_facts(agenda: Agenda, figures: Measured, tokenizer: Any) -> list[TaskFacts]:
    """The tasks, their data, and how many items of how many were used."""
    return [
        TaskFacts(
            **{name: getattr(each.task, name) for name in _TOLD},
            file=each.file,
            sha256=each.sha256,
            items_=len(each.items),
            available=each.available,
            left_out=dict(each.left_out),
            licence=each.licence,
            reused=sum(own.reused[each.task.name] for own in figures.answers),
            first_token=first_token(tokenizer, each.items[0].queries[0]),
        )
        for each in agenda.tasks
    ]


def protocol_of(agenda: Agenda, models: Sequence[Any]) -> Protocol:
    """How it was measured, when, with which versions, on what machine."""
    device = models[0].get_input_embeddings().weight.device
    asked = agenda.options
    return Protocol(
        preset=asked.preset,
        seed=asked.seed,
        limit=asked.limit,
        tokens=len(asked.names) * agenda.tokens,
        resamples=DRAWS,
        level=LEVEL,
        context=agenda.context,
        stride=agenda.stride,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=asked.command,
        versions=Versions(
            __version__, torch.__version__, transformers.__version__, platform.python_version()
        ),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        processes=world_size(),
        scored_in=in_words([scored_in(model, asked.score_products) for model in models]),
    )
