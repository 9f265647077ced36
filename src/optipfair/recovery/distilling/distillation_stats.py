"""What `distill_model` says of a training: what was asked, how long it took, how losses went."""

from __future__ import annotations

from ...results import Result


class DistillationStats(Result):
    """A training, in plain numbers; it reads as a dict.

    Attributes:
        effective_batch_size: the most sequences that one optimizer step saw.
        weights: those of the terms, by the names of their arguments: `alpha` to `delta`.
        layer_mapping: the teacher's layer for each layer of the student, counted from 0; None
            where no layers were compared.
        optimizer_steps: how many steps were made in all epochs.
        trained_parameters: how many numbers were trained.
        seconds: how long the training took.
        epoch_seconds: how long each epoch took.
        loss_history: `total` and each of the four terms → its mean over the tokens of each epoch;
            0 for what was not computed. `total` is the weighted sum of the terms.
    """

    epochs: int
    learning_rate: float
    scheduler: str
    warmup_ratio: float
    accumulation_steps: int
    effective_batch_size: int
    temperature: float
    skew_alpha: float
    weights: dict[str, float]
    layer_mapping_strategy: str
    layer_mapping: list[int] | None
    optimizer_steps: int
    trained_parameters: int
    seconds: float
    epoch_seconds: list[float]
    loss_history: dict[str, list[float]]
