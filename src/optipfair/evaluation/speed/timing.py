"""How fast a model generates, and how much faster one is than another.

Time to first token and time per output token come from the same `generate` call as the whole time,
so nothing runs twice. Where two models are compared, their runs take turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...arch.limits import vocabulary
from ...checking import check_count
from ...errors import ArgumentError
from .footprint import weight_bytes
from .speed_measures import (
    Protocol,
    check_prompt,
    compared,
    figures,
    prompt_inputs,
    random_prompts,
    table_row,
    take_turns,
)

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

    Exactly `max_new_tokens` are generated in each run: the model's own generation settings
    (sampling, beams, penalties, ends of text) are set aside, and the same objects are there again
    afterwards. The device is synchronised around each run, and runs to warm up do not count.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompt: text to continue.
        max_new_tokens, num_runs: 1 or more.
        warmup_runs: 0 or more.

    Returns:
        Seconds of the whole call (`avg_time`, `median_time`, `min_time`, `max_time`, `std_time`,
        and `times`, all runs); `tokens_per_second` (by the median), `num_runs`,
        `generated_tokens` (a run's, counted), `prompt_tokens`; `time_to_first_token` and
        `time_per_output_token` (the mean over a run's tokens after the first), each a dict with
        `median`, `min`, `max` and `runs` in seconds; `peak_memory_bytes` with `peak_memory_kind`
        (on a device what was allocated on it, on a CPU the resident set of the process),
        `kv_cache_bytes` (what the cache held at the end, with the states of recurrent layers;
        where None, `kv_cache_reason` says why) and `weight_bytes` (parameters and buffers, tied
        ones once).

    Raises:
        ArgumentError: an empty prompt, a number out of range, tokens that the model does not know,
            or more of them than its context (`max_position_embeddings`) holds.
        UnsupportedModelError: the model does not generate token by token.

    Example:
        >>> from optipfair.testing import byte_tokenizer, tiny_model
        >>> found = time_inference(tiny_model("llama"), byte_tokenizer(), "Once", max_new_tokens=8)
        >>> found["generated_tokens"], len(found["times"])
        (8, 5)
    """
    protocol = Protocol(max_new_tokens, num_runs, warmup_runs)
    _check_prompt("prompt", prompt)
    inputs = prompt_inputs(tokenizer, prompt, [model], max_new_tokens)
    runs = [run for (run,) in take_turns([model], [inputs], protocol)]
    return figures(runs, weight_bytes(model)) | {"prompt_tokens": inputs["input_ids"].shape[1]}


def compare_models_inference(
    original_model: PreTrainedModel,
    pruned_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int = 100,
    *,
    batch_sizes: Sequence[int] | None = None,
    prompt_lengths: Sequence[int] | None = None,
    num_runs: int = 5,
    warmup_runs: int = 1,
    seed: int = 0,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Measure how much faster one model generates than another.

    As `time_inference`, for each prompt by itself. The two models take turns, run by run, and which
    is first alternates. The two runs that follow each other on one prompt are a pair, and `speedup`
    is the median of the pairs' ratios: a machine that slows down slows both runs of a pair. So it
    may differ from the quotient of the average times, which one hiccup moves.

    Args:
        original_model, pruned_model: causal language models of one vocabulary.
        tokenizer: of both.
        prompts: one or more texts to continue, in a list.
        max_new_tokens: 1 or more, for each prompt.
        batch_sizes, prompt_lengths: lists of numbers; where one is given, `table` holds a row for
            each combination (see `speed_table`). The other is then batches of one, or the length
            of the longest prompt.
        num_runs: pairs for each prompt, 1 or more.
        warmup_runs: pairs before them, for each prompt, that do not count.
        seed: of the bootstrap, and of the table's tokens.
        show_progress: show a bar.

    Returns:
        `avg_original_time`, `avg_pruned_time` (mean seconds of a run);
        `avg_original_tokens_per_second`, `avg_pruned_tokens_per_second` (all tokens by all
        seconds); `speedup` (original / pruned time, more than 1: the pruned one is faster) with
        `speedup_interval` (95 % bootstrap over pairs; where None, `speedup_interval_reason` says
        why); `tps_improvement_percent` (100 (speedup - 1): both generate equally many tokens);
        `num_prompts`, `num_runs`, `prompt_tokens` (of each prompt); `original` and `pruned` (what
        `time_inference` gives, over all prompts, where the peak memory leaves out the other model's
        weights); `table`.

    Raises:
        ArgumentError: as for `time_inference`; no prompts, or a bare string; two models of
            different vocabulary or on different devices; an empty list of sizes.
        UnsupportedModelError: a model does not generate token by token.

    Example:
        >>> from optipfair.testing import byte_tokenizer, tiny_model
        >>> models = tiny_model("llama"), tiny_model("llama", num_hidden_layers=1)
        >>> found = compare_models_inference(*models, byte_tokenizer(), ["Once", "Twice"], 4)
        >>> found["num_prompts"], found["original"]["num_runs"]
        (2, 10)
    """
    protocol = Protocol(max_new_tokens, num_runs, warmup_runs, show_progress)
    texts = _checked_prompts(prompts)
    models = (original_model, pruned_model)
    _check_pair(*models)
    inputs = [prompt_inputs(tokenizer, text, models, max_new_tokens) for text in texts]
    lengths = [each["input_ids"].shape[1] for each in inputs]
    shapes: list[tuple[int, int]] = []
    if batch_sizes is not None or prompt_lengths is not None:
        sizes = [1] if batch_sizes is None else batch_sizes
        longest = [max(lengths)] if prompt_lengths is None else prompt_lengths
        shapes = _checked_shapes(models, sizes, longest, max_new_tokens)
    pairs = take_turns(models, inputs, protocol)
    original, pruned = (
        figures(runs, weight_bytes(model))
        for runs, model in zip(zip(*pairs, strict=True), models, strict=True)
    )
    return compared(pairs, original, pruned, seed) | {
        "num_prompts": len(texts),
        "num_runs": num_runs,
        "prompt_tokens": lengths,
        "table": _table(models, tokenizer, shapes, protocol, seed),
    }


def speed_table(
    original: PreTrainedModel,
    pruned: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_sizes: Sequence[int],
    prompt_lengths: Sequence[int],
    max_new_tokens: int = 100,
    num_runs: int = 5,
    warmup_runs: int = 1,
    seed: int = 0,
    show_progress: bool = False,
) -> list[dict[str, Any]]:
    """Compare two models by batch size and length of the prompt.

    The prompts are tokens drawn at random from the tokenizer's vocabulary, special ones left out,
    the same for both models. The models take turns as in `compare_models_inference`.

    Args:
        batch_sizes, prompt_lengths: lists of numbers, 1 or more each; a length is in tokens.

    Returns:
        A dict for each combination, batch sizes outside: `batch_size`, `prompt_tokens`,
        `original_tokens_per_second` and `pruned_tokens_per_second` (over the batch, by the median),
        `original_time_to_first_token` and `pruned_time_to_first_token` (median seconds),
        `speedup`, `speedup_interval`, `speedup_interval_reason`.

    Raises:
        ArgumentError: as for `compare_models_inference`.
        UnsupportedModelError: a model does not generate token by token.
    """
    protocol = Protocol(max_new_tokens, num_runs, warmup_runs, show_progress)
    models = (original, pruned)
    _check_pair(*models)
    shapes = _checked_shapes(models, batch_sizes, prompt_lengths, max_new_tokens)
    return _table(models, tokenizer, shapes, protocol, seed)


def _table(
    models: tuple[Any, Any],
    tokenizer: Any,
    shapes: Sequence[tuple[int, int]],
    protocol: Protocol,
    seed: int,
) -> list[dict[str, Any]]:
    rows = []
    for batch_size, length in shapes:
        prompts = [random_prompts(models[0], tokenizer, batch_size, length, seed)]
        pairs = take_turns(models, prompts, protocol)
        rows.append(table_row(batch_size, length, pairs, seed))
    return rows


def _checked_prompts(prompts: object) -> list[str]:
    if isinstance(prompts, str):
        raise ArgumentError(
            f"prompts={prompts!r} is a single text; each letter would be a prompt. Give a list: "
            f"prompts=[{prompts!r}]."
        )
    if not isinstance(prompts, Sequence) or not prompts:
        raise ArgumentError(f"prompts={prompts!r} holds no texts. Give a list of one or more.")
    for index, prompt in enumerate(prompts):
        _check_prompt(f"prompts[{index}]", prompt)
    return list(prompts)


def _check_prompt(name: str, prompt: object) -> None:
    if not isinstance(prompt, str) or not prompt:
        raise ArgumentError(f"{name}={prompt!r} is empty or no text. Give a text to continue.")


def _check_pair(original: Any, pruned: Any) -> None:
    sizes = [vocabulary(model) for model in (original, pruned)]
    if sizes[0] != sizes[1]:
        raise ArgumentError(
            f"The models have different vocabularies: {sizes[0]} and {sizes[1]} tokens. Give a "
            "model and what became of it by pruning."
        )
    kinds = [model.device.type for model in (original, pruned)]
    if kinds[0] != kinds[1]:
        raise ArgumentError(
            f"The models are on different devices, {kinds[0]} and {kinds[1]}, so the ratio would "
            "be that of the devices. Move both to one."
        )


def _checked_shapes(
    models: Sequence[Any], batch_sizes: object, prompt_lengths: object, count: int
) -> list[tuple[int, int]]:
    sizes = _checked_list("batch_sizes", batch_sizes)
    lengths = _checked_list("prompt_lengths", prompt_lengths)
    for model, length in itertools.product(models, lengths):
        check_prompt(model, 0, length, count)
    return list(itertools.product(sizes, lengths))


def _checked_list(name: str, values: object) -> list[int]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ArgumentError(f"{name}={values!r} is no list of numbers. Give one, such as [1, 8].")
    return [check_count(f"{name}[{index}]", value) for index, value in enumerate(values)]
