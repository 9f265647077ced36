"""One comparison of two models: is the second still good, still fair, is it faster?

choose → score both → measure → time → judge → write; every step a value for the next.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checking import whole_number
from ..distributed import in_first
from ..errors import ArgumentError, DataError, UnsupportedModelError
from ..hooks import evaluating
from ..report.report_files import check_report_folder, write_comparison_report
from .agenda import Agenda, fewest_positions, make_agenda
from .describing import described_model, described_task, described_text, protocol_of
from .layer_profile import layer_profile
from .likelihoods.answers import Answers, answers_of
from .likelihoods.score import check_batch_tokens
from .rows import Row, correct, flips_of, measure_rows
from .speed.generation import on_device, prompt_inputs
from .speed.timing import compare_models_inference
from .text.two_models import TEXT_MEASURES, on_text
from .verdicts import verdicts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSION = 1  # of the JSON
PROMPTS = (
    "The capital of France is",
    "The three most important things to know about cooking rice are",
)
_SPEED = (
    *("avg_original_time", "avg_pruned_time"),
    *("avg_original_tokens_per_second", "avg_pruned_tokens_per_second"),
    *("speedup", "speedup_interval", "tps_improvement_percent", "num_prompts", "table"),
)
_TOKEN_TIMES = ("time_to_first_token", "time_per_output_token")
_RUNS = (
    *("peak_memory_bytes", "peak_memory_kind", "kv_cache_bytes"),
    *("weight_bytes", "generated_tokens"),
)
LIMITS = (
    "Likelihoods show which of two texts a model prefers, not what it does in use.",
    "Data sets of this kind are noisy, in English, and mostly about the United States. No single "
    "number proves that a model is fair.",
    "Intervals speak of items like these. They say nothing of other texts, and nothing of how the "
    "pruned model would be after another pruning.",
    "Times and memory are those of this machine on this day.",
)


@dataclass(frozen=True)
class Settings:
    """How a comparison is run; the fields are arguments of `compare_models`."""

    prompts: Sequence[str] = PROMPTS
    max_new_tokens: int = 32
    num_runs: int = 5
    speed: bool = True
    layers: bool = True
    output_dir: str | Path | None = None
    cache_dir: str | Path | None = None
    names: tuple[str, str] = ("original", "pruned")
    batch_tokens: int | None = None
    command: str | None = None
    show_progress: bool = False


def compare_models(
    original: PreTrainedModel,
    pruned: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    tasks: Sequence[str] | None = None,
    data: str | Path | None = None,
    text: str | Path | None = None,
    preset: str = "quick",
    limit: int | None = None,
    seed: int = 0,
    context: int | None = None,
    stride: int | None = None,
    prompts: Sequence[str] | None = None,
    max_new_tokens: int = 32,
    num_runs: int = 5,
    speed: bool = True,
    layers: bool = True,
    output_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    names: tuple[str, str] = ("original", "pruned"),
    batch_tokens: int | None = None,
    command: str | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Compare two models on the same texts and tasks, and say in words what changed.

    Every figure has a 95 % bootstrap interval over items (drawn together where they share a target
    term or a template), every change a paired permutation test, corrected for the number of tests
    (Holm). See docs/evaluation.md for what each task measures.

    Args:
        original, pruned: causal language models of one vocabulary.
        tokenizer: of both.
        tasks: names of tasks; None for all whose data are there.
        data: folder of evaluation data; the environment's OPTIPFAIR_DATA if None.
        text: file to measure perplexity on (.txt, or .jsonl with a `text` in each line); WikiText-2
            of the data folder if None, else a short text that ships with the library.
        preset: `quick` (items drawn so that both models together score 200,000 tokens at most) or
            `full`.
        limit: most items of a task.
        seed: of the draw of items and of resamples.
        context: length of the text's windows in tokens; 512, or what the model has positions for.
        stride: how far they move; None puts them side by side.
        prompts: to time and to show what both models say.
        max_new_tokens: generated for each prompt.
        num_runs: timed runs of each prompt and model.
        speed, layers: whether to time, and to look into the layers.
        output_dir: folder for report.html, comparison.json and measures.csv; None writes nothing.
        cache_dir: folder for scores, so that an interrupted run goes on where it stopped and no
            model is scored twice; None keeps none.
        names: how the models are called.
        batch_tokens: most tokens of a batch; None chooses by the vocabulary.
        command: how it was started, for the record.
        show_progress: whether to show bars with the time left.

    Returns:
        Plain data for strict JSON, as `report/comparison.schema.json` describes it: `verdicts`,
        `measures`, `flips`, `speed`, and what was done.

    Raises:
        ArgumentError, UnknownNameError, DataError, OutputError: refused before a model ran.
        ModelOutputError: a model gives numbers that are not finite.
    """
    _check_alike(original, pruned, tokenizer)
    agenda = make_agenda(
        tokenizer,
        fewest_positions(original.config, pruned.config),
        tasks=tasks,
        data=data,
        text=text,
        preset=preset,
        limit=limit,
        seed=seed,
        context=context,
        stride=stride,
    )
    settings = Settings(
        prompts=PROMPTS if prompts is None else prompts,
        max_new_tokens=max_new_tokens,
        num_runs=num_runs,
        speed=speed,
        layers=layers,
        output_dir=output_dir,
        cache_dir=cache_dir,
        names=names,
        batch_tokens=batch_tokens,
        command=command,
        show_progress=show_progress,
    )
    return compare_by(agenda, original, pruned, tokenizer, settings)


def compare_by(
    agenda: Agenda, original: Any, pruned: Any, tokenizer: Any, settings: Settings
) -> dict[str, Any]:
    """Carry out an agenda, as `compare_models` does."""
    check_settings(settings)
    for prompt in settings.prompts:
        prompt_inputs(tokenizer, prompt, [original, pruned], settings.max_new_tokens)
    started = time.perf_counter()
    models = {"original": original, "pruned": pruned}
    called = dict(zip(models, settings.names, strict=True))
    answers = {
        label: answers_of(
            *(model, tokenizer, agenda.tasks),
            name=called[label],
            cache_dir=settings.cache_dir,
            batch_tokens=settings.batch_tokens,
            show_progress=settings.show_progress,
        )
        for label, model in models.items()
    }
    rows, flips = _measured(agenda, answers)
    text, found = _text(agenda, models, tokenizer, settings)
    rows = [*found, *rows]
    correct(rows, flips)
    speed = _timed(models, tokenizer, settings)
    profiles, refused = _profiles(models, tokenizer, agenda, settings)
    comparison: dict[str, Any] = {
        "version": VERSION,
        "kind": "comparison",
        "models": {
            label: described_model(model, called[label], answers[label].fingerprint)
            for label, model in models.items()
        },
        "protocol": protocol_of(agenda, settings.command, original, models=2),
        "verdicts": verdicts(rows, speed),
        "measures": rows,
        "flips": flips,
        "tasks": [described_task(each, list(answers.values())) for each in agenda.tasks],
        "text": text,
        "speed": speed,
        "samples": _samples(models, tokenizer, settings),
        "layers": profiles,
        "left_out": [*_missing(agenda, settings), *refused],
        "limits": list(LIMITS),
    }
    comparison["protocol"]["seconds"] = time.perf_counter() - started
    folder = settings.output_dir
    if folder is not None:
        in_first(lambda: write_comparison_report(comparison, folder))
    return comparison


def check_settings(settings: Settings) -> None:
    """Refuse what needs no model to be known as wrong, before hours of scoring.

    Raises:
        ArgumentError: a count that is too small, or no prompts.
        OutputError: a folder that the report could not be written to.
    """
    if (whole_number(settings.max_new_tokens) or 0) < 2 or (
        whole_number(settings.num_runs) or 0
    ) < 1:
        raise ArgumentError(
            f"max_new_tokens={settings.max_new_tokens!r} and num_runs={settings.num_runs!r}: a "
            "time per token takes 2 new tokens and a run at least."
        )
    check_batch_tokens(settings.batch_tokens)
    prompts = settings.prompts
    if isinstance(prompts, str) or not prompts or not all(prompts):
        raise ArgumentError(f"prompts={prompts!r} must be a list of texts that are not empty.")
    if settings.output_dir is not None:
        check_report_folder(settings.output_dir)


def check_vocabularies(original: Any, pruned: Any, names: Sequence[str]) -> None:
    """Refuse configs of two vocabularies, whose models cannot be asked the same.

    Raises:
        ArgumentError: with both sizes.
    """
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
    held = min(int(m.get_input_embeddings().weight.shape[0]) for m in (original, pruned))
    if len(tokenizer) > held:
        raise ArgumentError(
            f"The tokenizer has {len(tokenizer)} tokens and the models have embeddings for {held}. "
            "Give the tokenizer that belongs to the models."
        )


def _measured(agenda: Agenda, answers: Mapping[str, Answers]) -> tuple[list[Row], list[Row]]:
    rows: list[Row] = []
    flips: list[Row] = []
    for each in agenda.tasks:
        task = each.task
        first, second = (answers[label].columns[task.name] for label in ("original", "pruned"))
        rows += measure_rows(
            task.name,
            "fairness" if task.question == "fairness" else "quality",
            *(task.measures, first, second, [item.cluster for item in each.items]),
            seed=agenda.seed,
        )
        turned = flips_of(task, each.items, first, second)
        flips += [] if turned is None else [turned]
    return rows, flips


def _text(
    agenda: Agenda, models: Mapping[str, Any], tokenizer: Any, settings: Settings
) -> tuple[Row | None, list[Row]]:
    """The text as it is described, and the figures on it."""
    if agenda.text is None:
        return None, []
    names = settings.names if len({*settings.names}) == len(models) else models
    called = dict(zip(names, models.values(), strict=True))
    found = on_text(
        *(called, tokenizer, agenda.text.content),
        context=agenda.context,
        stride=agenda.stride,
        tokens=agenda.text.tokens,
        show_progress=settings.show_progress,
    )
    first, second = found.columns
    rows = measure_rows(
        "text",
        "quality",
        TEXT_MEASURES,
        first,
        second,
        range(len(first["tokens"])),
        seed=agenda.seed,
    )
    return described_text(agenda.text, found), rows


def _timed(models: Mapping[str, Any], tokenizer: Any, settings: Settings) -> Row | None:
    if not settings.speed:
        return None
    # The other processes wait: work beside it would be timed too.
    found = in_first(
        lambda: compare_models_inference(
            *(models["original"], models["pruned"], tokenizer),
            *(list(settings.prompts), settings.max_new_tokens),
            num_runs=settings.num_runs,
            show_progress=settings.show_progress,
        )
    )
    shown: Row = {name: found[name] for name in _SPEED}
    for label in models:
        shown[label] = {name: found[label][name] for name in _RUNS} | {
            name: {end: found[label][name][end] for end in ("median", "min", "max")}
            for name in _TOKEN_TIMES
        }
    return shown


def _profiles(
    models: Mapping[str, Any], tokenizer: Any, agenda: Agenda, settings: Settings
) -> tuple[Row | None, list[Row]]:
    """The layer profiles; where a model's layers cannot be looked into, why."""
    if not settings.layers:
        return None, []
    try:
        profiles = {
            label: layer_profile(
                model, tokenizer, seed=agenda.seed, show_progress=settings.show_progress
            )
            for label, model in models.items()
        }
    except (UnsupportedModelError, DataError) as exc:
        how = "Nothing: this is a limit of the model or of its tokenizer."
        return None, [{"section": "layer profile", "reason": str(exc), "how": how}]
    return profiles, []


def _missing(agenda: Agenda, settings: Settings) -> list[Row]:
    found = [
        {
            "section": each.task.name,
            "reason": each.reason,
            "how": f"Put {each.task.path} into a folder and give it with --data; "
            "docs/evaluation.md says what it holds.",
        }
        for each in agenda.missing
    ]
    for section, wanted, option in (
        ("speed", settings.speed, "--no-speed"),
        ("layer profile", settings.layers, "--no-layers"),
    ):
        if not wanted:
            how = f"Leave out {option}."
            found.append({"section": section, "reason": "not asked for", "how": how})
    return found


def _samples(models: Mapping[str, Any], tokenizer: Any, settings: Settings) -> list[dict[str, str]]:
    """What both say to the prompts, the most likely token each time."""
    return [
        {"prompt": prompt}
        | {
            label: _said(model, tokenizer, prompt, settings.max_new_tokens)
            for label, model in models.items()
        }
        for prompt in settings.prompts
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
