"""Look into a model while it runs, and leave it exactly as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run in eval mode without gradients; restore each module's mode and the CPU random state."""
    with _in_mode(model, training=False), torch.no_grad():
        yield


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """Run in train mode with gradients; restore each module's mode and the CPU random state."""
    with _in_mode(model, training=True), torch.enable_grad():
        yield


@contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def ready_to_generate(model: Any) -> Iterator[None]:
    """Eval mode, and transformers' defaults in the place of the model's own generation settings.

    `generate` fills what a call leaves open from the model's settings, so that beams, penalties,
    stop strings, forced tokens or an assistant would decide what is written. The objects come back.
    """
    from transformers import GenerationConfig

    defaults: Any = GenerationConfig
    own = [(m, m.generation_config) for m in model.modules() if "generation_config" in vars(m)]
    with evaluating(model):
        try:
            for module, _ in own:
                module.generation_config = defaults()
            yield
        finally:
            for module, settings in own:
                module.generation_config = settings


@contextmanager
def running_instead(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside the block each of these modules runs this in the place of its forward."""
    before = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, own in before.items():
            vars(module).pop("forward", None)
            if own is not None:
                vars(module)["forward"] = own


@contextmanager
def recording(hooks: Iterable[tuple[nn.Module, bool, Callable[[Any], None]]]) -> Iterator[None]:
    """Call each callback with its module's input (what it is given by position) or output."""
    with _held(watch(*hook) for hook in hooks):
        yield


@contextmanager
def _held(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Register hooks one by one; whatever happens, none of them stays."""
    handles = []
    try:
        for handle in hooks:
            handles.append(handle)
        yield
    finally:
        for handle in handles:
            handle.remove()


def watch(module: nn.Module, inputs: bool, callback: Callable[[Any], None]) -> RemovableHandle:
    """Call back with a module's input or output until the handle is removed."""
    if inputs:
        return module.register_forward_pre_hook(lambda _module, given: callback(given))
    return module.register_forward_hook(lambda _module, _given, output: callback(output))
