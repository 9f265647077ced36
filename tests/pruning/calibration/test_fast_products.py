"""Products in bfloat16: only where they are faster, and with the same outcome."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from optipfair import plan_pruning
from optipfair.arch import fast_dtype as module
from optipfair.arch.view import describe
from optipfair.pruning.calibration.fast_products import fast_products
from optipfair.testing import tiny_model

WIDE: dict[str, Any] = {"hidden_size": 256, "head_dim": 64}


@pytest.fixture(autouse=True)
def has_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_units", lambda: True)


@pytest.mark.parametrize(
    ("kind", "overrides", "dtype", "served"),
    [
        ("llama", WIDE, torch.float32, True),
        ("llama", {}, torch.float32, False),
        ("llama", WIDE, torch.bfloat16, False),
        ("mixtral", WIDE, torch.float32, False),
    ],
    ids=str,
)
def test_they_are_for_dense_float32_models_of_real_size(
    kind: str, overrides: dict[str, Any], dtype: torch.dtype, served: bool
) -> None:
    view = describe(tiny_model(kind, **overrides).to(dtype))
    assert isinstance(fast_products(view), torch.autocast) == served


def test_without_such_units_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_units", lambda: False)
    assert isinstance(fast_products(describe(tiny_model("llama", **WIDE))), nullcontext)


def test_the_decision_is_the_same_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", **WIDE)
    generator = torch.Generator().manual_seed(0)
    batches = [{"input_ids": torch.randint(0, 256, (8, 64), generator=generator)}]
    asked: dict[str, Any] = {"neuron_selection_method": "AUTO", "pruning_percentage": 50}
    fast = plan_pruning(model, dataloader=batches, show_progress=False, **asked)
    monkeypatch.setattr(module, "has_units", lambda: False)
    plain = plan_pruning(model, dataloader=batches, show_progress=False, **asked)
    assert fast.replacements is not None
    assert plain.replacements is not None
    same = 0
    for cut, other in zip(fast.width_cuts, plain.width_cuts, strict=True):
        if cut.keep != other.keep:
            continue
        same += 1
        for key in (each for each in plain.replacements if each[:2] == cut.key):
            new, old = fast.replacements[key], plain.replacements[key]
            torch.testing.assert_close(new, old, atol=2e-2, rtol=2e-2)
    assert same >= len(fast.width_cuts) // 2
    errors = [each["error"] for each in fast.request["reconstruction_errors"]]
    others = [each["error"] for each in plain.request["reconstruction_errors"]]
    assert errors == pytest.approx(others, rel=0.1)
