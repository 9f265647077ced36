"""What was asked of a recovery, checked before anything is read or changed."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from ..arch.limits import positions
from ..checking import check_flag, check_layer_count, check_seed, not_whole, whole_number
from ..errors import ArgumentError
from ..pruning.calibration.text_sources import check_source, sources_of
from .optimizers import check_optimizer
from .recover_options import OPTIMIZERS, SCHEDULES, TRAINED, RecoverOptions

_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMbBgG]?)")
_TIMES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
_LENGTH = 512
_FLAGS = ("dora", "gradient_checkpointing", "compile", "resume", "show_progress")
_WHOLE = ("batch_size", "accumulation_steps", "checks")


def check_recovery(asked: RecoverOptions) -> None:
    """Check what can be checked without a model.

    Raises:
        ArgumentError, UnknownNameError, DataError: what is wrong, and what is allowed.
    """
    for package in ("accelerate", *(["peft"] if asked.lora is not None else [])):
        if find_spec(package) is None:
            raise ArgumentError(
                f"Training{' adapters' * (package == 'peft')} needs the package {package}. Install "
                "it with: pip install 'optipfair[recover]'."
            )
    for source in sources_of(asked.data):
        check_source(source)
    tokens = token_count(asked.tokens)
    if asked.length is not None and (whole_number(asked.length) or 0) < 2:
        raise ArgumentError(
            f"length={asked.length!r} {not_whole(asked.length)} of 2 or more. Give the tokens of a "
            "sequence, for example 512."
        )
    if tokens < (asked.length or 0):
        raise ArgumentError(
            f"tokens={asked.tokens!r} is less than one sequence of {asked.length} tokens (length). "
            "Give more, for example 200k."
        )
    for name in _WHOLE:
        check_layer_count(name, getattr(asked, name))
    check_seed(asked.seed)
    TRAINED.canonical(asked.train)
    SCHEDULES.canonical(asked.schedule)
    check_optimizer(OPTIMIZERS.canonical(asked.optimizer), asked.lora)
    if asked.lora is not None:
        check_layer_count("lora", asked.lora)
    for name in _FLAGS:
        check_flag(name, getattr(asked, name), default=False)
    if asked.dora and asked.lora is None:
        raise ArgumentError("dora is a kind of adapters. Give their rank too, for example lora=16.")
    _check_numbers(asked)


def _check_numbers(asked: RecoverOptions) -> None:
    rate, weight = asked.learning_rate, asked.label_weight
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
        raise ArgumentError(
            f"learning_rate={rate!r} is no number above 0. Give one, for example 2e-4."
        )
    if isinstance(weight, bool) or not (isinstance(weight, int | float) and 0 <= weight < math.inf):
        raise ArgumentError(
            f"label_weight={weight!r} is no number of 0 or more. Give one, for example 4."
        )


def token_count(given: int | str) -> int:
    """A number of tokens, such as 200000, "200k" or "2M"."""
    found = _COUNT.fullmatch(str(given).strip()) if not isinstance(given, bool) else None
    count = round(float(found[1]) * _TIMES[found[2].lower()]) if found else 0
    if count < 1:
        raise ArgumentError(
            f"tokens={given!r} is no number of tokens. Give one such as 200000, 200k or 2M."
        )
    return count


def check_pair(model: Any, original: Any) -> None:
    """Refuse a model that cannot learn from an original with this config."""
    sizes = [each.get_text_config().vocab_size for each in (model.config, original)]
    if sizes[0] != sizes[1]:
        raise ArgumentError(
            f"The model has a vocabulary of {sizes[0]} tokens and its original of {sizes[1]}, so "
            "their logits cannot be compared. Give the model that it was pruned from."
        )
    narrow = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if narrow:
        named = str(next(iter(narrow))).removeprefix("torch.")
        raise ArgumentError(
            f"The model's weights are {named}, which is too coarse to add small steps to. Load it "
            'in float32: load_model(path, dtype="float32"). Products run in bfloat16 where the '
            "processor can."
        )


def with_length(asked: RecoverOptions, *models: Any) -> RecoverOptions:
    """The options with a length of sequences that all models have positions for.

    Raises:
        ArgumentError: the one that was asked for is longer.
    """
    known = [most for most in map(positions, models) if most is not None]
    most = min(known, default=None)
    if asked.length is None:
        asked = replace(asked, length=min(_LENGTH, most or _LENGTH, token_count(asked.tokens)))
    elif most is not None and asked.length > most:
        raise ArgumentError(
            f"length={asked.length} is more than the {most} positions of this "
            f"{models[0].config.model_type!r}. Give {most} or less."
        )
    return asked


def check_tokenizer(tokenizer: Any, data: str) -> None:
    """Refuse text without a tokenizer that reads it."""
    if tokenizer is None:
        raise ArgumentError(
            f"data={data!r} is text, which a tokenizer must read. Give the model's tokenizer "
            "(tokenizer=; beside the model's weights on the command line), or batches of token ids."
        )
