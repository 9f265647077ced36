"""Greedy `generate` calls, watched: when each token came, and what memory the call took.

Axes: `B` batch, `S` tokens of the prompt.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...arch.limits import positions, vocabulary
from ...checking import check_count
from ...errors import ArgumentError, UnsupportedModelError
from ...hooks import evaluating
from ...progress import track
from .footprint import MemoryMeter, cache_bytes, devices_of, memory_meter

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Run:
    """What one call took."""

    seconds: float  # of the whole call
    token_times: tuple[float, ...]  # seconds from its start to each new token of a row
    tokens: int  # new ones, over all rows
    peak_bytes: int | None  # most memory; None where it is not known
    peak_kind: str  # what that is, in words
    cache_bytes: int | None  # of the cache at the end; None where the model returned none


@dataclass(frozen=True)
class Protocol:
    """How much is generated, and how often; as of `compare_models_inference`."""

    max_new_tokens: int
    num_runs: int
    warmup_runs: int
    show_progress: bool = False

    def __post_init__(self) -> None:
        check_count("max_new_tokens", self.max_new_tokens)
        check_count("num_runs", self.num_runs)
        check_count("warmup_runs", self.warmup_runs, 0)


def take_turns(
    models: Sequence[Any], prompts: Sequence[Inputs], protocol: Protocol
) -> list[tuple[Run, ...]]:
    """Runs of one model, or pairs of runs (of the first, of the second), by round, then by prompt.

    The runs of a pair follow each other, so that a machine that drifts does not decide between the
    models. Which is first alternates from prompt to prompt, and for each prompt from round to
    round.
    """
    meters = [memory_meter(m, beside=other) for m, other in zip(models, models[::-1], strict=True)]
    inputs = [[on_device(prompt, model) for model in models] for prompt in prompts]
    rounds = range(protocol.warmup_runs + protocol.num_runs)
    turns = list(itertools.product(rounds, range(len(prompts))))
    timed: list[tuple[Run, ...]] = []
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(_ready_to_generate(model))
        for number, prompt in track(turns, "timing", protocol.show_progress, unit="pair"):
            order = range(len(models))
            runs = {
                n: _generate(models[n], inputs[prompt][n], protocol.max_new_tokens, meters[n])
                for n in (order if (number + prompt) % 2 == 0 else reversed(order))
            }
            if number >= protocol.warmup_runs:
                timed.append(tuple(runs[n] for n in order))
    return timed


@contextmanager
def _ready_to_generate(model: Any) -> Iterator[None]:
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


def _generate(model: Any, inputs: Inputs, count: int, meter: MemoryMeter) -> Run:
    """Generate exactly `count` tokens after each row.

    The time to the first token, and between tokens, is that of the tokens' arrival on the host,
    which waits for the device (on `mps`, transformers hands each token over one step late).
    """
    from transformers import GenerationConfig

    config: Any = GenerationConfig
    settings = config(
        max_new_tokens=count, do_sample=False, num_beams=1, return_dict_in_generate=True
    )  # no end-of-text token: nothing but the length ends a run
    stamps: list[float] = []  # of what a streamer is given: first the prompt, then token by token
    streamer = SimpleNamespace(put=lambda _: stamps.append(time.perf_counter()), end=lambda: None)
    devices = devices_of(model)
    meter.start()
    _synchronize(devices)
    started = time.perf_counter()
    output = model.generate(**inputs, generation_config=settings, streamer=streamer)
    _synchronize(devices)
    seconds = time.perf_counter() - started
    rows, length = inputs["input_ids"].shape
    generated = output.sequences.shape[1] - length
    if generated != count or len(stamps) != count + 1:
        raise UnsupportedModelError(
            f"generate of {type(model).__name__} gave {generated} tokens of {count}, one at a time "
            f"in {len(stamps) - 1} steps. Only models that generate token by token can be "
            "timed."
        )
    times = tuple(stamp - started for stamp in stamps[1:])
    cache = cache_bytes(output.past_key_values)
    return Run(seconds, times, rows * generated, meter.read(), meter.kind, cache)


def prompt_inputs(tokenizer: Any, prompt: str, models: Sequence[Any], count: int) -> Inputs:
    """A prompt as (1, S) ids and mask, checked against the models that are to continue it."""
    encoded = tokenizer(prompt, return_tensors="pt")
    ids: Tensor = encoded["input_ids"].long()
    if not ids.numel():
        raise ArgumentError(f"prompt={prompt!r} has no tokens. Give a text to continue.")
    for model in models:
        check_prompt(model, int(ids.max()), ids.shape[1], count)
    return {"input_ids": ids, "attention_mask": encoded.get("attention_mask", torch.ones_like(ids))}


def random_prompts(model: Any, tokenizer: Any, rows: int, length: int, seed: int) -> Inputs:
    """Ids (B, S) drawn from the vocabulary without its special tokens, and a mask of ones."""
    special = set(tokenizer.all_special_ids)
    known = [n for n in range(min(len(tokenizer), vocabulary(model))) if n not in special]
    draws = torch.Generator().manual_seed(seed)
    ids = torch.tensor(known)[torch.randint(len(known), (rows, length), generator=draws)]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


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
    stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = [n for n in (stated, positions(model)) if isinstance(n, int) and n > 0]
    context = min(limits, default=length + count)
    if length + count > context:
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


def _synchronize(devices: Sequence[torch.device]) -> None:
    for device in devices:
        torch.accelerator.synchronize(device)
