"""How fast a model generates."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ArgumentError
from ..hooks import evaluating
from ..pruning.selection import whole_number

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def time_inference(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int = 100,
    num_runs: int = 5,
    warmup_runs: int = 2,
) -> dict[str, Any]:
    """Measure how long greedy generation takes.

    Exactly `max_new_tokens` are generated in each run (an end of text does not stop it), with
    sampling off, after `warmup_runs` that do not count. The device is synchronised around each.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompt: text to continue.
        max_new_tokens, num_runs: 1 or more.
        warmup_runs: 0 or more.

    Returns:
        `avg_time`, `median_time`, `min_time`, `max_time` (seconds per run), `tokens_per_second`
        (by the median), `num_runs`, `generated_tokens` (per run), `times` (all runs).

    Raises:
        ArgumentError: an empty prompt, or a number out of range.
    """
    _check("max_new_tokens", max_new_tokens, 1)
    _check("num_runs", num_runs, 1)
    _check("warmup_runs", warmup_runs, 0)
    if not isinstance(prompt, str) or not prompt:
        raise ArgumentError(f"prompt={prompt!r} is empty or no text. Give a text to continue.")
    live: Any = model
    encode: Any = tokenizer
    inputs = encode(prompt, return_tensors="pt").to(live.device)
    times: list[float] = []
    length = 0
    with evaluating(model):
        for run in range(warmup_runs + num_runs):
            _synchronize(live.device)
            started = time.perf_counter()
            output = live.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                min_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=encode.pad_token_id or encode.eos_token_id,
            )
            _synchronize(live.device)
            length = output.shape[1] - inputs["input_ids"].shape[1]
            if run >= warmup_runs:
                times.append(time.perf_counter() - started)
    median = statistics.median(times)
    return {
        "avg_time": statistics.fmean(times),
        "median_time": median,
        "min_time": min(times),
        "max_time": max(times),
        "tokens_per_second": length / median,
        "num_runs": num_runs,
        "generated_tokens": length,
        "times": times,
    }


def _check(name: str, value: object, least: int) -> None:
    number = whole_number(value)
    if number is None or number < least:
        raise ArgumentError(
            f"{name}={value!r} is not allowed. Give a whole number of {least} or more."
        )


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
