"""Muon for matrices and AdamW for all else, as one optimizer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from optipfair import ArgumentError
from optipfair.recovery.optimizers import (
    MuonWithAdamW,
    check_optimizer,
    optimizer_of,
)
from optipfair.testing import tiny_model


def stepped(model: Any, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for each in model.parameters():
        each.grad = torch.randn(each.shape, generator=generator)
    optimizer.step()


def test_each_kind_moves_as_its_own_optimizer_moves_it() -> None:
    model = tiny_model("llama")
    other = copy.deepcopy(model)
    together = optimizer_of(model, "muon", 1e-3)
    tables = {"model.embed_tokens.weight", "lm_head.weight"}
    named = dict(other.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim == 2 and name not in tables]
    rest = [p for name, p in named.items() if p.ndim != 2 or name in tables]
    muon = torch.optim.Muon(matrices, lr=1e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for seed in range(3):
        stepped(model, together, seed)
        stepped(other, muon, seed)
        adamw.step()
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_a_state_that_is_saved_goes_on() -> None:
    model = tiny_model("llama")
    optimizer = optimizer_of(model, "muon", 1e-3)
    stepped(model, optimizer)
    other = copy.deepcopy(model)
    loaded = optimizer_of(other, "muon", 1e-3)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, own in ((model, optimizer), (other, loaded)):
        stepped(each, own, seed=1)
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_a_schedule_reaches_both() -> None:
    model = tiny_model("llama")
    before = copy.deepcopy(model)
    optimizer = optimizer_of(model, "muon", 1e-3)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    stepped(model, optimizer)
    assert len(optimizer.param_groups) == 2
    assert all(map(torch.equal, model.parameters(), before.parameters()))


def test_with_one_kind_there_is_one_group() -> None:
    weights = torch.nn.Parameter(torch.ones(3, 3))
    assert len(MuonWithAdamW([weights], [], 1e-3).param_groups) == 1
    assert len(MuonWithAdamW([], [weights], 1e-3).param_groups) == 1


def test_muon_is_not_for_adapters_nor_for_an_old_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="Adapters"):
        check_optimizer("muon", 16)
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ArgumentError, match=r"torch 2\.9"):
        check_optimizer("muon", None)
