"""Losses of logits that never exist all at once.

A model is run up to its head; the head, with what scales or caps its logits, then runs on some
tokens at a time. A chunk's gradients are computed at once, so its logits go before the next one's
come, and nothing is computed twice.

Axes: `B` batch, `S` sequence, `T` tokens, `H` hidden, `V` vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..hooks import running_instead

_ELEMENTS = 2**24  # of the logits that exist at once

# The states of some tokens, and where these stand among all → the sum of their losses.
ChunkLoss = Callable[[Tensor, slice], Tensor]


class Parted:
    """A causal language model in two parts: what comes before its head, and its head."""

    def __init__(self, model: Any) -> None:
        self.model = model
        if model.get_output_embeddings() is None:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no head that gives logits, so it cannot be trained on "
                "them. Give a causal language model."
            )
        self._forward = type(model).forward
        self._body: Any = None  # what came before the head when it last ran, and its output
        self._output: Any = None

    def states(self, **inputs: Any) -> Tensor:
        """What enters the head, (B, S, H)."""

        def keep(module: nn.Module, _args: Any, output: Any) -> None:
            if hasattr(output, "last_hidden_state"):
                self._body, self._output = module, output

        inner = [each for child in self.model.children() for each in (child, *child.children())]
        hooks = [each.register_forward_hook(keep) for each in inner]  # OPT's body is a grandchild
        try:
            head = self.model.get_output_embeddings()
            with running_instead({head: lambda states, *_args, **_keywords: states[..., :1]}):
                self._forward(self.model, **inputs, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        if self._output is None:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has no body apart from its head, so it cannot be "
                "trained on logits a few tokens at a time."
            )
        states: Tensor = self._output.last_hidden_state
        return states

    def logits(self, states: Tensor) -> Tensor:
        """The logits (T, V) that the model's own forward makes of states (T, H)."""
        output = copy.copy(self._output)
        output.last_hidden_state = states[None]
        ids = torch.zeros(1, len(states), dtype=torch.int64, device=states.device)
        with running_instead({self._body: lambda *_args, **_keywords: output}):
            logits: Tensor = self._forward(self.model, input_ids=ids, use_cache=False).logits
        return logits[0]

    def of_head(self) -> list[nn.Parameter]:
        """The trained parameters on which logits depend beside the states, once these are known."""
        head = self.model.get_output_embeddings()
        of_body = {id(each) for each in self._body.parameters()}
        own = [each for each in self.model.parameters() if id(each) not in of_body]
        tied = [each for each in head.parameters() if id(each) in of_body]
        return [each for each in (*own, *tied) if each.requires_grad]


def summed(loss: ChunkLoss, states: Tensor, vocabulary: int, parameters: list[Any]) -> Tensor:
    """The sum of the losses of all tokens, for states (T, H); logits exist for some at a time.

    `parameters` are those that the loss depends on beside the states and that are trained. Without
    gradients there may be several sums.
    """
    size = max(_ELEMENTS // vocabulary, 1)
    places = [slice(start, start + size) for start in range(0, len(states), size)]
    if not torch.is_grad_enabled():
        return torch.stack([loss(states[place], place) for place in places]).sum(dim=0)
    total: Tensor = _Summed.apply(loss, places, states, *parameters)  # type: ignore[no-untyped-call]
    return total


class _Summed(torch.autograd.Function):
    """A sum over chunks whose gradients are there before the next chunk comes."""

    @staticmethod
    def forward(
        ctx: Any, loss: ChunkLoss, places: list[slice], states: Tensor, *parameters: Tensor
    ) -> Tensor:
        wanted = states.requires_grad
        of_states = torch.zeros_like(states)
        gradients: list[Tensor] = [torch.zeros_like(each) for each in parameters]
        total = torch.zeros((), device=states.device)
        for place in places:
            with torch.enable_grad():
                chunk = states[place].detach().requires_grad_()
                part = loss(chunk, place)
                found = torch.autograd.grad(part, [chunk, *parameters])
            total += part.detach()
            of_states[place] = found[0]
            for sum_so_far, more in zip(gradients, found[1:], strict=True):
                sum_so_far.add_(more)
        ctx.save_for_backward(*([of_states] if wanted else []), *gradients)
        ctx.wanted = wanted
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        gradients = [each * outer[0] for each in ctx.saved_tensors]
        of_states = gradients.pop(0) if ctx.wanted else None
        return None, None, of_states, *gradients
