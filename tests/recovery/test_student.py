"""A student's loss and its gradient, against a plain forward of the whole model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optipfair.recovery.objectives import forward_kl, pulled
from optipfair.recovery.student import learning
from optipfair.recovery.teachers import LiveTeacher
from optipfair.testing import tiny_model


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return found


def losses(student: Any, teacher: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Divergences from whole logits, (T,), and cross-entropies of tokens that have a next one."""
    with torch.no_grad():
        wanted = teacher(input_ids=ids, attention_mask=mask).logits
    logits = student(input_ids=ids, attention_mask=mask).logits
    found, others = [], []
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        found.append(forward_kl(logits[row, :length], wanted[row, :length]))
        following = ids[row, 1:length]
        own = nn.functional.cross_entropy(logits[row, : length - 1], following, reduction="none")
        others.append(own)
    return torch.cat(found), torch.cat(others)


@pytest.mark.parametrize("pull", [0.0, 0.3, 2.0])
def test_the_gradient_is_of_both_and_the_value_of_one(token_ids: Tensor, pull: float) -> None:
    student, teacher = tiny_model("llama").eval(), tiny_model("llama", seed=1).eval()
    mask = torch.ones_like(token_ids)
    mask[1, 7:] = 0  # the last real token of a row has none that follows
    divergences, others = losses(student, teacher, token_ids, mask)
    (divergences.mean() + pull * others.mean()).backward()
    expected = gradients(student)

    with learning(student, LiveTeacher(teacher)):
        loss = student(input_ids=token_ids, attention_mask=mask, pull=pull)["loss"]
        loss.backward()
        with torch.no_grad():
            judged = student(input_ids=token_ids, attention_mask=mask)
    torch.testing.assert_close(loss, divergences.mean(), atol=1e-6, rtol=1e-5)
    for found, wanted in ((judged["loss"], divergences), (judged["labels"], others)):
        torch.testing.assert_close(found, wanted.mean(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradients(student), expected, atol=1e-6, rtol=1e-4)


def test_a_pulled_loss_by_hand() -> None:
    x = torch.tensor([3.0], requires_grad=True)
    loss = pulled(x.square(), 5 * x, 0.25)
    loss.backward()
    assert float(loss.detach()) == 9.0
    assert float(x.grad or 0.0) == 6 + 0.25 * 5
