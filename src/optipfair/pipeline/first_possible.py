"""Which of several jobs is done: the first that the model, its tokenizer and the text allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

from ..checkpoint.stored_model import StoredModel
from ..distributed import is_first, together
from ..errors import DataError, UnsupportedModelError
from ..loading.models import load_config
from ..loading.sources import Source
from ..noted import warn
from ..pruning.request.pruning_request import PruningRequest
from .arguments import Job
from .converted import as_folder
from .data import Say
from .run import Run, decide_run


def first_possible(stack: ExitStack, jobs: Sequence[Job], say: Say) -> tuple[Job, Run | None]:
    """Decide the first of the jobs that can be; what kept those before it is warned of.

    The jobs are of one source, which is open as long as the stack is. Processes share the data of a
    job; without data the first process decides alone, and the others have no run.
    """
    folder = cache(partial(_folder, stack, jobs[0], say))
    why = None
    for job in jobs:
        try:
            run = _decide_together(job, folder, say)
        except (DataError, UnsupportedModelError) as exc:
            if job is jobs[-1]:
                raise
            why = exc
        else:
            if why is not None:
                warn(f"{_given_up(job, jobs[0])}: {why}")
            return job, run
    raise AssertionError("there is no job")


def _given_up(job: Job, wanted: Job) -> str:
    """What is done instead, in words."""
    if not job.data and not _names_layers(job):
        return "Calibration text cannot be used, so weights alone choose"
    method = _method(job)
    if method != _method(wanted):
        return f"Layers are chosen by {method!r}, one at a time"
    return "Nothing makes up for the layers that go"


def _method(job: Job) -> str | None:
    """How layers are chosen; None where they are named, or none goes."""
    depth = job.todo.depth if isinstance(job.todo, PruningRequest) else None
    return depth.method if depth is not None and depth.indices is None else None


def _names_layers(job: Job) -> bool:
    todo = job.todo
    if not isinstance(todo, PruningRequest) or todo.depth is None:
        return False
    return todo.kind == "DEPTH" and todo.depth.indices is not None


def _folder(stack: ExitStack, job: Job, say: Say) -> Source:
    """The source as a folder."""
    if job.source.kind == "gguf" and say is not None:
        say("The model is loaded into memory: a .gguf file is quantized.")
    return stack.enter_context(as_folder(job.source, job.options))


def _decide_together(job: Job, folder: Callable[[], Source], say: Say) -> Run | None:
    if job.data:
        return _decide(job, folder, say)
    with together():
        return _decide(job, folder, say) if is_first() else None


def _decide(job: Job, folder: Callable[[], Source], say: Say) -> Run:
    with job.data.reading():
        source = folder()
        config = load_config(source, trust_remote_code=job.options.trust_remote_code)
        stored = StoredModel(Path(source.location), config)
    return decide_run(stored, job.todo, job.options, job.data, say)
