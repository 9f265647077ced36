"""How weights are trained: AdamW on float32 copies, clipped gradients, a schedule, and a way back.

It knows nothing of what is learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...errors import ModelOutputError
from ...registry import Registry

_LARGEST_NORM = 1.0  # of all gradients of a step together

Schedule = Callable[[Optimizer, int, int], LRScheduler]  # its steps of warmup, and all its steps

SCHEDULES: Registry[Schedule] = Registry("scheduler")


@SCHEDULES.register("cosine")
def cosine(optimizer: Optimizer, warmup: int, steps: int) -> LRScheduler:
    """Up from 0 in a line during the warmup, then down to 0 along half a cosine."""
    from transformers import get_cosine_schedule_with_warmup

    schedule: LRScheduler = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    return schedule


@SCHEDULES.register("none")
def constant(optimizer: Optimizer, warmup: int, steps: int) -> LRScheduler:
    """The same learning rate throughout, without a warmup."""
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


class Steps:
    """Optimizer steps on parameters whose gradients are collected batch by batch.

    In bfloat16 most updates of a usual size would be rounded away, so what is trained are float32
    copies of parameters that are narrower; each step rounds them into the model.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        learning_rate: float,
        schedule: Callable[[Optimizer], LRScheduler],
    ) -> None:
        self.parameters = parameters
        self.trained = [_wide(each) for each in parameters]
        self.optimizer = AdamW(self.trained, lr=learning_rate)
        self.schedule = schedule(self.optimizer)
        self.done = 0

    def collect(self) -> None:
        """Add the parameters' gradients to those of the step, and take them off."""
        for parameter, trained in zip(self.parameters, self.trained, strict=True):
            if parameter.grad is not None:
                own = parameter.grad.to(trained.dtype)
                trained.grad = own if trained.grad is None else trained.grad.add_(own)
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by the gradients collected, whose norm is clipped to 1.

        Raises:
            ModelOutputError: the gradients are not finite.
        """
        norm = nn.utils.clip_grad_norm_(self.trained, _LARGEST_NORM)
        self.done += 1
        if not math.isfinite(float(norm)):
            raise not_finite("gradient", self.done)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        for parameter, trained in zip(self.parameters, self.trained, strict=True):
            if parameter.dtype != trained.dtype:
                parameter.copy_(trained)


def not_finite(what: str, step: int) -> ModelOutputError:
    return ModelOutputError(
        f"The {what} of step {step} is NaN or Inf, so the student is left as it was before the "
        "call. Try a lower learning_rate, or load both models in a wider dtype (bfloat16, float32)."
    )


def _wide(parameter: nn.Parameter) -> Tensor:
    """The parameter itself where it is wide enough, else a float32 copy of it."""
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))


@contextmanager
def restored_on_failure(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Leave the block with its changes, or by an exception with the parameters as they were.

    Their gradients are what they were in any case. A copy of the parameters is kept on the CPU.
    """
    before = [each.detach().to("cpu", copy=True) for each in parameters]
    gradients = [each.grad for each in parameters]
    for each in parameters:
        each.grad = None
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for each, values in zip(parameters, before, strict=True):
                each.copy_(values)
        raise
    finally:
        for each, gradient in zip(parameters, gradients, strict=True):
            each.grad = gradient
