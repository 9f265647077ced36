"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]


@pytest.fixture
def token_ids() -> Tensor:
    """Two rows of twelve bytes, the same in every test."""
    return torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def logits_of(token_ids: Tensor) -> Callable[[nn.Module], Tensor]:
    """The logits of a model for `token_ids`."""

    def run(model: nn.Module) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(token_ids).logits
        return logits

    return run


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder beside the checkout with the specification and the evaluation data."""
    folder = Path(os.environ.get("OPTIPFAIR_DATA", ROOT.parent / "shared" / "data")).parent
    if not folder.is_dir():
        pytest.skip(f"no shared folder at {folder}: set OPTIPFAIR_DATA to its data folder")
    return folder
