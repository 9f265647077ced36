"""Train what is kept of an MLP to give what the whole one gave.

Least squares moves the down projection alone; here the other matrices follow. It needs what enters
and leaves the MLP, and no other layer.

Axes: `B` batch, `S` sequence, `T` tokens, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from ...arch.view import MLPView
from ..calibration.activations import token_mask
from ..calibration.moments import FIT, HELD_BACK, Tokens

_STEPS, _TOKENS = 250, 512  # of Adam, and how many tokens each sees
_RATE = 7e-3  # of a matrix, relative to the root mean square of its values
_MOST_BYTES, _MOST_TOKENS = 2**29, 2**16  # of what is recorded of one MLP
_JUDGED = 4096  # tokens on which errors are measured, at most
_LEAST = 4 * _TOKENS  # tokens, without which nothing is learned that holds for others
_TINY = 1e-30

Parameters = dict[str, Tensor]


@dataclass
class Recorded:
    """What enters and leaves one MLP's module: of all the tokens so many as there is room for."""

    mlp: MLPView
    total: int  # tokens that will come
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)
    strange: bool = False  # whether the module is no function of one tensor

    @property
    def module(self) -> nn.Module | None:
        """What runs the MLP and nothing else; None where a layer does so itself, or for experts."""
        path = _path(self.mlp)
        return self.mlp.owner.get_submodule(path) if path and not self.mlp.spec.experts else None

    @contextmanager
    def watching(self, tokens: list[Tokens]) -> Iterator[None]:
        """Record what runs through the module inside; `tokens[0]` are those of the batch."""
        if self.module is None:
            yield
            return

        def record(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._add(args, output, tokens[0])

        hook = self.module.register_forward_hook(record)
        try:
            yield
        finally:
            hook.remove()

    def _add(self, args: tuple[Any, ...], output: Any, tokens: Tokens) -> None:
        alike = len(args) == 1 and isinstance(output, Tensor) and output.shape == args[0].shape
        self.strange = self.strange or not alike
        if self.strange:
            return
        nbytes = output.shape[-1] * (args[0].element_size() + output.element_size())
        every = -(-self.total // min(_MOST_BYTES // nbytes, _MOST_TOKENS))
        roles = token_mask(output, tokens.roles)
        places = roles.nonzero()[::every, 0].to(output.device)
        x, y = (each.flatten(0, -2)[places] for each in (args[0], output))
        scales = token_mask(output, tokens.scales)
        self.parts.append((x, y, scales[places], roles[places]))

    def joined(self) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Inputs and outputs (T, H), scales and roles (T,); None where there are too few."""
        if self.strange or not self.parts:
            return None
        x, y, scales, roles = (torch.cat(each) for each in zip(*self.parts, strict=True))
        enough = int((roles == FIT).sum()) >= _LEAST and bool((roles == HELD_BACK).any())
        return (x, y, scales, roles) if enough else None


@dataclass(frozen=True)
class Reconstruction:
    """New values of an MLP's parameters by their names in the layer, and what they are worth.

    Errors are squared errors over squared outputs, on tokens that are held back.
    """

    values: Mapping[str, Tensor]
    before: float  # of the MLP as it was fitted
    error: float


def reconstructed(
    mlp: MLPView, recorded: Recorded, products: Callable[[], AbstractContextManager[object]]
) -> Reconstruction | None:
    """Train a cut MLP on what was recorded of the whole one; None where that gains nothing.

    250 steps of Adam on 512 random tokens each, whose squared errors count by the tokens' scales
    (`Tokens`). Rates are relative to each tensor's size and fall to zero. `products` says in which
    dtype a float32 MLP multiplies. The MLP itself is left as it is.
    """
    data, module = recorded.joined(), recorded.module
    if data is None or module is None:
        return None
    x, y, scales, roles = data
    own = _parameters(mlp)
    values = {name: each.detach().float().clone().requires_grad_() for name, each in own.items()}
    kind = mlp.tensors[mlp.spec.down].dtype
    if kind != torch.float32:
        products = partial(torch.autocast, x.device.type, kind)
    run = _Run(module, f"{_path(mlp)}.", values, products)
    held = (roles == HELD_BACK).nonzero()[:, 0]
    held = held[:: -(-len(held) // _JUDGED)]
    before = run.error(x[held], y[held], scales[held])
    run.train(x, y, scales, (roles == FIT).nonzero()[:, 0])
    stored = {name: each.detach().to(own[name]) for name, each in values.items()}
    run.values = {name: each.float() for name, each in stored.items()}
    after = run.error(x[held], y[held], scales[held])
    return Reconstruction(stored, before, after) if after < before else None


def _path(mlp: MLPView) -> str:
    """Where the smallest module is that holds all of an MLP's tensors, in its layer."""
    names = zip(*(slot.module.split(".")[:-1] for slot in mlp.tensors), strict=False)
    return ".".join(each[0] for each in takewhile(lambda several: len({*several}) == 1, names))


def _parameters(mlp: MLPView) -> dict[str, nn.Parameter]:
    """What is trained, by its name in the layer."""
    found = {slot.name: each for slot, each in mlp.tensors.items()}
    if mlp.down_bias is not None and mlp.spec.down_bias is not None:
        found[mlp.spec.down_bias] = mlp.down_bias
    return found


@dataclass
class _Run:
    """A module with parameters of its own, by their names in the layer."""

    module: nn.Module
    prefix: str  # of its parameters' names
    values: Parameters
    products: Callable[[], AbstractContextManager[object]]

    def __call__(self, x: Tensor) -> Tensor:
        own = {name.removeprefix(self.prefix): each for name, each in self.values.items()}
        with self.products():
            found: Tensor = torch.func.functional_call(self.module, own, (x.float(),))
        return found.float()

    def train(self, x: Tensor, y: Tensor, scales: Tensor, places: Tensor) -> None:
        groups = [
            {"params": [each], "lr": _RATE * float(each.detach().square().mean().sqrt())}
            for each in self.values.values()
        ]
        fused = x.device.type in ("cpu", "cuda")  # four times as fast
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=fused)
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, _STEPS)
        generator = torch.Generator().manual_seed(0)
        for _ in range(_STEPS):
            drawn = torch.randint(0, len(places), (_TOKENS,), generator=generator)
            chosen = places[drawn.to(places.device)]
            with torch.enable_grad():
                loss = _relative(self(x[chosen]), y[chosen], scales[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            falling.step()

    def error(self, x: Tensor, y: Tensor, scales: Tensor) -> float:
        with torch.no_grad():
            return float(_relative(self(x), y, scales))


def _relative(found: Tensor, wanted: Tensor, scales: Tensor) -> Tensor:
    """The squared error over the squared outputs."""
    weights = scales[:, None].float()
    error = ((found - wanted.float()) * weights).square().sum()
    return error / (wanted.float() * weights).square().sum().clamp_min(_TINY)
