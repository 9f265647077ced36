"""Training steps: float32 copies of narrow weights, clipped gradients, schedules, a way back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from optipfair import ModelOutputError
from optipfair.recovery.distilling.optimizing import SCHEDULES, Steps, restored_on_failure


def steps_on(*parameters: nn.Parameter, rate: float = 1e-3, name: str = "none") -> Steps:
    return Steps(parameters, rate, lambda optimizer: SCHEDULES[name](optimizer, 2, 6))


def test_updates_that_bfloat16_would_round_away_add_up() -> None:
    narrow = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    steps = steps_on(narrow)  # a step is 0.001; the nearest neighbour of 1 is 0.0039 below
    for _ in range(12):
        narrow.grad = torch.ones(3, dtype=torch.bfloat16)
        steps.collect()
        steps.step()
    assert float(narrow.detach()[0]) == pytest.approx(1 - 12e-3, abs=3e-3)


def test_gradients_add_up_until_the_step_and_are_taken_off() -> None:
    weight = nn.Parameter(torch.zeros(2))
    steps = steps_on(weight)
    for _ in range(2):
        weight.grad = torch.tensor([0.1, 0.2])
        steps.collect()
        assert weight.grad is None
    gradient = steps.trained[0].grad
    assert gradient is not None and gradient.tolist() == pytest.approx([0.2, 0.4])
    steps.step()
    assert steps.trained[0].grad is None


def test_a_parameter_without_a_gradient_stays() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    steps = steps_on(used, unused)
    used.grad = torch.ones(2)
    steps.collect()
    steps.step()
    assert unused.tolist() == [1, 1] and used.tolist() != [1, 1]


def test_the_cosine_rises_and_falls() -> None:
    weight = nn.Parameter(torch.zeros(1))
    steps = steps_on(weight, rate=1.0, name="cosine")
    rates = []
    for _ in range(6):
        rates.append(steps.optimizer.param_groups[0]["lr"])
        steps.step()
    # up in 2 steps, then half a cosine in 4: (1 + cos(k pi / 4)) / 2
    assert rates == pytest.approx([0, 0.5, 1, 0.853553, 0.5, 0.146447], abs=1e-5)


def test_gradients_that_are_not_finite_are_refused_before_the_step() -> None:
    weight = nn.Parameter(torch.ones(2))
    steps = steps_on(weight)
    weight.grad = torch.tensor([1.0, float("inf")])
    steps.collect()
    with pytest.raises(ModelOutputError, match="gradient of step 1 is NaN or Inf"):
        steps.step()
    assert weight.tolist() == [1, 1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_gives_the_weights_and_gradients_back(error: type[BaseException]) -> None:
    weight = nn.Parameter(torch.tensor([1.0, float("nan")]))
    weight.grad = torch.tensor([3.0, 4.0])
    with pytest.raises(error), restored_on_failure([weight]):
        assert weight.grad is None
        weight.data += 1
        raise error
    assert float(weight.detach()[0]) == 1 and weight.grad.tolist() == [3, 4]
