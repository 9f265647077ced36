"""The least change of a projection: it does what is wanted, and no other does so with less harm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from optipfair.neutralising import least_change as module
from optipfair.neutralising.least_change import Seen, least_change


def made(
    prompts: int = 3, tokens: int = 7, inputs: int = 6, outputs: int = 5
) -> tuple[Tensor, Seen]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    text = draw(50, inputs)
    owners = torch.arange(tokens) % prompts
    return text.T @ text, Seen(draw(tokens, inputs), draw(tokens, outputs), owners)


def moved(change: Tensor, seen: Seen, prompts: int) -> Tensor:
    each = ((seen.gradients @ change) * seen.inputs).sum(dim=1)
    return torch.zeros(prompts, dtype=torch.float64).index_add(0, seen.prompts, each)


@pytest.fixture
def without_ridges(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOMENTS_RIDGE", "PROMPTS_RIDGE"):
        monkeypatch.setattr(module, name, 0.0)


@pytest.mark.usefixtures("without_ridges")
def test_it_moves_each_prompt_by_what_is_wanted() -> None:
    moments, seen = made()
    wanted = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    change = least_change(moments, seen, wanted)
    torch.testing.assert_close(moved(change, seen, 3), wanted)


@pytest.mark.usefixtures("without_ridges")
def test_any_other_change_that_does_so_does_more_harm() -> None:
    moments, seen = made()
    wanted = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    change = least_change(moments, seen, wanted)

    def harm(each: Tensor) -> float:
        return float((each @ moments * each).sum())

    generator = torch.Generator().manual_seed(1)
    # Rows: what each element of a change moves the prompts by.
    effects = torch.stack(
        [moved(unit.view_as(change), seen, 3) for unit in torch.eye(change.numel()).double()], dim=1
    )
    for _ in range(20):
        other = torch.randn(change.numel(), generator=generator, dtype=torch.float64)
        idle = other - torch.linalg.pinv(effects) @ (effects @ other)  # it moves no prompt
        beside = change + 0.1 * idle.view_as(change)
        torch.testing.assert_close(moved(beside, seen, 3), wanted)
        assert harm(beside) > harm(change)


def test_prompts_that_contradict_each_other_are_not_followed_to_the_end() -> None:
    moments, seen = made(prompts=2, tokens=2)
    same = Seen(seen.inputs[:1].repeat(2, 1), seen.gradients[:1].repeat(2, 1), torch.tensor([0, 1]))
    change = least_change(moments, same, torch.tensor([1.0, -1.0], dtype=torch.float64))
    assert float(change.abs().max()) < 1e-6  # both cannot be had, and their mean is nothing


def test_nothing_wanted_changes_nothing() -> None:
    moments, seen = made()
    assert float(least_change(moments, seen, torch.zeros(3)).abs().max()) == 0.0
