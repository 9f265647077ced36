"""A student and its teacher that predict different things, and how a term of theirs changes."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor

from optipfair import PruningPlan, apply_plan, distill_model, prune_model
from optipfair.recovery.distilling.distillation_request import DistillationRequest
from optipfair.recovery.distilling.lesson import Lesson
from optipfair.recovery.distilling.pairing import mapped_layers
from optipfair.testing import tiny_model

KEPT = (0, 1, 3)  # of the teacher's layers
PLAN = PruningPlan("llama", 4, KEPT)
DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(distill_model).parameters.items()
    if name in DistillationRequest.__dataclass_fields__
}


def sharp_model(family: str = "llama", **overrides: Any) -> Any:
    """A toy model of which every matrix is five times as large."""
    model = tiny_model(family, **overrides)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 5
    return model


def student_and_teacher(family: str = "llama") -> tuple[Any, Any]:
    """A teacher of four layers, and what is left of it without the third and some neurons."""
    teacher = sharp_model(family)
    plan = PruningPlan(teacher.config.model_type, 4, KEPT)
    student = apply_plan(copy.deepcopy(teacher), plan)
    return prune_model(student, pruning_percentage=30, show_progress=False), teacher


def token_batches(count: int, rows: int = 1, length: int = 9, seed: int = 3) -> list[Tensor]:
    """Batches of random bytes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (rows, length), generator=generator) for _ in range(count)]


def lesson_of(student: Any, teacher: Any, **given: Any) -> Lesson:
    request = DistillationRequest(**{**DEFAULTS, **given}).checked()
    _, layers = mapped_layers(student, teacher, request)
    return Lesson(student, teacher, request, layers)


def slope(
    lesson: Lesson, batch: Any, term: str, parameter: Tensor, direction: Tensor, step: float = 3e-3
) -> float:
    """The central finite difference of a term along a direction of a parameter."""
    own, values = parameter.data.clone(), []
    with torch.no_grad():
        for sign in (1, -1):
            parameter.data.copy_(own + sign * step * direction)
            values.append(float(lesson.sums(batch)[term]))
        parameter.data.copy_(own)
    return (values[0] - values[1]) / (2 * step)
