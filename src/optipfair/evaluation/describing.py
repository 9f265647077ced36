"""What was measured, on what and how, for reports."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch
import transformers

from .._version import __version__
from ..distributed import world_size
from ..report.comparison import ModelFacts, Protocol, TaskFacts, Versions
from ..uncertainty import DRAWS, LEVEL
from .agenda import Agenda
from .rows import Answers
from .speed.footprint import weight_bytes
from .tasks.choosing import Chosen


def described_model(model: Any, name: str, sha256: str) -> ModelFacts:
    """A model: its name, kind and sizes, and the digest of its weights."""
    weights = model.get_input_embeddings().weight
    return ModelFacts(
        name=name,
        model_type=model.config.model_type,
        fingerprint=sha256,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weight_bytes=weight_bytes(model),
        dtype=str(weights.dtype).removeprefix("torch."),
        layers=getattr(model.config.get_text_config(), "num_hidden_layers", None),
        device=str(weights.device),
    )


def described_task(each: Chosen, answers: Sequence[Answers]) -> TaskFacts:
    """A task, its data, and how many items of how many were used."""
    told = ("name", "question", "help", "source", "protocol")
    return TaskFacts(
        **{name: getattr(each.task, name) for name in told},
        file=each.file,
        sha256=each.sha256,
        items_=len(each.items),
        available=each.available,
        left_out=dict(each.left_out),
        licence=each.licence,
        reused=sum(own.reused[each.task.name] for own in answers),
    )


def protocol_of(agenda: Agenda, model: Any) -> Protocol:
    """How it was measured, when, with which versions, on what machine."""
    device = model.get_input_embeddings().weight.device
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
    )
