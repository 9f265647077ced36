"""Looking into a model leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from optipfair.hooks import evaluating, recording
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


def test_random_numbers_drawn_inside_do_not_count(unchanged: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with unchanged(model), evaluating(model):
        torch.rand(3)
