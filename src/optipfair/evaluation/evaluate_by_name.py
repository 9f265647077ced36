"""One or two models by name: check, load, evaluate or compare.

What can be known as wrong without the models is found before weights are loaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..devices import check_device, check_dtype
from ..distributed import is_first, together
from ..errors import ArgumentError, CheckpointError, UnknownNameError
from ..loading.models import check_readable, load_config, load_model
from ..loading.sources import DEMO, DEMO_NAME, Source, find_source
from ..loading.tokenizers import load_tokenizer
from ..registry import unknown_name
from ..report.comparison import Comparison, EvaluationWithHarness
from .agenda import Agenda, make_agenda
from .comparing import check_vocabularies, compare_by
from .evaluate_options import AS_LOADED, AUTO, EvaluateOptions
from .evaluating import evaluate_by
from .foreseen import foreseen
from .harness import find_tasks, harness_tasks
from .tasks import TASKS
from .tasks.choosing import find_data, missing_data
from .text.calibrated import marked, training_of
from .thresholds import check_thresholds, failures, read_thresholds

Say = Callable[[str], None]


@dataclass(frozen=True)
class CompareRun:
    """A comparison, the conditions that hold in words, and where the report is, if anywhere."""

    comparison: Comparison
    failures: list[str]
    folder: Path | None


def run_compare(
    original: str | Path,
    pruned: str | Path,
    *,
    options: EvaluateOptions,
    control: str | Path | None = None,
    fail_if: Iterable[str] = (),
    say: Say | None = None,
    **loading: Any,
) -> CompareRun:
    """Compare two models by name: folders, hub ids, `.gguf` files, or `demo`.

    `control` is a third model, as of `compare_models`; `fail_if` holds conditions, such as
    `perplexity_ratio>1.2`; `say` is told what is about to happen; `loading` are `device`, `dtype`
    and `trust_remote_code`, as of `load_model`.
    """
    conditions = read_thresholds(fail_if)
    options = _in_asked_dtype(options, **loading)
    sources, tokenizer, agenda = _prepared((original, pruned), options, **loading)
    third = [] if control is None else [_control(control, sources[0], **loading)]
    check_thresholds(conditions, agenda.measure_ids(), agenda.unmeasured())
    if say is not None:
        say(agenda.in_words())
    models = [load_model(source, **loading) for source in (*sources, *third)]
    _say_how_long(say, agenda, models, tokenizer)
    comparison = compare_by(agenda, models[0], models[1], tokenizer, *models[2:])
    folder = None if options.output_dir is None else Path(options.output_dir)
    return CompareRun(comparison, failures(conditions, comparison), folder)


def run_evaluate(
    model_path: str | Path,
    *,
    options: EvaluateOptions,
    backend: str = "auto",
    say: Say | None = None,
    **loading: Any,
) -> EvaluationWithHarness:
    """Evaluate one model by name, as `run_compare` compares two.

    Tasks that are asked for by name are measured by `backend`: `offline`, from the data folder;
    `lm-eval`, EleutherAI's harness; or `auto`, from the data folder where the data are there.
    """
    options = _in_asked_dtype(options, **loading)
    own, others = split_tasks(options.tasks, options.data, backend)
    if others and not _installed():
        unknown = [unknown_name("task", name, list(TASKS)) for name in others if name not in TASKS]
        raise ArgumentError(
            f"{', '.join(others)}: measured by lm-eval, which is not installed. Install it with: "
            "pip install 'optipfair[eval]', or name tasks whose data you have. "
            + (unknown[0] if unknown else f"Available: {', '.join(TASKS)}.")
        )
    sources, tokenizer, agenda = _prepared([model_path], replace(options, tasks=own), **loading)
    with together():
        manager = _harness_manager(others) if others and is_first() else None
    if say is not None:
        say(agenda.in_words())
    model = load_model(sources[0], **loading)
    _say_how_long(say, agenda, [model], tokenizer)
    evaluation = evaluate_by(agenda, model, tokenizer)
    harness = None
    if others:
        more: Any = {"limit": options.limit, "show_progress": options.show_progress}
        harness = harness_tasks(model, tokenizer, others, manager=manager, **more)
    return EvaluationWithHarness(**vars(evaluation), harness=harness)


def split_tasks(
    names: Sequence[str] | None, data: str | Path | None, backend: str
) -> tuple[list[str] | None, list[str]]:
    """Which tasks are ours to measure, and which the harness's."""
    if backend not in ("auto", "offline", "lm-eval"):
        raise ArgumentError(f"backend={backend!r} is unknown. Give auto, offline or lm-eval.")
    if names is None or backend == "offline":
        return None if names is None else list(names), []
    if backend == "lm-eval":
        return [], list(names)
    folder = find_data(data)
    ours = [name for name in names if name in TASKS]
    if folder is None and len(ours) == len(names) and not _installed():
        return ours, []  # says which data are missing
    own = [name for name in ours if missing_data(TASKS[name], folder) is None]
    return own, [name for name in names if name not in own]


def _say_how_long(say: Say | None, agenda: Agenda, models: Sequence[Any], tokenizer: Any) -> None:
    known = None if say is None else foreseen(agenda, models, tokenizer)
    if say is not None and known is not None:
        say(known.in_words())


def _in_asked_dtype(options: EvaluateOptions, dtype: str = "auto", **_: Any) -> EvaluateOptions:
    """Who asks for float32 weights by name gets float32 products too, unless others are named."""
    plain = dtype == AS_LOADED and options.products == AUTO
    return replace(options, products=AS_LOADED) if plain else options


def _harness_manager(names: Sequence[str]) -> Any:
    """lm-eval's manager of tasks; what it does not know may be one of ours without its data."""
    try:
        return find_tasks(names)
    except UnknownNameError as exc:
        ours = [f"{name} from {TASKS[name].path}" for name in names if name in TASKS]
        raise UnknownNameError(
            f"{exc} Measured from files of --data: {', '.join(ours or TASKS)}."
        ) from exc


def _installed() -> bool:
    return importlib.util.find_spec("lm_eval") is not None


def _prepared(
    paths: Sequence[str | Path],
    options: EvaluateOptions,
    device: str = "cpu",
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> tuple[list[Source], Any, Agenda]:
    """Where the models are, the tokenizer of them all, and the agenda; no weights are read."""
    check_device(device)
    check_dtype(dtype)
    sources = [find_source(path) for path in paths]
    names = tuple(DEMO_NAME if source.given == DEMO else source.given for source in sources)
    configs = []
    for source in sources:
        check_readable(source)
        configs.append(load_config(source, trust_remote_code=trust_remote_code))
    check_vocabularies(configs, names)
    tokenizer = _common_tokenizer(sources, names, trust_remote_code)
    known = configs[0].get_text_config().vocab_size
    if len(tokenizer) > known:
        raise ArgumentError(
            f"{names[0]}: the tokenizer has {len(tokenizer)} tokens and the model {known}. Put the "
            "model's own tokenizer into its folder."
        )
    agenda = make_agenda(tokenizer, replace(options, names=names), *configs)
    text, training = marked(agenda.text, sources), training_of(sources[-1])
    return sources, tokenizer, replace(agenda, text=text, training=training)


def _control(
    path: str | Path, original: Source, trust_remote_code: bool = False, **_: Any
) -> Source:
    """Where the control is, of the original's vocabulary and tokenizer."""
    sources = [original, find_source(path)]
    check_readable(sources[1])
    configs = [load_config(each, trust_remote_code=trust_remote_code) for each in sources]
    names = [each.given for each in sources]
    check_vocabularies(configs, names)
    _common_tokenizer(sources, names, trust_remote_code)
    return sources[1]


def _common_tokenizer(
    sources: Sequence[Source], names: Sequence[str], trust_remote_code: bool
) -> Any:
    """The tokenizer of all; a pruned model without one takes the original's."""
    first, *others = (load_tokenizer(each, trust_remote_code=trust_remote_code) for each in sources)
    if first is None:
        raise CheckpointError(
            f"{sources[0].given!r} has no tokenizer, and texts cannot be read without one. Put its "
            "tokenizer.json into the folder."
        )
    for other in others:
        if other is not None and first.get_vocab() != other.get_vocab():
            raise ArgumentError(
                f"The tokenizers of {names[0]} and {names[1]} hold different tokens. Only models "
                "of one tokenizer can be compared token by token."
            )
    return first
