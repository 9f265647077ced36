"""Changes of down projections: found layer after layer, and made as strong as is asked.

Axes: `I` inputs of a projection, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..arch.slots import read
from ..arch.view import MLPView, ModelView
from ..bias.contrasts.contrast_prompts import Prompt, deviations
from ..bias.contrasts.tracing import Key, projection, traced
from ..progress import track
from ..pruning.calibration.activations import run_batches, token_mask
from ..pruning.calibration.moments import Products
from .least_change import Seen, least_change


@dataclass(frozen=True)
class Changes:
    """What some projections were, and by how much they change.

    Attributes:
        projections: those that change.
        before: their weights as they came, (I, H).
        found: the whole change of each that has one, (I, H) float32.
    """

    projections: tuple[MLPView, ...]
    before: Mapping[Key, Tensor]
    found: Mapping[Key, Tensor]

    @classmethod
    def none(cls, projections: Sequence[MLPView]) -> Changes:
        """No change yet."""
        before = {each.key: _weight(each).clone() for each in projections}
        return cls(tuple(projections), before, {})

    @torch.no_grad()
    def make(self, strength: float) -> None:
        """Let the projections be what they were, and so many times their change."""
        for each in self.projections:
            was = self.before[each.key]
            change = self.found.get(each.key)
            now = was if change is None else was.float() + strength * change
            _weight(each).copy_(now.to(was.dtype))

    @contextmanager
    def or_as_before(self) -> Iterator[None]:
        """Whatever ends the block before its end, the projections are what they were."""
        try:
            yield
        except BaseException:
            self.make(0.0)
            raise

    def size(self, key: Key) -> float:
        """The norm of a change over that of the weight."""
        return float(self.found[key].norm() / self.before[key].float().norm().clamp_min(1e-30))

    def in_random_directions(self, seed: int) -> Changes:
        """Changes of the same sizes, each in a direction that was drawn."""
        generator = torch.Generator().manual_seed(seed)
        drawn: dict[Key, Tensor] = {}
        for key, change in self.found.items():
            noise = torch.randn(change.shape, generator=generator).to(change.device)
            drawn[key] = noise * (change.norm() / noise.norm())
        return replace(self, found=drawn)


def find_changes(
    view: ModelView,
    projections: Sequence[MLPView],
    prompts: Sequence[Prompt],
    batches: Iterable[object],
    *,
    show_progress: bool = False,
) -> Changes:
    """The least changes that take away how far prompts of one template differ.

    The projections change one after the other, from the first layer to the last, and behaviours and
    gradients are taken anew before each: of the deviations that are left it takes one in so many as
    there are projections still to come. The model is left with the whole change made.
    """
    changes = Changes.none(projections)
    moments = _moments(view, projections, batches, show_progress)
    found: dict[Key, Tensor] = {}
    with changes.or_as_before():
        for place, each in enumerate(track(projections, "changing layers", show_progress)):
            seen, values = _seen(view, each, prompts)
            wanted = -deviations(values, prompts) / (len(projections) - place)
            change = least_change(moments[each.key].sums, seen, wanted)
            found[each.key] = change.T.float()
            replace(changes, found=found).make(1.0)
    return replace(changes, found=found)


def _weight(mlp: MLPView) -> Tensor:
    """The weight of a projection as a view, (I, H)."""
    return read(mlp.tensors[mlp.spec.down].data, mlp.spec.down)["down"]


def _moments(
    view: ModelView,
    projections: Sequence[MLPView],
    batches: Iterable[object],
    show_progress: bool,
) -> dict[Key, Products]:
    """Second moments of what enters each projection on ordinary text."""
    sums = {
        each.key: Products(each.down_inputs, each.tensors[each.spec.down].device)
        for each in projections
    }

    def add(key: Key, args: tuple[Any, ...], mask: Tensor) -> None:
        inputs = args[0]
        real = token_mask(inputs, mask).to(inputs.device)
        sums[key].add(inputs.flatten(0, -2)[real].float())

    updates = [(projection(each), partial(add, each.key)) for each in projections]
    run_batches(view, batches, updates, show_progress)
    return sums


def _seen(view: ModelView, mlp: MLPView, prompts: Sequence[Prompt]) -> tuple[Seen, Tensor]:
    """What a projection sees of the prompts, and their behaviours (N,)."""
    number = {id(prompt): place for place, prompt in enumerate(prompts)}
    inputs, gradients, owners = list[Tensor](), list[Tensor](), list[int]()
    values: dict[int, Tensor] = {}
    for batch, found, traces in traced(view, [mlp], prompts):
        trace = traces[mlp.key]
        for row, prompt in enumerate(batch):
            length, place = len(prompt.ids), number[id(prompt)]
            inputs.append(trace.inputs[row, :length])
            gradients.append(trace.gradients[row, :length])
            owners += [place] * length
            values[place] = found[row]
    device = inputs[0].device
    seen = Seen(torch.cat(inputs), torch.cat(gradients), torch.tensor(owners, device=device))
    return seen, torch.stack([values[place] for place in range(len(prompts))])
