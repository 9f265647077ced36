"""Run the prompts of contrasts once, forward and back, and see what enters projections and what
their outputs are worth.

A projection is a down projection of an MLP, or the output projection of an attention
(`arch.units.attention.by_attention`). Nothing in the model changes, and no parameter gets a
gradient.

Axes: `N` prompts, `B` prompts of a batch, `S` sequence, `I` inputs of a projection, `H` hidden.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...arch.view import MLPView, ModelView
from ...batches import Batch, model_inputs
from ...errors import ModelOutputError, UnsupportedModelError
from ...hooks import evaluating
from .contrast_prompts import Prompt, batches_of, behaviour

Key = tuple[int, str]  # a layer, and the name of an MLP or of an attention in it


@dataclass(frozen=True)
class Trace:
    """One projection while a batch of prompts ran."""

    inputs: Tensor  # what entered it, (B, S, I)
    gradients: Tensor  # of each prompt's behaviour with respect to its outputs, (B, S, H)


def projection(mlp: MLPView) -> nn.Module:
    """The module of the projection out of a dense MLP, or of an attention."""
    return mlp.owner.get_submodule(mlp.spec.down.module)


def behaviours(view: ModelView, prompts: Sequence[Prompt]) -> Tensor:
    """How much likelier the first continuations are behind each prompt, in nats, (N,)."""
    found: dict[int, Tensor] = {}
    with evaluating(view.model):
        for batch, inputs in batches_of(prompts):
            found |= _by_prompt(batch, values_of(view, batch, inputs))
    return torch.stack([found[id(prompt)] for prompt in prompts])


def traced(
    view: ModelView, projections: Sequence[MLPView], prompts: Sequence[Prompt]
) -> Iterator[tuple[list[Prompt], Tensor, Mapping[Key, Trace]]]:
    """Batches of prompts, their behaviours (B,), and what was seen of each projection.

    The prompts of a batch do not see each other, so one backward pass of the sum gives the gradient
    of each.
    """
    for batch, inputs in batches_of(prompts):
        entered: dict[Key, Tensor] = {}
        left: dict[Key, Tensor] = {}
        with ExitStack() as stack:
            stack.enter_context(evaluating(view.model))
            stack.enter_context(_parameters_without_gradient(view.model))
            stack.enter_context(torch.enable_grad())
            for each in projections:
                hook = _watching(each.key, entered, left)
                stack.callback(projection(each).register_forward_hook(hook).remove)
            values = values_of(view, batch, inputs)
            torch.autograd.backward(values.sum())
        traces = {
            key: Trace(*(by_token(each, inputs) for each in (entered[key], _gradient(left[key]))))
            for key in left
        }
        yield batch, values.detach(), traces


@contextmanager
def changing(taken: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Inside the block something is taken from what these modules give, (B, S, H)."""

    def hook(amount: Tensor) -> Any:
        return lambda _module, _args, output: output - amount.to(output).reshape(output.shape)

    with ExitStack() as stack:
        for module, amount in taken.items():
            stack.callback(module.register_forward_hook(hook(amount)).remove)
        yield


def _watching(key: Key, entered: dict[Key, Tensor], left: dict[Key, Tensor]) -> Any:
    """A hook that keeps a projection's input and output; the first one begins the graph."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        entered[key] = args[0].detach()
        left[key] = output if output.requires_grad else output.detach().requires_grad_()
        left[key].retain_grad()
        return left[key].clone()  # some layers add to it in place

    return hook


def by_token(values: Tensor, batch: Batch) -> Tensor:
    """What enters or leaves a module, (B, S, ...) or (B*S, ...), as (B, S, ...)."""
    shape = tuple(batch.input_ids.shape)
    if tuple(values.shape[:-1]) not in (shape, (shape[0] * shape[1],)):
        raise UnsupportedModelError(
            f"The model's projections see tokens in the shape {tuple(values.shape[:-1])} where the "
            f"batch has {shape}, so they cannot be told apart."
        )
    return values.reshape(*shape, values.shape[-1])


def _gradient(output: Tensor) -> Tensor:
    return torch.zeros_like(output) if output.grad is None else output.grad


@contextmanager
def _parameters_without_gradient(model: nn.Module) -> Iterator[None]:
    before = [(each, each.requires_grad) for each in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)


def values_of(view: ModelView, prompts: Sequence[Prompt], batch: Batch) -> Tensor:
    """The behaviours of a batch, (B,)."""
    model: Any = view.model
    named = inspect.signature(model.forward).parameters
    ends = torch.tensor([len(prompt.ids) - 1 for prompt in prompts])
    places, rows = torch.unique(ends, return_inverse=True)
    asked: dict[str, Any] = {"use_cache": False} if "use_cache" in named else {}
    only = "logits_to_keep" in named
    embeddings = model.get_input_embeddings().weight.device
    if only:
        asked["logits_to_keep"] = places.to(embeddings)
    logits = model(**model_inputs(batch, embeddings), **asked).logits
    at_end = logits[torch.arange(len(prompts)), rows if only else ends]
    values = behaviour(at_end, prompts)
    if not bool(torch.isfinite(values).all()):
        raise ModelOutputError("The model's logits are NaN or Inf. Try a wider dtype (float32).")
    return values


def _by_prompt(prompts: Sequence[Prompt], values: Tensor) -> dict[int, Tensor]:
    return {id(prompt): value for prompt, value in zip(prompts, values, strict=True)}
