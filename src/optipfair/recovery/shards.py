"""Parameters that are cut in pieces over processes (FSDP2), and their whole values."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from ..distributed import copy_from_first, is_first

_WRAPPER = "_checkpoint_wrapped_module."  # what torch's activation checkpointing adds to names


def is_cut(tensor: Tensor) -> bool:
    """Whether this process has only a piece of it."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(tensor, tensors.DTensor)


def named(model: Any) -> dict[str, torch.nn.Parameter]:
    """Parameters by the names that they had before anything was wrapped.

    FSDP2 leaves its outermost ones whole after a forward; what is written into these would be lost,
    so they are cut again first.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    for module in model.modules():
        if fsdp is not None and isinstance(module, fsdp.FSDPModule):
            module.reshard()
    return {name.replace(_WRAPPER, ""): each for name, each in model.named_parameters()}


def whole_values(model: Any) -> dict[str, Tensor]:
    """A model's state dict of whole tensors on the CPU; all processes take part.

    Of a model that is cut in pieces the first process alone has them, one after the other.
    """
    found = {}
    for name, each in model.state_dict().items():
        value = each.detach()
        if is_cut(value):
            value = value.full_tensor()
            if not is_first():
                continue
        found[name.replace(_WRAPPER, "")] = value.cpu()
    return found


def put(parameter: Tensor, value: Tensor, kept: float = 0.0) -> None:
    """Give a parameter a whole value, of which it keeps its piece if it is cut.

    `kept` is the share of its distance from that value that stays.
    """
    target = parameter.detach()
    value = _cut_like(target, value)
    target.copy_(value + kept * (target - value) if kept else value)


def _cut_like(target: Tensor, value: Tensor) -> Tensor:
    value = value.to(target.device)
    if not is_cut(target):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = target.device_mesh, target.placements  # type: ignore[attr-defined]
    return distribute_tensor(value, mesh, placements)


def agree(model: Any) -> None:
    """Give every process the first one's values of what is trained and not cut."""
    trained = [each for each in model.parameters() if each.requires_grad and not is_cut(each)]
    copy_from_first(*trained)
