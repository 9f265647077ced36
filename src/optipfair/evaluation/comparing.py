"""One comparison of two models: is the second still good, still fair, is it faster?

choose → score both → measure → time → judge → write; every step a value for the next.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..arch.limits import vocabulary
from ..checking import whole_number
from ..distributed import in_first
from ..errors import ArgumentError, DataError, UnsupportedModelError
from ..hooks import evaluating
from ..option_fields import checked_keywords, taking
from ..report.comparison import (
    Comparison,
    Layers,
    LeftOutWithWay,
    Sample,
    Speed,
    TimedProtocol,
    TwoModels,
)
from ..report.report_files import check_report_folder, write_comparison_report
from .agenda import Agenda, fewest_positions, make_agenda
from .describing import described_model, described_task, protocol_of
from .evaluate_options import PROMPTS, EvaluateOptions
from .layer_profile import layer_profile
from .likelihoods.score import check_batch_tokens
from .rows import corrected, flips_of, measured
from .speed.generation import on_device, prompt_inputs
from .speed.timing import compare_models_inference
from .tasks import TASKS
from .verdicts import verdicts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Models = tuple[Any, Any]  # the original, the pruned one

LIMITS = (
    "Likelihoods show which of two texts a model prefers, not what it does in use.",
    "Data sets of this kind are noisy, in English, and mostly about the United States. No single "
    "number proves that a model is fair.",
    "Intervals speak of items like these. They say nothing of other texts, and nothing of how the "
    "pruned model would be after another pruning.",
    "Times and memory are those of this machine on this day.",
)


@taking(EvaluateOptions)
def compare_models(
    original: PreTrainedModel,
    pruned: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    **options: Any,
) -> Comparison:
    """Compare two models on the same texts and tasks, and say in words what changed.

    Every figure has a 95 % bootstrap interval over items (drawn together where they share a target
    term or a template), every change a paired permutation test, corrected for the number of tests
    (Holm). See docs/evaluation.md for what each task measures.

    Args:
        original, pruned: causal language models of one vocabulary.
        tokenizer: of both.
        (the options)

    Returns:
        What was found: `verdicts`, `measures`, `flips`, `speed`, and what was done. It reads as a
        dict, and `to_dict()` gives plain data for strict JSON, as `report/comparison.schema.json`
        describes it.

    Raises:
        ArgumentError, UnknownNameError, DataError, OutputError: refused before a model ran.
        ModelOutputError: a model gives numbers that are not finite.
    """
    asked = EvaluateOptions(**checked_keywords(compare_models, options))
    _check_alike(original, pruned, tokenizer)
    config = fewest_positions(original.config, pruned.config)
    return compare_by(make_agenda(tokenizer, config, asked), original, pruned, tokenizer)


def compare_by(agenda: Agenda, original: Any, pruned: Any, tokenizer: Any) -> Comparison:
    """Carry out an agenda, as `compare_models` does."""
    models, asked = (original, pruned), agenda.options
    check_comparing(asked)
    for prompt in prompts_of(asked):
        prompt_inputs(tokenizer, prompt, models, asked.max_new_tokens)
    started = time.perf_counter()
    figures = measured(agenda, models, tokenizer)
    first, second = figures.answers
    flips = (
        flips_of(each, first.columns[each.task.name], second.columns[each.task.name])
        for each in agenda.tasks
    )
    rows, turned = corrected(figures.rows, [each for each in flips if each is not None])
    speed = _timed(models, tokenizer, asked)
    layers, refused = _profiles(models, tokenizer, asked)
    described = zip(models, asked.names, figures.answers, strict=True)
    comparison = Comparison(
        version=1,
        kind="comparison",
        models=TwoModels(
            *(described_model(model, name, own.fingerprint) for model, name, own in described)
        ),
        protocol=TimedProtocol(**vars(protocol_of(agenda, original)), seconds=0.0),
        verdicts=verdicts(rows, speed),
        measures=rows,
        flips=turned,
        tasks=[described_task(each, figures.answers) for each in agenda.tasks],
        text=figures.text,
        speed=speed,
        samples=_samples(models, tokenizer, asked),
        layers=layers,
        left_out=[*_missing(agenda), *refused],
        limits=list(LIMITS),
    )
    seconds = time.perf_counter() - started
    comparison = replace(comparison, protocol=replace(comparison.protocol, seconds=seconds))
    folder = asked.output_dir
    if folder is not None:
        in_first(lambda: write_comparison_report(comparison, folder))
    return comparison


def check_comparing(asked: EvaluateOptions) -> None:
    """Refuse what needs no model to be known as wrong, before hours of scoring."""
    tokens, runs, prompts = asked.max_new_tokens, asked.num_runs, prompts_of(asked)
    if (whole_number(tokens) or 0) < 2 or (whole_number(runs) or 0) < 1:
        raise ArgumentError(
            f"max_new_tokens={tokens!r} and num_runs={runs!r}: a time per token takes 2 new tokens "
            "and a run at least."
        )
    check_batch_tokens(asked.batch_tokens)
    if isinstance(prompts, str) or not prompts or not all(prompts):
        raise ArgumentError(f"prompts={prompts!r} must be a list of texts that are not empty.")
    if asked.output_dir is not None:
        check_report_folder(asked.output_dir)


def prompts_of(asked: EvaluateOptions) -> Sequence[str]:
    """The prompts that were given, else the usual ones."""
    return PROMPTS if asked.prompts is None else asked.prompts


def check_vocabularies(original: Any, pruned: Any, names: Sequence[str]) -> None:
    """Refuse configs of two vocabularies, whose models cannot be asked the same."""
    sizes = [config.get_text_config().vocab_size for config in (original, pruned)]
    if sizes[0] != sizes[1]:
        raise ArgumentError(
            f"{names[0]} has a vocabulary of {sizes[0]} tokens and {names[1]} of {sizes[1]}. Only "
            "models of one tokenizer can be compared token by token."
        )


def _check_alike(original: Any, pruned: Any, tokenizer: Any) -> None:
    if original is pruned:
        raise ArgumentError(
            "original and pruned are the same object, so nothing can differ. Keep a copy of the "
            "model before it is pruned, or prune with prune_model's copy."
        )
    check_vocabularies(original.config, pruned.config, ("original", "pruned"))
    held = min(vocabulary(original), vocabulary(pruned))
    if len(tokenizer) > held:
        raise ArgumentError(
            f"The tokenizer has {len(tokenizer)} tokens and the models have embeddings for {held}. "
            "Give the tokenizer that belongs to the models."
        )


def _timed(models: Models, tokenizer: Any, asked: EvaluateOptions) -> Speed | None:
    if not asked.speed:
        return None
    # The other processes wait: work beside it would be timed too.
    timed = in_first(
        lambda: compare_models_inference(
            *models,
            tokenizer,
            list(prompts_of(asked)),
            asked.max_new_tokens,
            num_runs=asked.num_runs,
            show_progress=asked.show_progress,
        )
    )
    return Speed.from_dict(timed)


def _profiles(
    models: Models, tokenizer: Any, asked: EvaluateOptions
) -> tuple[Layers | None, list[LeftOutWithWay]]:
    """The layer profiles; where a model's layers cannot be looked into, why."""
    if not asked.layers:
        return None, []
    options: Any = {"seed": asked.seed, "show_progress": asked.show_progress}
    try:
        return Layers(*(layer_profile(model, tokenizer, **options) for model in models)), []
    except (UnsupportedModelError, DataError) as exc:
        how = "Nothing: this is a limit of the model or of its tokenizer."
        return None, [LeftOutWithWay("layer profile", str(exc), how)]


def _missing(agenda: Agenda) -> list[LeftOutWithWay]:
    how = "Put {} into a folder and give it with --data; docs/evaluation.md says what it holds."
    missing = [
        LeftOutWithWay(name, reason, how.format(TASKS[name].path))
        for name, reason in agenda.missing.items()
    ]
    asked = {"speed": agenda.options.speed, "layer profile": agenda.options.layers}
    ways = {"speed": "Leave out --no-speed.", "layer profile": "Leave out --no-layers."}
    unasked = [name for name, wanted in asked.items() if not wanted]
    return missing + [LeftOutWithWay(name, "not asked for", ways[name]) for name in unasked]


def _samples(models: Models, tokenizer: Any, asked: EvaluateOptions) -> list[Sample]:
    """What both say to the prompts, the most likely token each time."""
    count = asked.max_new_tokens
    return [
        Sample(prompt, *(_said(model, tokenizer, prompt, count) for model in models))
        for prompt in prompts_of(asked)
    ]


def _said(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int) -> str:
    inputs = prompt_inputs(tokenizer, prompt, [model], max_new_tokens)
    padding = tokenizer.pad_token_id
    with evaluating(model):
        output = model.generate(
            **on_device(inputs, model),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id if padding is None else padding,
        )
    return str(
        tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    )
