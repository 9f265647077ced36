"""`RecoverOptions`: what can be asked of a recovery, one field an option."""
# ruff: noqa: RUF009 - these calls declare fields

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..checking import BUILTIN_TEXT, SELF_WRITTEN
from ..option_fields import in_usual_case, option
from ..registry import Registry

DATA, TRAINING, RUNNING = "data", "training", "running"
TRAINED: Registry[None] = Registry("part to train")
SCHEDULES: Registry[None] = Registry("schedule")
OPTIMIZERS: Registry[None] = Registry("optimizer")
for _name in ("all", "layers", "mlp", "routers"):
    TRAINED.add(_name, None)
for _name in ("cosine", "linear", "constant"):
    SCHEDULES.add(_name, None)
for _name in ("muon", "adamw"):
    OPTIMIZERS.add(_name, None)
_data, _training = partial(option, section=DATA), partial(option, section=TRAINING)
_running = partial(option, section=RUNNING)


@dataclass(frozen=True)
class RecoverOptions:
    """What to train on, how, and where; nothing is checked here."""

    data: str = _data(
        BUILTIN_TEXT,
        f"Text to train on: {BUILTIN_TEXT} for the text that ships with OptiPFair, {SELF_WRITTEN} "
        "for text that the original writes, a .txt or .jsonl file, a dataset id, or several with "
        "commas between them.",
        metavar=f"{BUILTIN_TEXT}|{SELF_WRITTEN}|FILE|DATASET",
    )
    data_field: str | None = _data(
        None,
        "Which field of each row is the text, or the messages. [text or content]",
        metavar="NAME",
    )
    tokens: int | str = _data(
        "2M", "Tokens to train on, such as 200k or 2M; short text is read again.", metavar="N"
    )
    length: int | None = _data(
        None, "Tokens of a sequence. [512, or the positions of a model that has fewer]"
    )
    seed: int = _data(0, "Seed of the order of the text.")
    train: str = _training(
        "layers",
        "What is trained: all weights, those of the decoder layers and the last norm, those of the "
        "MLPs, or only the routers of a mixture of experts.",
        allowed=lambda: tuple(TRAINED),
    )
    lora: int | None = _training(
        None,
        "Train low-rank adapters of this rank with PEFT, and merge them at the end. [whole "
        "matrices are trained]",
        metavar="RANK",
    )
    dora: bool = _training(
        False, "Whether adapters are DoRA, which trains the lengths of columns apart; needs lora."
    )
    optimizer: str = _training(
        "adamw",
        "How weights move: all by adamw, or matrices by muon, which torch has from 2.9 on, and all "
        "else by AdamW.",
        allowed=lambda: tuple(OPTIMIZERS),
    )
    learning_rate: float | None = _training(
        None, "Highest learning rate. [2e-4; with LoRA or routers 1e-3]"
    )
    schedule: str = _training(
        "cosine", "How the learning rate falls after warming up.", allowed=lambda: tuple(SCHEDULES)
    )
    label_weight: float = _training(
        4.0,
        "How much the text's own next tokens count beside the original's answers: their "
        "cross-entropy by this times the divergence before training, in nats, and by 1 at most; 0 "
        "for not at all.",
    )
    batch_size: int = _training(2, "Sequences that a process reads at once.")
    accumulation_steps: int = _training(1, "So many of these make a step of the optimizer.")
    checks: int = _training(
        10, "How often the held-back text is judged; a run ends early after three without gain."
    )
    cache_teacher: str | Path | None = _training(
        None,
        "Folder for what the original answers: 64 next tokens for each token, with their "
        "probabilities. It answers first and is not in memory while the model is trained.",
        metavar="DIR",
    )
    gradient_checkpointing: bool = _training(
        False, "Whether to compute activations again to save memory."
    )
    compile: bool = _training(False, "Whether to use torch.compile.")
    device: str = _running(
        "auto", "Where to train: auto for a GPU if there is one, cpu, cuda, cuda:1, ..."
    )
    work_dir: str | Path | None = _running(
        None,
        "Folder for checkpoints of the run, from which it can go on. [a temporary one; on the "
        "command line beside the output]",
        flag=None,
    )
    resume: bool = _running(False, "Go on with an interrupted run of the same request.")
    show_progress: bool = _running(False, "Whether to show a bar.", flag=None)

    def __post_init__(self) -> None:
        in_usual_case(self)
