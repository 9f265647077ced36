"""Losses of logits: values by hand, gradients against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from optipfair.recovery import bucketed_kl, cross_entropy, forward_kl, objectives, skewed_kl

HALF = torch.tensor([[0.0, 0.0]])  # probabilities 1/2, 1/2
QUARTER = torch.tensor([[math.log(3.0), 0.0]])  # 3/4, 1/4


def test_forward_kl_by_hand() -> None:
    # teacher 3/4 1/4, student 1/2 1/2: 3/4 ln(3/2) + 1/4 ln(1/2)
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(forward_kl(HALF, QUARTER)) == pytest.approx(by_hand, abs=1e-6)


def test_a_temperature_divides_both_logits() -> None:
    # at 1/2 the teacher's odds 3 : 1 become 9 : 1
    by_hand = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert float(forward_kl(HALF, QUARTER, 0.5)) == pytest.approx(by_hand, abs=1e-6)


def test_skewed_kl_by_hand() -> None:
    # mixed with 0.4 of the student: 0.6 * 3/4 + 0.4 * 1/2 = 0.65
    by_hand = 0.5 * math.log(0.5 / 0.65) + 0.5 * math.log(0.5 / 0.35)
    assert float(skewed_kl(HALF, QUARTER, 0.4)) == pytest.approx(by_hand, abs=1e-6)


def test_cross_entropy_by_hand() -> None:
    assert float(cross_entropy(QUARTER, torch.tensor([1]))) == pytest.approx(math.log(4), abs=1e-6)


def test_a_bucket_of_the_rest_by_hand() -> None:
    # teacher 1/2 1/4 1/4, of which the first is kept; student 1/4 1/4 1/2
    student = torch.tensor([[0.25, 0.25, 0.5]]).log()
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    kept = torch.tensor([[0]]), torch.tensor([[math.log(0.5)]])
    assert float(bucketed_kl(student, *kept)) == pytest.approx(by_hand, abs=1e-6)


def random_logits(seed: int, tokens: int = 5, vocabulary: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(tokens, vocabulary, generator=generator)


def test_with_all_tokens_kept_a_bucket_is_the_whole_divergence() -> None:
    student, teacher = random_logits(0), random_logits(1)
    log_probabilities, tokens = teacher.log_softmax(dim=-1).topk(7)
    found = bucketed_kl(student, tokens, log_probabilities)
    torch.testing.assert_close(found, forward_kl(student, teacher), atol=1e-5, rtol=1e-5)


def test_a_bucket_is_the_divergence_of_the_distributions_with_the_rest_in_one() -> None:
    student, teacher = random_logits(0), random_logits(1)
    log_probabilities, tokens = teacher.log_softmax(dim=-1).topk(3)

    def bucketed(logits: Tensor) -> Tensor:
        kept = logits.softmax(dim=-1).gather(-1, tokens)
        return torch.cat([kept, 1 - kept.sum(dim=-1, keepdim=True)], dim=-1)

    wanted, own = bucketed(teacher), bucketed(student)
    by_definition = (wanted * (wanted / own).log()).sum(dim=-1)
    found = bucketed_kl(student, tokens, log_probabilities)
    torch.testing.assert_close(found, by_definition, atol=1e-5, rtol=1e-5)
    assert bool((found <= forward_kl(student, teacher) + 1e-6).all())


@pytest.mark.parametrize("name", ["forward", "skewed", "bucketed", "labels"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    teacher = random_logits(1)
    log_probabilities, tokens = teacher.log_softmax(dim=-1).topk(3)
    losses = {
        "forward": lambda logits: forward_kl(logits, teacher, 2.0),
        "skewed": lambda logits: skewed_kl(logits, teacher, 0.4, 2.0),
        "bucketed": lambda logits: bucketed_kl(logits, tokens, log_probabilities),
        "labels": lambda logits: cross_entropy(logits, torch.arange(5)),
    }
    student, step = random_logits(0).requires_grad_(), 1e-2
    losses[name](student).sum().backward()
    gradient = student.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0.05
    for place in ((0, 0), (2, 3), (4, 6)):
        change = torch.zeros_like(student)
        change[place] = step
        up, down = (losses[name](student.detach() + sign * change).sum() for sign in (1, -1))
        assert float(gradient[place]) == pytest.approx(float(up - down) / (2 * step), abs=2e-3)


@pytest.mark.parametrize("far", [0.0, 60.0, 1e4])
def test_sure_models_give_finite_losses(far: float) -> None:
    student = torch.tensor([[far, 0.0, -far]]).requires_grad_()
    teacher = torch.tensor([[-far, 0.0, far]])
    log_probabilities, tokens = teacher.log_softmax(dim=-1).topk(2)
    total = (
        forward_kl(student, teacher)
        + skewed_kl(student, teacher, 0.4)
        + bucketed_kl(student, tokens, log_probabilities)
    ).sum()
    total.backward()
    assert math.isfinite(float(total.detach()))
    assert student.grad is not None and bool(student.grad.isfinite().all())


def divergences() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Every loss, of a student's and a teacher's logits."""
    kept = random_logits(1).log_softmax(dim=-1).topk(3)
    return {
        "forward": forward_kl,
        "skewed": lambda student, teacher: skewed_kl(student, teacher, 0.3),
        "bucketed": lambda student, _: bucketed_kl(student, kept.indices, kept.values),
        "labels": lambda student, _: cross_entropy(student, torch.arange(5)),
    }


@pytest.mark.parametrize("name", divergences())
def test_autocast_takes_no_digit_away(name: str) -> None:
    """Held-back text is judged inside it, where a bfloat16 has three digits."""
    loss, student, teacher = divergences()[name], random_logits(0), random_logits(1)
    expected = loss(student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_some_rows_at_a_time_give_what_all_give(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, weights = random_logits(0), random_logits(1), torch.arange(5.0)
    found = []
    for at_once in (objectives._CACHED, 14):  # all, and two rows of seven
        monkeypatch.setattr(objectives, "_CACHED", at_once)
        logits = student.clone().requires_grad_()
        losses = forward_kl(logits, teacher, 0.7)
        (losses * weights).sum().backward()
        found.append((losses.detach(), logits.grad))
    torch.testing.assert_close(found[0], found[1])
