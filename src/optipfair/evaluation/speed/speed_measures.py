"""What speed is measured by: greedy `generate` calls, watched token by token, and their memory.

Then timed runs become figures: medians, spreads, and how much faster one model is than another.

Axes: `B` batch, `S` tokens of the prompt.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...arch.limits import positions, vocabulary
from ...checking import check_count
from ...errors import ArgumentError, UnsupportedModelError
from ...hooks import ready_to_generate
from ...progress import track
from ...tokenized import tokenized
from ...uncertainty import bootstrap_bounds
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
            stack.enter_context(ready_to_generate(model))
        for number, prompt in track(turns, "timing", protocol.show_progress, unit="pair"):
            order = range(len(models))
            runs = {
                n: _generate(models[n], inputs[prompt][n], protocol.max_new_tokens, meters[n])
                for n in (order if (number + prompt) % 2 == 0 else reversed(order))
            }
            if number >= protocol.warmup_runs:
                timed.append(tuple(runs[n] for n in order))
    return timed


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
    encoded = tokenized(tokenizer, prompt, return_tensors="pt")
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


_ONE_TOKEN = "a single token has no time between tokens; ask for two or more"
_NO_CACHE = "the model returned no cache that holds tensors"
_ONE_PAIR = "one pair of runs shows no spread; ask for more runs"


def figures(runs: Sequence[Run], weights: int) -> dict[str, Any]:
    """The figures of one model, as `time_inference` documents them, `prompt_tokens` left out."""
    times = [run.seconds for run in runs]
    median = statistics.median(times)
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    caches = [run.cache_bytes for run in runs if run.cache_bytes is not None]
    tokens = [run.token_times for run in runs if len(run.token_times) > 1]
    between = [(times[-1] - times[0]) / (len(times) - 1) for times in tokens]
    return {
        "avg_time": statistics.fmean(times),
        "median_time": median,
        "min_time": min(times),
        "max_time": max(times),
        "std_time": statistics.stdev(times) if len(times) > 1 else None,
        "times": times,
        "tokens_per_second": runs[0].tokens / median,
        "num_runs": len(runs),
        "generated_tokens": runs[0].tokens,
        "time_to_first_token": _spread([run.token_times[0] for run in runs]),
        "time_per_output_token": _spread(between) | {"reason": None if between else _ONE_TOKEN},
        "peak_memory_bytes": max(peaks, default=None),
        "peak_memory_kind": runs[0].peak_kind,
        "kv_cache_bytes": max(caches, default=None),
        "kv_cache_reason": None if caches else _NO_CACHE,
        "weight_bytes": weights,
    }


def speedup(pairs: Sequence[tuple[Run, ...]], seed: int) -> dict[str, Any]:
    """The median over pairs of (first model's time / second model's time), with its interval.

    The two runs of a pair follow each other, so what slows the machine down slows both, and a
    median does not mind a single hiccup. The interval is a percentile bootstrap of the median of
    the logarithms, pairs drawn with replacement (`bootstrap_bounds`).
    """
    logs = [math.log(first.seconds / second.seconds) for first, second in pairs]
    bounds = bootstrap_bounds(logs, np.median, seed=seed)
    return {
        "speedup": math.exp(statistics.median(logs)),
        "speedup_interval": None if bounds is None else [math.exp(end) for end in bounds],
        "speedup_interval_reason": _ONE_PAIR if bounds is None else None,
    }


def compared(
    pairs: Sequence[tuple[Run, ...]], original: dict[str, Any], pruned: dict[str, Any], seed: int
) -> dict[str, Any]:
    """The figures of two models side by side, as `compare_models_inference` documents them."""
    ratio = speedup(pairs, seed)
    return {
        "avg_original_time": original["avg_time"],
        "avg_pruned_time": pruned["avg_time"],
        "avg_original_tokens_per_second": original["generated_tokens"] / original["avg_time"],
        "avg_pruned_tokens_per_second": pruned["generated_tokens"] / pruned["avg_time"],
        **ratio,
        "tps_improvement_percent": 100 * (ratio["speedup"] - 1),
        "original": original,
        "pruned": pruned,
    }


def table_row(
    batch_size: int, prompt_tokens: int, pairs: Sequence[tuple[Run, ...]], seed: int
) -> dict[str, Any]:
    """One row of a table: tokens per second and first tokens by their medians, and the ratio."""
    row: dict[str, Any] = {"batch_size": batch_size, "prompt_tokens": prompt_tokens}
    for name, runs in zip(("original", "pruned"), zip(*pairs, strict=True), strict=True):
        median = statistics.median(run.seconds for run in runs)
        row[f"{name}_tokens_per_second"] = runs[0].tokens / median
        row[f"{name}_time_to_first_token"] = statistics.median(r.token_times[0] for r in runs)
    return row | speedup(pairs, seed)


def _spread(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values) if values else None,
        "min": min(values, default=None),
        "max": max(values, default=None),
        "runs": values,
    }
