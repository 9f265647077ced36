"""The Hugging Face `Trainer` with a loss of ours, so that all that launches it works here too."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ..distributed import world_size
from ..errors import ArgumentError, CheckpointError, ModelOutputError, OptiPFairError
from .objectives import label_share
from .optimizers import ADAMW, optimizer_of
from .recover_options import RecoverOptions
from .training_rows import Row, TrainingRows, collated

_PATIENCE = 3  # judgements without gain
_WARMUP = 0.05  # of all steps
_LOGGED = 100  # training losses of a whole run
# Of held-back text, in Trainer's records.
DIVERGENCE, CROSS_ENTROPY, OBJECTIVE = "eval_loss", "eval_cross_entropy", "eval_objective"
_STATE = "trainer_state.json"  # which Trainer writes last into a checkpoint

Told = Callable[[float, str], None]  # the share that is done, and a few words


class RecoveryTrainer(Trainer):
    """Trains a model whose forward gives its loss (`student.learning`)."""

    chosen: str = ADAMW
    label_weight: float = 0.0
    _begun = False  # whether a step was taken

    def run(self, resumed: Path | None) -> None:
        """Train from the beginning, or from this checkpoint.

        Raises:
            CheckpointError: it cannot be read.
        """
        try:
            self.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        except (OptiPFairError, MemoryError):
            raise
        except Exception as exc:  # of several libraries, about files that are not whole
            if resumed is None or self._begun:
                raise
            reason = " ".join(str(exc).split())[:100]
            raise CheckpointError(
                f"The checkpoint {resumed} of the interrupted training cannot be read ({reason}). "
                "Remove that folder to go on from the one before it, or from the beginning."
            ) from exc

    @property
    def _pull(self) -> float:
        """What cross-entropy counts."""
        judged = (each[DIVERGENCE] for each in self.state.log_history if DIVERGENCE in each)
        return label_share(self.label_weight, float(next(judged, 0.0)))

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """See `Trainer`."""
        self._begun = True
        loss: Tensor = super().training_step(*args, **kwargs)
        return loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The one that was asked for, of what is trained."""
        if self.optimizer is None:
            rate = float(self.args.learning_rate)
            self.optimizer = optimizer_of(model or self.model, self.chosen, rate)
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch; one that is not finite ends the run."""
        del num_items_in_batch  # batches are of one size
        outputs = model(**inputs, pull=self._pull)
        loss = outputs["loss"]
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ModelOutputError(
                f"The loss is {value} at step {self.state.global_step}, so the training ended. The "
                "model is as it was. Give a lower learning rate, or look for broken weights in the "
                "original."
            )
        return (loss, outputs) if return_outputs else loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint into a folder that is there from the beginning.

        Trainer looks whether the best checkpoint's folder is there before FSDP2 has made it, and
        would load and keep an older one.
        """
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        super()._save_checkpoint(model, trial)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The loss of a batch that is held back, and of each row what `_objective` takes."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        rows = len(inputs["input_ids"])
        both = torch.stack([loss, outputs["labels"]]).expand(rows, 2)
        return loss, both, both  # Trainer measures nothing where it has no labels

    def _objective(self, judged: EvalPrediction) -> dict[str, float]:
        """The cross-entropy, and what training makes less: that by its weight + divergence."""
        divergence, labels = np.asarray(judged.predictions, dtype=np.float64).mean(axis=0)
        pull = self._pull or label_share(self.label_weight, float(divergence))  # the first
        return {"cross_entropy": float(labels), "objective": float(divergence + pull * labels)}


class _Telling(TrainerCallback):
    """Tells how long the first judgement took, and after each step how much is done."""

    def __init__(self, told: Told, began: Callable[[float], None]) -> None:
        self._told, self._began = told, began
        self._losses: dict[str, float] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == 0:
            self._began(more["metrics"]["eval_runtime"])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        for key, name in (("loss", "training"), (DIVERGENCE, "held back")):
            if key in (logs or {}):
                self._losses[name] = logs[key]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        note = ", ".join(f"{name} {loss:.4f}" for name, loss in self._losses.items())
        self._told(state.global_step / state.max_steps, note)


class _Rows(torch.utils.data.Dataset[Row]):
    """Rows as a dataset."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]


def trainer_of(
    model: Any,
    asked: RecoverOptions,
    rows: TrainingRows,
    *,
    folder: Path,
    learning_rate: float,
    bf16: bool,
    on_cpu: bool,
    judged_first: bool,
    told: Told,
    began: Callable[[float], None],
) -> RecoveryTrainer:
    """A trainer that reads all rows once in random order, and keeps what judges best.

    `judged_first` is for a run from the beginning. The trainer does it, since it wraps a model for
    several processes only once, and for judging alone not at all. `began` is then told the seconds.
    """
    settings = _settings(asked, len(rows.train), on_cpu=on_cpu)
    settings |= {
        "output_dir": str(folder),
        "learning_rate": learning_rate,
        "bf16": bf16,
        "eval_on_start": judged_first,
    }
    trainer = RecoveryTrainer(
        model=model,
        args=TrainingArguments(**settings),
        train_dataset=_Rows(rows.train),
        eval_dataset=_Rows(rows.held_back),
        data_collator=collated,
        callbacks=[EarlyStoppingCallback(_PATIENCE), _Telling(told, began)],
    )
    trainer.chosen, trainer.label_weight = asked.optimizer, asked.label_weight
    trainer.compute_metrics = trainer._objective
    trainer.remove_callback(PrinterCallback)  # prints every loss
    _check_engine(trainer.accelerator.state.deepspeed_plugin)
    return trainer


def _settings(asked: RecoverOptions, sequences: int, *, on_cpu: bool) -> dict[str, Any]:
    """What a training of so many sequences tells `Trainer`, by the names of its arguments."""
    at_once = asked.batch_size * asked.accumulation_steps * world_size()
    steps = max(sequences // at_once, 1)
    every = max(steps // asked.checks, 1)
    seed = asked.seed % 2**32
    settings: dict[str, Any] = {
        "per_device_train_batch_size": asked.batch_size,
        "per_device_eval_batch_size": asked.batch_size,
        "gradient_accumulation_steps": asked.accumulation_steps,
        "max_steps": steps,
        "lr_scheduler_type": asked.schedule
        if asked.schedule != "constant"
        else "constant_with_warmup",
        "warmup_steps": math.ceil(_WARMUP * steps),
        "max_grad_norm": 1.0,
        "use_cpu": on_cpu,
        "torch_compile": asked.compile,
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": OBJECTIVE,
        "greater_is_better": False,
        "logging_steps": max(steps // _LOGGED, 1),
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": [],
        "dataloader_pin_memory": not on_cpu,
        "seed": seed,
        "data_seed": seed,
    }
    if asked.gradient_checkpointing:
        settings[_checkpointing()] = True
    return settings


def _check_engine(deepspeed: Any) -> None:
    """Refuse DeepSpeed's stage 3, which keeps weights where only it finds them."""
    if deepspeed is not None and deepspeed.zero_stage == 3:
        raise ArgumentError(
            "DeepSpeed's stage 3 cuts weights in pieces that are not put together again here. Give "
            "accelerate launch --use_fsdp --fsdp_version 2, or DeepSpeed's stage 2."
        )


def _checkpointing() -> str:
    """What the release of transformers calls it."""
    names = {each.name for each in fields(TrainingArguments)}
    new = "activation_checkpointing"
    return new if new in names else "gradient_checkpointing"


def last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that is complete: `Trainer` writes its state at the end."""
    by_step = sorted(
        (each for each in folder.glob("checkpoint-*") if each.name[11:].isdigit()),
        key=lambda each: int(each.name[11:]),
        reverse=True,
    )
    return next((each for each in by_step if _is_complete(each)), None)


def _is_complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
