"""Look into a model while it runs, and leave it exactly as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

InputCallback = Callable[[nn.Module, tuple[object, ...]], None]


@contextmanager
def recording_inputs(hooks: Iterable[tuple[nn.Module, InputCallback]]) -> Iterator[None]:
    """Call `callback(module, args)` before each module's forward, inside the `with` block."""
    handles = []
    try:
        for module, callback in hooks:
            handles.append(module.register_forward_pre_hook(callback))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run in eval mode without gradients; restore each module's mode and the CPU random state."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
