"""One comparison of two models: is the second still good, still fair, is it faster?

choose → score both → measure → time → judge → write; every step a value for the next.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..arch.limits import vocabulary
from ..arch.view import describe
from ..bias.prompts.pairs import check_prompt_pairs
from ..bias.settings import Settings
from ..bias.study import carry_out, plan_study
from ..bias.study_comparison import excess_by_layer
from ..distributed import in_first
from ..errors import ArgumentError, DataError, UnsupportedModelError
from ..option_fields import checked_keywords, taking
from ..report.comparison import (
    Comparison,
    Generation,
    LayerExcess,
    Layers,
    LeftOutWithWay,
    Sample,
    Speed,
    TimedProtocol,
    TwoModels,
)
from ..report.report_files import write_comparison_report
from ..tokenized import detokenized
from ..uncertainty import bootstrap_bounds
from .agenda import Agenda, make_agenda, prompts_of
from .contrast_sizes import contrast_sizes
from .control import beside_control
from .evaluate_options import EvaluateOptions
from .evaluating import model_facts, protocol_of, task_facts
from .generation.continuations import continuations, ends_of
from .generation.same_text import same_text
from .rows import corrected, flips_of, measured, told_apart
from .speed.speed_measures import Inputs, prompt_inputs
from .speed.timing import compare_models_inference
from .tasks import TASKS
from .text.two_models import text_ids
from .verdicts import verdicts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Models = tuple[Any, Any]  # the original, the pruned one

COMPONENT = "mlp_output"  # that the layer profile looks into
CONTROLS = 8
_UNASKED, _LEAVE_OUT = "not asked for", "Leave out --no-{}."
_OWN_LIMIT = "Nothing: this is a limit of the model or of its tokenizer."
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
    *,
    control: PreTrainedModel | None = None,
    **options: Any,
) -> Comparison:
    """Compare two models on the same texts and tasks, and say in words what changed.

    Every figure has a 95 % interval that allows for what items share (a target term, a template,
    words), every change a paired test, corrected for the number of tests (Holm). See
    docs/evaluation.md for what each task measures.

    Args:
        original, pruned: causal language models of one vocabulary.
        tokenizer: of both.
        control: the original, damaged as much by chance (parts removed at random, until its
            perplexity is the pruned model's): where the quality is worse, fairness is called better
            only as far as the pruned model differs from it.
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
    if control is not None:
        _check_alike(pruned, control, tokenizer, ("pruned", "control"))
    agenda = make_agenda(tokenizer, asked, original.config, pruned.config)
    return compare_by(agenda, original, pruned, tokenizer, control)


def compare_by(
    agenda: Agenda, original: Any, pruned: Any, tokenizer: Any, control: Any = None
) -> Comparison:
    """Carry out an agenda, as `compare_models` does."""
    models, asked = (original, pruned), agenda.options
    agenda = agenda.for_models(models)
    count = asked.max_new_tokens
    texts = prompts_of(asked)
    prompts = [prompt_inputs(tokenizer, text, models, count) for text in texts]
    started = time.perf_counter()
    figures = measured(agenda, models, tokenizer)
    rows, flips = corrected(figures.rows, flips_of(agenda, figures))
    if control is not None:
        rows = beside_control(rows, agenda, figures, control, tokenizer)
    generation, unwritten = _generation(agenda, models, tokenizer)
    speed = _timed(models, tokenizer, asked)
    layers, refused = _profiles(models, tokenizer, asked)
    samples = [
        Sample(text, *(_said(model, tokenizer, inputs, count) for model in models))
        for text, inputs in zip(texts, prompts, strict=True)
    ]
    seconds = time.perf_counter() - started
    comparison = Comparison(
        version=1,
        kind="comparison",
        models=TwoModels(*model_facts(agenda, models, figures)),
        protocol=TimedProtocol(**vars(protocol_of(agenda, models)), seconds=seconds),
        verdicts=verdicts(rows, speed, flips),
        measures=rows,
        flips=flips,
        tasks=task_facts(agenda, figures, tokenizer),
        text=figures.text,
        speed=speed,
        samples=samples,
        layers=layers,
        left_out=[*_missing(agenda), *unwritten, *refused],
        limits=list(LIMITS),
        generation=generation,
        training=agenda.training,
        contrasts=contrast_sizes(models, tokenizer, asked.contrasts) if asked.contrasts else [],
    )
    folder = asked.output_dir
    if folder is not None:
        in_first(lambda: write_comparison_report(comparison, folder))
    return comparison


def check_vocabularies(configs: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse configs of two vocabularies, whose models cannot be asked the same."""
    sizes = [config.get_text_config().vocab_size for config in configs]
    if sizes[0] != sizes[-1]:
        raise ArgumentError(
            f"{names[0]} has a vocabulary of {sizes[0]} tokens and {names[1]} of {sizes[1]}. Only "
            "models of one tokenizer can be compared token by token."
        )


def _check_alike(
    original: Any, pruned: Any, tokenizer: Any, names: Sequence[str] = ("original", "pruned")
) -> None:
    if original is pruned:
        raise ArgumentError(
            f"{names[0]} and {names[1]} are the same object, so nothing can differ. Keep a copy "
            "of the model before it is pruned, or prune with prune_model's copy."
        )
    check_vocabularies([original.config, pruned.config], names)
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


def _generation(
    agenda: Agenda, models: Models, tokenizer: Any
) -> tuple[Generation | None, list[LeftOutWithWay]]:
    """How long both write the same; where a model cannot write, why."""
    asked = agenda.options
    if not asked.generation:
        return None, [LeftOutWithWay("generation", _UNASKED, _LEAVE_OUT.format("generation"))]
    named = dict(zip(told_apart(asked.names), models, strict=True))
    ids = text_ids(tokenizer, agenda.text).tolist()
    more: Any = {"seed": asked.seed, "show_progress": asked.show_progress}
    try:
        return same_text(named, tokenizer, ids, **more), []
    except UnsupportedModelError as exc:
        return None, [LeftOutWithWay("generation", str(exc).rstrip("."), _OWN_LIMIT)]


def _profiles(
    models: Models, tokenizer: Any, asked: EvaluateOptions
) -> tuple[Layers | None, list[LeftOutWithWay]]:
    """The layer profiles; where a model's layers cannot be looked into, why."""
    if not asked.layers:
        return None, []
    try:
        return Layers(*(_layer_profile(model, tokenizer, asked) for model in models)), []
    except (UnsupportedModelError, DataError) as exc:
        return None, [LeftOutWithWay("layer profile", str(exc), _OWN_LIMIT)]


def _layer_profile(model: Any, tokenizer: Any, asked: EvaluateOptions) -> list[LayerExcess]:
    """How far the default pairs exceed their neutral controls in each layer's MLP output.

    One row a layer: the mean over pairs of the relative difference beyond controls, with its 95 %
    bootstrap interval over pairs.
    """
    view = describe(model)
    count = len(view.layers)
    pairs = check_prompt_pairs(None)
    settings = Settings(controls=CONTROLS, seed=asked.seed)
    plan = plan_study(view, tokenizer, pairs, settings)
    study = carry_out(view, plan, [COMPONENT], range(count), show_progress=asked.show_progress)
    owned = [i for i in range(len(pairs)) if plan.owned[i]]
    layers, excess = excess_by_layer(study, owned, COMPONENT)
    bounds = bootstrap_bounds(excess, seed=asked.seed)
    return [
        LayerExcess(
            layer=layer,
            depth=layer / max(1, count - 1),
            excess=float(excess[:, place].mean()),
            low=None if bounds is None else float(bounds[0][place]),
            high=None if bounds is None else float(bounds[1][place]),
        )
        for place, layer in enumerate(layers)
    ]


def _missing(agenda: Agenda) -> list[LeftOutWithWay]:
    how = "Put {} into a folder and give it with --data; docs/evaluation.md says what it holds."
    missing = [
        LeftOutWithWay(name, reason, how.format(TASKS[name].path))
        for name, reason in agenda.missing.items()
    ]
    unwritten = _LEAVE_OUT.format("generation") if not agenda.options.generation else _OWN_LIMIT
    missing += [LeftOutWithWay(*each, unwritten) for each in agenda.unwritten.items()]
    if not agenda.options.speed:
        missing.append(LeftOutWithWay("speed", _UNASKED, _LEAVE_OUT.format("speed")))
    if not agenda.options.layers:
        missing.append(LeftOutWithWay("layer profile", _UNASKED, _LEAVE_OUT.format("layers")))
    return missing


def _said(model: Any, tokenizer: Any, inputs: Inputs, max_new_tokens: int) -> str:
    """What a model says to a prompt, the most likely token each time."""
    prompts = inputs["input_ids"].tolist()
    (new,) = continuations(model, prompts, max_new_tokens, ends_of(tokenizer, model))
    return detokenized(tokenizer, new[new >= 0], skip_special_tokens=True)
