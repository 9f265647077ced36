"""`distill_model`: a student learns from its teacher what pruning took from it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...batches import Batch
from ...hooks import training
from ...progress import track
from ...pruning.cut.plan import PruningPlan
from .distillation_request import TERMS, DistillationRequest
from .distillation_stats import DistillationStats
from .layer_maps import MAPPING_UNIFORM
from .lesson import Lesson, counts
from .optimizing import SCHEDULES, Steps, not_finite, restored_on_failure
from .pairing import check_pair, mapped_layers, read_data

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_Losses = dict[str, float]  # of the terms, summed or meant over tokens


def distill_model(
    student_model: PreTrainedModel,
    teacher_model: PreTrainedModel,
    dataloader: Iterable[Any],
    layer_mapping_strategy: str = MAPPING_UNIFORM,
    alpha: float = 0.6,
    beta: float = 0.4,
    gamma: float = 0.0,
    delta: float = 0.0,
    temperature: float = 2.0,
    skew_alpha: float = 0.4,
    epochs: int = 3,
    learning_rate: float = 4e-5,
    scheduler: str = "cosine",
    warmup_ratio: float = 0.05,
    accumulation_steps: int = 4,
    show_progress: bool = True,
    return_stats: bool = False,
    *,
    plan: PruningPlan | str | Path | None = None,
) -> PreTrainedModel | tuple[PreTrainedModel, DistillationStats]:
    """Train a student in place to do what its teacher does, as a pruned model and its original.

    The loss is `alpha * task + beta * logits + gamma * trajectory + delta * derivative`, each term
    a mean over the real tokens of an optimizer step, so it depends on neither batch size nor
    padding:

    - task: cross-entropy with the next token of the text.
    - logits: KL(student || (1 - skew_alpha) teacher + skew_alpha student) at the temperature, in
      nats (DistiLLM, Ko et al. 2024, arXiv 2402.03898; DistiLLM-2, arXiv 2503.07067).
    - trajectory: 1 - cosine of the hidden states behind mapped layers.
    - derivative: 1 - cosine of what changes from one mapped layer to the next (Feature Dynamics
      Distillation, ACL 2025).

    Args:
        student_model: a causal language model. Its parameters with `requires_grad` are trained, by
            AdamW with gradients clipped to norm 1; where they are narrower than float32, on float32
            copies. It runs in train mode.
        teacher_model: another with the same vocabulary, on any device, for gamma or delta with the
            same hidden size. It is only read.
        dataloader: batches as dicts, tuples or tensors. It is read once, before the training, so a
            generator will do; every epoch sees the batches in this order.
        layer_mapping_strategy: which layer of the teacher each layer of the student is compared
            with: "uniform" (from the first to the last at even distances), "last" (the deepest), or
            "original" (the one that it was, by `plan`). The first two compare layers with others
            than they were where layers were cut here and there.
        alpha: weight of the task, 0 or more.
        beta: weight of the logits, 0 or more.
        gamma: weight of the trajectory, 0 or more; at 0 it is not computed.
        delta: weight of the derivative, 0 or more; at 0 it is not computed.
        temperature: what both models' logits are divided by, above 0.
        skew_alpha: the student's share of the mixture, from 0 to below 1.
        epochs: how often the data are gone through.
        learning_rate: the highest learning rate, above 0.
        scheduler: "cosine" (up during the warmup, then down to 0) or "none" (the same throughout,
            without a warmup).
        warmup_ratio: the share of the optimizer steps that are warmup, from 0 to 1, rounded down.
        accumulation_steps: how many batches make an optimizer step; the last of an epoch may have
            fewer.
        show_progress: whether to show a progress bar.
        return_stats: whether to return `DistillationStats` too.
        plan: the plan that made the student from the teacher, or the path of its
            `pruning_plan.json`; for "original" alone.

    Returns:
        The same student object; with `return_stats`, `(student, stats)`.

    Raises:
        ArgumentError: (a ValueError) wrong arguments, or models that do not fit each other.
        UnsupportedModelError: (a ValueError) the layers of a model cannot be found.
        DataError: (a ValueError) the data cannot be used.
        ModelOutputError: the loss or its gradients are not finite.
        After any of them, and where it is interrupted, both models are exactly as they were.

    Example:
        >>> import copy, torch
        >>> from optipfair import prune_model
        >>> from optipfair.testing import tiny_model
        >>> teacher = tiny_model("llama")
        >>> student = prune_model(copy.deepcopy(teacher), show_progress=False)
        >>> batches = [torch.arange(24).reshape(2, 12)]
        >>> student, stats = distill_model(
        ...     student, teacher, batches, show_progress=False, return_stats=True
        ... )
        >>> stats["optimizer_steps"], len(stats["loss_history"]["total"])
        (3, 3)
    """
    request = DistillationRequest(
        layer_mapping_strategy=layer_mapping_strategy,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        delta=delta,
        temperature=temperature,
        skew_alpha=skew_alpha,
        epochs=epochs,
        learning_rate=learning_rate,
        scheduler=scheduler,
        warmup_ratio=warmup_ratio,
        accumulation_steps=accumulation_steps,
        plan=plan,
    ).checked()
    trained = check_pair(student_model, teacher_model)
    mapping, layers = mapped_layers(student_model, teacher_model, request)
    batches = read_data(dataloader, student_model, teacher_model)
    groups = _groups(batches, request.accumulation_steps)
    lesson = Lesson(student_model, teacher_model, request, layers)
    started = time.perf_counter()
    epoch_losses, epoch_seconds = _train(lesson, trained, groups, show_progress)
    if not return_stats:
        return student_model
    return student_model, DistillationStats(
        epochs=request.epochs,
        learning_rate=request.learning_rate,
        scheduler=request.scheduler,
        warmup_ratio=request.warmup_ratio,
        accumulation_steps=request.accumulation_steps,
        effective_batch_size=max(sum(len(b.input_ids) for b in group) for group in groups),
        temperature=request.temperature,
        skew_alpha=request.skew_alpha,
        weights=request.weights,
        layer_mapping_strategy=request.layer_mapping_strategy,
        layer_mapping=mapping,
        optimizer_steps=len(groups) * request.epochs,
        trained_parameters=sum(each.numel() for each in trained),
        seconds=time.perf_counter() - started,
        epoch_seconds=epoch_seconds,
        loss_history=_history(epoch_losses, request),
    )


def _groups(batches: Sequence[Batch], size: int) -> list[Sequence[Batch]]:
    """The batches of each optimizer step; the last may have fewer."""
    return [batches[start : start + size] for start in range(0, len(batches), size)]


def _train(
    lesson: Lesson,
    trained: Sequence[nn.Parameter],
    groups: Sequence[Sequence[Batch]],
    show_progress: bool,
) -> tuple[list[_Losses], list[float]]:
    """Go through the data once for each epoch: the mean terms of each, and its seconds."""
    request = lesson.request
    total = len(groups) * request.epochs
    warmup = int(request.warmup_ratio * total)
    schedule = SCHEDULES[request.scheduler]
    losses, seconds = [], []
    with restored_on_failure(trained), training(lesson.student):
        steps = Steps(trained, request.learning_rate, lambda own: schedule(own, warmup, total))
        for epoch in range(request.epochs):
            started = time.perf_counter()
            label = f"epoch {epoch + 1} of {request.epochs}"
            sums = [_step(lesson, steps, g) for g in track(groups, label, show_progress, "step")]
            losses.append(_means(sums, counts(batch for group in groups for batch in group)))
            seconds.append(time.perf_counter() - started)
    return losses, seconds


def _step(lesson: Lesson, steps: Steps, group: Sequence[Batch]) -> _Losses:
    """One optimizer step on a group of batches; the terms summed over its tokens."""
    tokens = counts(group)
    sums: _Losses = {}
    for batch in group:
        terms = lesson.sums(batch)
        weighted = [
            weight * terms[name] / max(1, tokens[name])
            for name, weight in lesson.request.by_term.items()
            if weight > 0
        ]
        loss = torch.stack(weighted).sum()
        if not math.isfinite(float(loss.detach())):
            raise not_finite("loss", steps.done + 1)
        loss.backward()  # type: ignore[no-untyped-call]
        steps.collect()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
    steps.step()
    return sums


def _means(sums: Iterable[_Losses], tokens: Mapping[str, int]) -> _Losses:
    """The terms of an epoch, each a mean over its tokens."""
    each = list(sums)
    return {name: math.fsum(one[name] for one in each) / tokens[name] for name in each[0]}


def _history(epochs: Sequence[_Losses], request: DistillationRequest) -> dict[str, list[float]]:
    """Each term, and the total, epoch by epoch."""
    found = {name: [epoch.get(name, 0.0) for epoch in epochs] for name in TERMS.values()}
    weighted = [(weight, found[name]) for name, weight in request.by_term.items() if weight > 0]
    total = [math.fsum(w * terms[n] for w, terms in weighted) for n in range(len(epochs))]
    return {"total": total, **found}
