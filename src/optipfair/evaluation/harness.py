"""Tasks of EleutherAI's lm-evaluation-harness, on the live model. The only module that knows it."""

from __future__ import annotations

import copy
import difflib
import io
import json
import logging
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checking import check_count
from ..distributed import in_first
from ..errors import ArgumentError, DataError, UnknownNameError
from ..hooks import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_KEPT = ("results", "groups", "versions", "configs", "n-shot", "n-samples", "config")
_BATCH_SIZE = 8
_RESAMPLES = 1000  # for the standard errors of figures that have no formula


def harness_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    include_path: str | Path | None = None,
    manager: Any = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Measure tasks, tags or groups of lm-eval, which fetches their data from the hub.

    Model and tokenizer are left as they were. `limit` takes the first items of each task,
    `include_path` is a folder with other task files, `manager` what `find_tasks` gave, so that it
    need not look again. Plain data is returned: `lm_eval_version`, `results` (task → figures with
    standard errors), and what lm-eval says of the tasks and of the run.
    """
    if isinstance(tasks, str) or not tasks:
        raise ArgumentError(f"tasks={tasks!r} is no list of names. Give one, as ['piqa'].")
    if limit is not None:
        check_count("limit", limit)
    names = list(tasks)

    def measured() -> dict[str, Any]:
        known = find_tasks(names, include_path) if manager is None else manager
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        with evaluating(model), _random_states_kept(), _printing(show_progress):
            own = copy.deepcopy(tokenizer)
            try:
                results = simple_evaluate(
                    model=HFLM(pretrained=model, tokenizer=own, batch_size=_BATCH_SIZE),
                    tasks=names,
                    task_manager=known,
                    limit=limit,
                    batch_size=_BATCH_SIZE,
                    bootstrap_iters=_RESAMPLES,
                    log_samples=False,
                )
            except OSError as exc:
                raise DataError(
                    f"lm-eval cannot fetch the data of {', '.join(names)}: {exc}. It needs the "
                    "hub, or the data in its cache."
                ) from exc
        values = {"lm_eval_version": version("lm_eval")}
        values |= {name: results[name] for name in _KEPT if name in results}
        plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
        return plain

    return in_first(measured)


def find_tasks(tasks: Sequence[str], include_path: str | Path | None = None) -> Any:
    """lm-eval's manager of tasks that knows these."""
    try:
        import lm_eval  # noqa: F401
    except ImportError as exc:
        raise ArgumentError(
            "Tasks of the harness need lm-eval. Install it with: pip install optipfair[eval]"
        ) from exc
    folder = None if include_path is None else str(include_path)
    with _random_states_kept(), _printing(False):
        from lm_eval.tasks import TaskManager

        if folder is not None:  # all tasks take long to find, those of a folder do not
            manager = TaskManager(include_path=folder, include_defaults=False)
            if set(tasks) <= set(manager.all_tasks):
                return manager
        manager = TaskManager(include_path=folder)
    for name in tasks:
        if name not in manager.all_tasks:
            close = difflib.get_close_matches(name, manager.all_tasks, n=5, cutoff=0.5)
            hint = f" Close ones: {', '.join(close)}." if close else ""
            raise UnknownNameError(
                f"lm-eval has no task {name!r}.{hint} `lm-eval ls tasks` lists them all."
            )
    return manager


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """lm-eval seeds the generators of Python and numpy, which belong to the caller."""
    ours, arrays = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(arrays)


@contextmanager
def _printing(shown: bool) -> Iterator[None]:
    """Let lm-eval print to standard error, or not at all; it is told apart from results so."""
    logger = logging.getLogger("lm_eval")
    level, place = logger.level, sys.stderr if shown else io.StringIO()
    logger.setLevel(level if shown else logging.ERROR)
    try:
        with redirect_stdout(place), redirect_stderr(place):
            yield
    finally:
        logger.setLevel(level)
