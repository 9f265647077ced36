"""A training from the first judgement to the last, with rows of tokens and a teacher."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..arch.limits import check_sequences
from ..batches import Batch
from ..devices import check_device
from ..distributed import from_first, is_first, together
from ..files.disk_room import check_room, disk_errors
from ..loading.quiet import no_messages
from ..progress import duration, meter
from ..pruning.calibration.fast_products import has_units
from .recover_options import RecoverOptions
from .recovery_result import Judged, Recovery
from .shards import agree
from .student import learning
from .teachers import Teacher
from .trained_parts import Trained, checkpoint_bytes, trained
from .trainer import RecoveryTrainer, last_checkpoint, trainer_of
from .training_rows import TrainingRows

_RATE, _LORA_RATE = 2e-4, 1e-3
_CHECKPOINTS = "checkpoints"
_SHARES = (0.75, 0.5, 0.25)  # of the way that training went, which are judged at its end
_NEAR = 1.01  # times the least divergence
_FORWARDS = 2.7  # a step takes about so many times what judging its tokens takes


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
    rate = asked.learning_rate or (_RATE if asked.lora is None else _LORA_RATE)
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
        result = _result(trainer, rows, part.count, rate, started)
        after, way = nearer(trainer, part, result.before, result.after)
        if not way:
            part.undo()
        seconds = time.perf_counter() - started
        return replace(result, after=after, helped=way > 0, way=way, seconds=seconds)


def nearer(
    trainer: RecoveryTrainer, part: Trained, before: float, after: float
) -> tuple[float, float]:
    """Go back from the trained weights towards those that came, where the divergence is less there.

    Returns the divergence, and the share of the way that is kept, which may be none: the largest
    within a hundredth of the least divergence. What training taught of its text is lost slowly on
    that way, and what it broke elsewhere comes back soon (Wortsman et al. 2022, arXiv 2109.01903).
    """
    judged, place = {1.0: after}, 1.0
    for share in _SHARES:
        part.go_back(share / place)
        place = share
        judged[share] = float(trainer.evaluate()["eval_loss"])
    better = {share: loss for share, loss in judged.items() if loss < before}
    if not better:
        return before, 0.0
    way = max(share for share, loss in better.items() if loss <= _NEAR * min(better.values()))
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
    started: float,
) -> Recovery:
    state = trainer.state
    per_step = sum(row["input_ids"].numel() for row in rows.train) / state.max_steps
    judged = _logged(state.log_history, "eval_loss", per_step)
    before = judged[0].loss
    after = min(each.loss for each in judged)
    return Recovery(
        before=before,
        after=after,
        helped=after < before,
        tokens=round(state.global_step * per_step),
        tokens_asked=round(state.max_steps * per_step),
        repeats=rows.repeats,
        held_back_tokens=sum(row["input_ids"].numel() for row in rows.held_back),
        parameters_trained=parameters,
        learning_rate=rate,
        judged=judged,
        training=_logged(state.log_history, "loss", per_step),
        seconds=time.perf_counter() - started,
        text_sha256=rows.sha256,
    )


def _logged(history: list[dict[str, Any]], key: str, per_step: float) -> list[Judged]:
    return [
        Judged(round(each["step"] * per_step), float(each[key])) for each in history if key in each
    ]


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
