"""What was measured, on what and how, as plain data for reports."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch
import transformers

from .._version import __version__
from ..distributed import world_size
from ..uncertainty import DRAWS, LEVEL
from .agenda import Agenda, Text
from .likelihoods.answers import Answers
from .speed.footprint import weight_bytes
from .tasks.choosing import Chosen
from .text.two_models import TextColumns


def described_model(model: Any, name: str, sha256: str) -> dict[str, Any]:
    """A model: its name, kind and sizes, and the digest of its weights."""
    weights = model.get_input_embeddings().weight
    return {
        "name": name,
        "model_type": model.config.model_type,
        "fingerprint": sha256,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weight_bytes": weight_bytes(model),
        "dtype": str(weights.dtype).removeprefix("torch."),
        "layers": getattr(model.config.get_text_config(), "num_hidden_layers", None),
        "device": str(weights.device),
    }


def described_task(each: Chosen, answers: Sequence[Answers]) -> dict[str, Any]:
    """A task, its data, and how many items of how many were used."""
    task = each.task
    return {
        "name": task.name,
        "question": task.question,
        "help": task.help,
        "source": task.source,
        "protocol": task.protocol,
        "file": each.file,
        "sha256": each.sha256,
        "items": len(each.items),
        "available": each.available,
        "left_out": dict(each.left_out),
        "licence": each.licence,
        "reused": sum(found.reused[task.name] for found in answers),
    }


def described_text(text: Text, found: TextColumns) -> dict[str, Any]:
    """The text that perplexity was measured on."""
    return {
        "file": text.name,
        "sha256": text.sha256,
        "tokens": found.tokens,
        "words": found.words,
        "bytes": found.bytes,
    }


def protocol_of(agenda: Agenda, command: str | None, model: Any, *, models: int) -> dict[str, Any]:
    """How it was measured, when, with which versions, on what machine."""
    device = model.get_input_embeddings().weight.device
    return {
        "preset": agenda.preset,
        "seed": agenda.seed,
        "limit": agenda.limit,
        "tokens": models * agenda.tokens,
        "resamples": DRAWS,
        "level": LEVEL,
        "context": agenda.context,
        "stride": agenda.stride,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": {
            "optipfair": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "processes": world_size(),
    }
