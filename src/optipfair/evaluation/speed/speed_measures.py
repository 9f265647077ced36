"""Timed runs → figures: medians, spreads, and how much faster one model is than another.

Numbers in, plain data for JSON out; it knows no models.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...uncertainty import bootstrap_bounds
from .generation import Run

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
