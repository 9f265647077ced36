"""How weights move: by Muon and AdamW together, or by AdamW alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import ArgumentError

MUON, ADAMW = "muon", "adamw"
_ADAMW: dict[str, Any] = {"betas": (0.9, 0.95), "weight_decay": 0.0}


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for matrices, AdamW for all else, as one optimizer with one learning rate.

    Both are torch's. Muon (Jordan et al. 2024) makes the singular values of a step nearly equal;
    its steps are as large as AdamW's usually are (Liu et al. 2025, arXiv 2502.16982). State and
    groups belong to this optimizer, so that whoever saves them or cuts them in pieces sees one.
    """

    def __init__(
        self, matrices: Sequence[nn.Parameter], others: Sequence[nn.Parameter], lr: float
    ) -> None:
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            size = "match_rms_adamw"
            muon = torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn=size)
            self._parts.append(muon)
        if others:
            self._parts.append(torch.optim.AdamW(others, lr=lr, **_ADAMW))
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move both kinds."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            of_muon = isinstance(part, torch.optim.Muon)
            part.state = self.state
            part.param_groups = [g for g in self.param_groups if ("ns_steps" in g) == of_muon]
            part.step()
        return loss


def check_optimizer(name: str, lora: int | None) -> None:
    """Refuse Muon where it cannot be."""
    if name == MUON and not hasattr(torch.optim, "Muon"):
        raise ArgumentError(
            f"optimizer={name!r} needs torch 2.9 or later; this is {torch.__version__}. Give "
            f"{ADAMW!r}."
        )
    if name == MUON and lora is not None:
        raise ArgumentError(f"Adapters (lora) are trained by {ADAMW!r}. Leave optimizer out.")


def optimizer_of(model: Any, name: str, learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer of what is trained of a model; tables of tokens are no matrices."""
    trained = [each for each in model.parameters() if each.requires_grad]
    if name == ADAMW:
        return torch.optim.AdamW(trained, lr=learning_rate, **_ADAMW)
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    apart = {id(each) for table in tables if table is not None for each in table.parameters()}
    matrices = [each for each in trained if each.ndim == 2 and id(each) not in apart]
    chosen = {id(each) for each in matrices}
    others = [each for each in trained if id(each) not in chosen]
    return MuonWithAdamW(matrices, others, learning_rate)
