"""One greedy `generate` call, watched: when each token came, and what memory it took.

Axes: `B` batch, `S` tokens of the prompt.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...arch.limits import positions
from ...errors import ArgumentError, UnsupportedModelError
from ...hooks import evaluating
from .footprint import MemoryMeter, cache_bytes, devices_of

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Run:
    """What one call took.

    Attributes:
        seconds: of the whole call.
        token_times: seconds from its start to each new token of a row.
        tokens: new ones, over all rows.
        peak_bytes: most memory; None where it is not known.
        cache_bytes: of the cache at the end; None where the model returned none.
    """

    seconds: float
    token_times: tuple[float, ...]
    tokens: int
    peak_bytes: int | None
    cache_bytes: int | None


class _Stamps:
    """A streamer that notes when it is given something: first the prompt, then token by token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _tokens: object) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is held back."""


@contextmanager
def ready_to_generate(model: Any) -> Iterator[None]:
    """Eval mode, and transformers' defaults in the place of the model's own generation settings.

    `generate` fills what a call leaves open from the model's settings, so that beams, penalties,
    stop strings, forced tokens or an assistant would decide what is timed. The objects come back.
    """
    from transformers import GenerationConfig

    defaults: Any = GenerationConfig
    own = [(m, m.generation_config) for m in model.modules() if "generation_config" in vars(m)]
    with evaluating(model):
        try:
            for module, _ in own:
                module.generation_config = defaults()
            yield
        finally:
            for module, settings in own:
                module.generation_config = settings


def generate_once(model: Any, inputs: Inputs, count: int, meter: MemoryMeter) -> Run:
    """Generate exactly `count` tokens after each row; call it inside `ready_to_generate`.

    The time to the first token, and between tokens, is that of the tokens' arrival on the host,
    which waits for the device (on `mps`, transformers hands each token over one step late).

    Args:
        inputs: `input_ids` and `attention_mask`, (B, S).

    Raises:
        UnsupportedModelError: the model's own `generate` gave another number of tokens.
    """
    from transformers import GenerationConfig

    config: Any = GenerationConfig
    settings = config(
        max_new_tokens=count, do_sample=False, num_beams=1, return_dict_in_generate=True
    )  # no end-of-text token: nothing but the length ends a run
    devices, stamps = devices_of(model), _Stamps()
    meter.start()
    _synchronize(devices)
    started = time.perf_counter()
    output = model.generate(**inputs, generation_config=settings, streamer=stamps)
    _synchronize(devices)
    seconds = time.perf_counter() - started
    rows, length = inputs["input_ids"].shape
    generated = output.sequences.shape[1] - length
    if generated != count or len(stamps.times) != count + 1:
        raise UnsupportedModelError(
            f"generate of {type(model).__name__} gave {generated} tokens of {count}, one at a time "
            f"in {len(stamps.times) - 1} steps. Only models that generate token by token can be "
            "timed."
        )
    return Run(
        seconds,
        tuple(stamp - started for stamp in stamps.times[1:]),
        rows * generated,
        meter.read(),
        cache_bytes(output.past_key_values),
    )


def prompt_inputs(tokenizer: Any, prompt: str, models: Sequence[Any], count: int) -> Inputs:
    """A prompt as (1, S) ids and mask, checked against the models that are to continue it."""
    encoded = tokenizer(prompt, return_tensors="pt")
    ids: Tensor = encoded["input_ids"].long()
    if not ids.numel():
        raise ArgumentError(f"prompt={prompt!r} has no tokens. Give a text to continue.")
    for model in models:
        check_prompt(model, int(ids.max()), ids.shape[1], count)
    return {"input_ids": ids, "attention_mask": encoded.get("attention_mask", torch.ones_like(ids))}


def on_device(inputs: Inputs, model: Any) -> Inputs:
    """The same on the device of a model."""
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}


def check_prompt(model: Any, highest: int, length: int, count: int) -> None:
    """Refuse a prompt that a model does not know, or whose continuation it cannot count."""
    if not callable(getattr(model, "generate", None)):
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot generate. Load the checkpoint with its head, as a "
            "causal language model (AutoModelForCausalLM)."
        )
    known = vocabulary(model)
    if highest >= known:
        raise ArgumentError(
            f"The prompt holds token id {highest}; the model knows 0 to {known - 1}. Use the "
            "tokenizer that belongs to the model."
        )
    context = _context(model)
    if context is not None and length + count > context:
        room = context - length
        way = (
            f"Give max_new_tokens={room} or less, or a shorter prompt."
            if room > 0
            else "The prompt alone fills it: give a shorter one."
        )
        raise ArgumentError(
            f"A prompt of {length} tokens and max_new_tokens={count} make {length + count} tokens; "
            f"the model's context (max_position_embeddings) has {context}. {way}"
        )


def vocabulary(model: Any) -> int:
    """How many token ids a model knows."""
    return int(model.get_input_embeddings().weight.shape[0])


def _context(model: Any) -> int | None:
    """The tokens that a model was made for, and can count; None where it states no number."""
    stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = [n for n in (stated, positions(model)) if isinstance(n, int) and n > 0]
    return min(limits, default=None)


def _synchronize(devices: Sequence[torch.device]) -> None:
    for device in devices:
        torch.accelerator.synchronize(device)
