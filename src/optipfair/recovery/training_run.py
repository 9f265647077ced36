"""A training from the first judgement to the last, with rows of tokens and a teacher."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..arch.fast_dtype import has_units
from ..arch.limits import check_sequences
from ..batches import Batch
from ..devices import check_device
from ..distributed import from_first, is_first, together
from ..files.disk_room import check_room, disk_errors
from ..loading.quiet import no_messages
from ..progress import duration, meter
from .recover_options import RecoverOptions
from .recovery_result import Judged, Recovery
from .shards import agree
from .student import learning
from .teachers import Teacher
from .trained_parts import Trained, checkpoint_bytes, trained
from .trainer import (
    CROSS_ENTROPY,
    DIVERGENCE,
    OBJECTIVE,
    RecoveryTrainer,
    last_checkpoint,
    trainer_of,
)
from .training_rows import TrainingRows

_RATE, _FEW_RATE = 2e-4, 1e-3  # where all is trained, and where adapters or routers are
_CHECKPOINTS = "checkpoints"
_SHARES = (0.75, 0.5, 0.25)  # of the way that training went, which are judged at its end
_LARGEST = 700.0  # exp of more is no float
_FORWARDS = 2.7  # a step takes about so many times what judging its tokens takes

_Judgement = Mapping[str, Any]  # what Trainer records of held-back text


def train(
    asked: RecoverOptions,
    model: Any,
    teacher: Teacher,
    rows: TrainingRows,
    say: Callable[[str], None] | None = None,
) -> Recovery:
    """Carry out what was asked, as `recover` says; the model changes in place."""
    started = time.perf_counter()
    device = check_device(asked.device)
    sequences = [row["input_ids"][None] for row in rows.everything]
    check_sequences(model, [Batch(ids, torch.ones_like(ids).bool()) for ids in sequences])
    few = asked.lora is not None or asked.train == "routers"
    rate = asked.learning_rate or (_FEW_RATE if few else _RATE)
    tokens = sum(row["input_ids"].numel() for row in rows.train)
    with ExitStack() as stack:
        stack.enter_context(disk_errors())
        folder = stack.enter_context(_folder(asked.work_dir))
        if not asked.resume:
            check_room(folder, checkpoint_bytes(model, asked), "Checkpoints of the training")
        stack.enter_context(_random_state_kept(device))
        stack.enter_context(no_messages())
        part = stack.enter_context(trained(model, asked, folder))
        stack.enter_context(learning(model, teacher))
        report = stack.enter_context(meter(tokens, "training", asked.show_progress, unit="tok"))
        resumed = last_checkpoint(folder / _CHECKPOINTS) if asked.resume else None
        trainer = trainer_of(
            part.model,
            asked,
            rows,
            folder=folder / _CHECKPOINTS,
            learning_rate=rate,
            bf16=_in_bfloat16(device),
            on_cpu=device.type == "cpu",
            judged_first=resumed is None,
            told=_Shown(report, tokens),
            began=partial(_say_how_long, say, tokens, rows, asked.checks + len(_SHARES)),
        )
        trainer.run(resumed)
        agree(part.model)  # where machines share no disk, the first alone read what judged best
        found = [each for each in trainer.state.log_history if DIVERGENCE in each]
        best = next(each for each in found if each["step"] == trainer.state.best_global_step)
        kept, way = nearer(trainer, part, found[0], best)
        if not way:
            part.undo()
        return _result(trainer, rows, part.count, rate, found, kept, way, started)


def nearer(
    trainer: RecoveryTrainer, part: Trained, came: _Judgement, trained: _Judgement
) -> tuple[_Judgement, float]:
    """Go back from the trained weights towards those that came, where that is better.

    Returns how the weights that are kept were judged, and their share of the way: of the points
    with less divergence than what came, the one of the least objective; 0 where there is none. What
    training taught of its text is lost slowly on that way, and what it broke elsewhere comes back
    soon (Wortsman et al. 2022, arXiv 2109.01903).
    """
    points, place = {1.0: trained}, 1.0
    for share in _SHARES:
        part.go_back(share / place)
        place = share
        points[share] = trainer.evaluate()
    better = {share: each for share, each in points.items() if each[DIVERGENCE] < came[DIVERGENCE]}
    if not better:
        return came, 0.0
    way = min(better, key=lambda share: better[share][OBJECTIVE])
    part.go_back(way / place)
    return better[way], way


def _say_how_long(
    say: Callable[[str], None] | None,
    tokens: int,
    rows: TrainingRows,
    checks: int,
    seconds: float,
) -> None:
    """Say it, from the seconds that judging the held-back text took."""
    if say is not None:
        held_back = sum(row["input_ids"].numel() for row in rows.held_back)
        say(_how_long(tokens, checks * held_back, seconds / held_back))


def _how_long(tokens: int, judged: int, seconds_a_token: float) -> str:
    seconds = (_FORWARDS * tokens + judged) * seconds_a_token
    return (
        f"Training on {tokens:,} tokens will take about {duration(seconds)}; it ends earlier when "
        "it stops helping."
    )


def _result(
    trainer: RecoveryTrainer,
    rows: TrainingRows,
    parameters: int,
    rate: float,
    found: Sequence[_Judgement],
    kept: _Judgement,
    way: float,
    started: float,
) -> Recovery:
    state = trainer.state
    per_step = sum(row["input_ids"].numel() for row in rows.train) / state.max_steps
    losses = (each for each in state.log_history if "loss" in each)
    return Recovery(
        before=float(found[0][DIVERGENCE]),
        after=float(kept[DIVERGENCE]),
        perplexity_before=_perplexity(found[0]),
        perplexity_after=_perplexity(kept),
        helped=way > 0,
        tokens=round(state.global_step * per_step),
        tokens_asked=round(state.max_steps * per_step),
        repeats=rows.repeats,
        held_back_tokens=sum(row["input_ids"].numel() for row in rows.held_back),
        parameters_trained=parameters,
        learning_rate=rate,
        judged=[
            Judged(round(each["step"] * per_step), float(each[DIVERGENCE]), _perplexity(each))
            for each in found
        ],
        training=[Judged(round(each["step"] * per_step), float(each["loss"])) for each in losses],
        seconds=time.perf_counter() - started,
        text_sha256=rows.sha256,
        way=way,
    )


def _perplexity(judged: _Judgement) -> float:
    return math.exp(min(float(judged[CROSS_ENTROPY]), _LARGEST))


class _Shown:
    """Shows on a bar how many tokens are done, and the losses."""

    def __init__(self, report: Callable[..., None], tokens: int) -> None:
        self._report, self._tokens, self._done = report, tokens, 0

    def __call__(self, share: float, note: str) -> None:
        done = round(share * self._tokens)
        self._report(done - self._done, note)
        self._done = done


@contextmanager
def _folder(given: str | Path | None) -> Iterator[Path]:
    """Where all processes have checkpoints: a folder that is given, or one that goes afterwards."""
    with ExitStack() as stack:
        if given is None and is_first():
            given = stack.enter_context(TemporaryDirectory(prefix="optipfair-"))
        folder = Path(from_first(given) or "")
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        with together():
            pass  # none removes it while another reads


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """`Trainer` seeds everything; afterwards torch's, numpy's and Python's states are as before."""
    import random

    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _in_bfloat16(device: torch.device) -> bool:
    """Whether products run in bfloat16, which no result depends on where it is slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and has_units()
