"""One or two models by name: check, load, evaluate or compare.

What can be known as wrong without the models is found before weights are loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..distributed import is_first, together
from ..errors import ArgumentError, CheckpointError, UnknownNameError
from ..loading import (
    check_device,
    check_dtype,
    check_readable,
    load_config,
    load_model,
    load_tokenizer,
)
from ..registry import unknown_name
from ..report.comparison import Comparison, EvaluationWithHarness
from ..sources import DEMO, DEMO_NAME, Source, find_source
from .agenda import Agenda, fewest_positions, make_agenda
from .comparing import check_comparing, check_vocabularies, compare_by
from .evaluate_options import EvaluateOptions
from .evaluating import evaluate_by
from .harness import find_tasks, harness_tasks
from .likelihoods.score import check_batch_tokens
from .tasks import TASKS
from .tasks.choosing import find_data, missing_data
from .thresholds import Failure, check_thresholds, failures, read_thresholds

Say = Callable[[str], None]


@dataclass(frozen=True)
class CompareRun:
    """A comparison, the conditions that hold, and where the report is if one was written."""

    comparison: Comparison
    failures: tuple[Failure, ...]
    folder: Path | None


def run_compare(
    original: str | Path,
    pruned: str | Path,
    *,
    options: EvaluateOptions,
    fail_if: Iterable[str] = (),
    say: Say | None = None,
    **loading: Any,
) -> CompareRun:
    """Compare two models by name.

    Args:
        original, pruned: folders, hub ids, `.gguf` files, or `demo`.
        options: what to measure and how; the names are taken from the models.
        fail_if: conditions, such as `perplexity_ratio>1.2`.
        say: is told what is about to happen.
        loading: `device`, `dtype` and `trust_remote_code`, as of `load_model`.
    """
    conditions = read_thresholds(fail_if)
    check_comparing(options)
    both = _readable((original, pruned), **loading)
    options = replace(options, names=both.names)
    agenda = make_agenda(both.tokenizer, fewest_positions(*both.configs), options)
    untimed = {} if options.speed else {"speed": "--no-speed was given"}
    check_thresholds(conditions, agenda.measure_ids(), agenda.unmeasured() | untimed)
    if say is not None:
        say(in_words(agenda, models=2))
    first, second = both.load()
    comparison = compare_by(agenda, first, second, both.tokenizer)
    folder = None if options.output_dir is None else Path(options.output_dir)
    return CompareRun(comparison, tuple(failures(conditions, comparison)), folder)


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
    check_batch_tokens(options.batch_tokens)
    own, others = split_tasks(options.tasks, options.data, backend)
    if others and not _installed():
        unknown = [unknown_name("task", name, list(TASKS)) for name in others if name not in TASKS]
        raise ArgumentError(
            f"{', '.join(others)}: measured by lm-eval, which is not installed. Install it with: "
            "pip install 'optipfair[eval]', or name tasks whose data you have. "
            + (unknown[0] if unknown else f"Available: {', '.join(TASKS)}.")
        )
    single = _readable([model_path], **loading)
    tokenizer = single.tokenizer
    options = replace(options, tasks=own, names=single.names)
    agenda = make_agenda(tokenizer, single.configs[0], options)
    with together():
        manager = _harness_manager(others) if others and is_first() else None
    if say is not None:
        say(in_words(agenda, models=1))
    (model,) = single.load()
    own_tasks = evaluate_by(agenda, model, tokenizer)
    harness = None
    if others:
        harness = harness_tasks(
            model,
            tokenizer,
            others,
            limit=options.limit,
            manager=manager,
            show_progress=options.show_progress,
        )
    return EvaluationWithHarness(**vars(own_tasks), harness=harness)


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
    if folder is None and all(name in TASKS for name in names) and not _installed():
        return list(names), []  # says which data are missing
    ours = [name for name in names if name in list(TASKS)]
    own = [name for name in ours if missing_data(TASKS[name], folder) is None]
    return own, [name for name in names if name not in own]


def default_cache() -> Path:
    """Where scores are kept between runs: OPTIPFAIR_CACHE, else the user's folder for caches."""
    given = os.environ.get("OPTIPFAIR_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "optipfair"


def in_words(agenda: Agenda, *, models: int) -> str:
    """What is going to be measured, with the counts."""
    parts = [f"{agenda.text.tokens:,} tokens of {agenda.text.name}"]
    parts += [
        f"{each.task.name} {len(each.items):,} of {each.available:,}" for each in agenda.tasks
    ]
    total = f"{models * agenda.tokens:,} tokens to score"
    return (
        f"Preset {agenda.options.preset}, seed {agenda.options.seed}: {'; '.join(parts)}. {total}."
    )


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
    import importlib.util

    return importlib.util.find_spec("lm_eval") is not None


@dataclass(frozen=True)
class _Readable:
    """Models that can be read, without their weights, and the tokenizer of them all."""

    sources: Sequence[Source]
    names: tuple[str, ...]
    configs: Sequence[Any]
    tokenizer: Any
    loading: Mapping[str, Any]

    def load(self) -> list[Any]:
        return [load_model(source, **self.loading) for source in self.sources]


def _readable(
    paths: Sequence[str | Path],
    device: str = "cpu",
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> _Readable:
    check_device(device)
    check_dtype(dtype)
    sources = [find_source(path) for path in paths]
    names = tuple(DEMO_NAME if source.given == DEMO else source.given for source in sources)
    configs = [_config(source, trust_remote_code) for source in sources]
    if len(configs) > 1:
        check_vocabularies(configs[0], configs[1], names)
    tokenizer = _common_tokenizer(sources, names, trust_remote_code)
    known = configs[0].get_text_config().vocab_size
    if len(tokenizer) > known:
        raise ArgumentError(
            f"{names[0]}: the tokenizer has {len(tokenizer)} tokens and the model {known}. Put the "
            "model's own tokenizer into its folder."
        )
    loading = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    return _Readable(sources, names, configs, tokenizer, loading)


def _config(source: Source, trust_remote_code: bool) -> Any:
    check_readable(source)
    return load_config(source, trust_remote_code=trust_remote_code)


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
