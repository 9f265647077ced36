"""Looking into a model leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from optipfair.hooks import evaluating, recording, training
from optipfair.testing import tiny_model


def test_hooks_come_off_after_an_error(unchanged: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with unchanged(model), pytest.raises(KeyError), recording([(model.model, True, print)]):
        raise KeyError


def test_every_module_gets_its_own_mode_back(unchanged: Callable[..., Any]) -> None:
    model = tiny_model("llama").train()
    model.model.layers[1].eval()
    with unchanged(model), evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_training_turns_every_module_on_and_gives_its_mode_back(
    unchanged: Callable[..., Any],
) -> None:
    model = tiny_model("llama")
    model.model.layers[1].train()
    with unchanged(model), torch.no_grad():
        with training(model):
            assert all(module.training for module in model.modules())
            assert torch.is_grad_enabled()
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("mode", [evaluating, training])
def test_random_numbers_drawn_inside_do_not_count(mode: Any, unchanged: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with unchanged(model), mode(model):
        torch.rand(3)
