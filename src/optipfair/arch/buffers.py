"""Buffers that are computed from the config and never saved, as loading would compute them.

Rotary frequencies, ALiBi slopes and decay rates are such buffers. Two twins may agree in every
shape and still hold other values there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def changed_buffers(
    old: nn.Module, new: nn.Module, pairs: Mapping[str, tuple[nn.Module, nn.Module]]
) -> Iterator[str]:
    """Names in the twin `new` of the computed buffers that hold other values there than in `old`.

    `pairs` are the modules to compare, by their path in `new`.
    """
    owners = {id(module): model for model in (old, new) for module, model in _owners(model)}
    for path, (before, after) in pairs.items():
        if not before._non_persistent_buffers_set:
            continue
        first = _values(owners[id(before)], before)
        second = _values(owners[id(after)], after)
        for name in sorted(first.keys() & second.keys()):
            if not _equal(first[name], second[name]):
                yield f"{path}.{name}".lstrip(".")


def computed_buffers(
    model: nn.Module, part: nn.Module, without: nn.Module | None = None
) -> Iterator[tuple[str, Tensor | None]]:
    """Name inside `part` → value, of the computed buffers of a module `part` of a twin.

    A value is None where the owner of the buffer does not compute it by itself; what is inside
    `without` is left out.
    """
    left_out = set() if without is None else {id(module) for module in without.modules()}
    inside = {id(module): path for path, module in part.named_modules()}
    for module, owner in _owners(model):
        wanted = id(module) in inside and id(module) not in left_out
        if not wanted or not module._non_persistent_buffers_set:
            continue
        again = _values(owner, module, torch.ones_like)
        for name, value in _values(owner, module).items():
            path = f"{inside[id(module)]}.{name}".lstrip(".")
            yield path, value if _equal(value, again[name]) else None


def _owners(model: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """Every module with the innermost transformers model around it, which initializes it."""
    pending: list[tuple[nn.Module, nn.Module]] = [(model, model)]
    while pending:
        module, owner = pending.pop()
        owner = module if isinstance(module, PreTrainedModel) else owner
        yield module, owner
        pending += [(child, owner) for child in module.children()]


def _values(
    owner: Any, module: nn.Module, start: Callable[..., Tensor] = torch.zeros_like
) -> dict[str, Tensor]:
    """The module's computed buffers; on `meta`, what its initialization makes of `start`."""
    own = {name: module._buffers.get(name) for name in module._non_persistent_buffers_set}
    found = {name: tensor for name, tensor in own.items() if tensor is not None}
    if not any(tensor.is_meta for tensor in found.values()):
        return found
    filled = copy.copy(module)  # shares what it holds but for these
    filled._parameters = dict(module._parameters)
    filled._buffers = {name: start(tensor, device="cpu") for name, tensor in found.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        owner._init_weights(filled)
    return {name: tensor for name, tensor in filled._buffers.items() if tensor is not None}


def _equal(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return True  # shapes are compared elsewhere
    first, second = first.cpu(), second.cpu()
    if first.is_floating_point():
        return torch.allclose(first.float(), second.float(), rtol=1e-6, atol=0, equal_nan=True)
    return torch.equal(first, second)
