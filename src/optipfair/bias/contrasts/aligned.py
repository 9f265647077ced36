"""What projections see of prompts of one template, aligned at the word; and the part that differs.

What is compared are the tokens at the end of the prompts: the last of the word, and those that
follow, which all prompts of a template have.

Axes: `n` prompts of a group, `c` compared tokens, `N` prompts, `I` inputs of a projection, `H`
hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ...arch.slots import read
from ...arch.view import MLPView, ModelView
from ...hooks import evaluating
from .contrast_prompts import Prompt, batches_of
from .tracing import Key, changing, traced, values_of


@dataclass(frozen=True)
class Group:
    """One projection and the prompts of one template."""

    places: tuple[int, ...]  # numbers of the prompts
    differences: Tensor  # what enters it, less the mean over the prompts, (n, c, I)
    worth: Tensor  # of each of these inputs to first order, (n, c, I)

    @property
    def effects(self) -> Tensor:
        """How much of each prompt's behaviour each input makes at each token, (n, c, I), nats."""
        return self.differences * self.worth


@dataclass(frozen=True)
class Aligned:
    """What some projections saw of some prompts."""

    prompts: Sequence[Prompt]
    values: Tensor  # the behaviours, (N,)
    groups: Mapping[Key, list[Group]]


def aligned(view: ModelView, projections: Sequence[MLPView], prompts: Sequence[Prompt]) -> Aligned:
    """Run the prompts once, forward and back, and keep what differs within each template."""
    number = {id(prompt): place for place, prompt in enumerate(prompts)}
    values: dict[int, Tensor] = {}
    seen: dict[Key, dict[int, tuple[Tensor, Tensor]]] = {each.key: {} for each in projections}
    for batch, found, traces in traced(view, projections, prompts):
        for row, prompt in enumerate(batch):
            place, end = number[id(prompt)], len(prompt.ids)
            values[place] = found[row]
            for key, trace in traces.items():
                tokens = slice(end - prompt.compared, end)
                seen[key][place] = (trace.inputs[row, tokens], trace.gradients[row, tokens])
    members = _members(prompts)
    groups = {
        each.key: list(_groups(weight_of(each), seen[each.key], members)) for each in projections
    }
    return Aligned(prompts, torch.stack([values[k] for k in range(len(prompts))]), groups)


def weight_of(mlp: MLPView) -> Tensor:
    """The weight of a projection, (I, H) float32."""
    return read(mlp.tensors[mlp.spec.down].detach(), mlp.spec.down)["down"].float()


def without(
    view: ModelView, prompts: Sequence[Prompt], removed: Mapping[nn.Module, Mapping[int, Tensor]]
) -> Tensor:
    """The behaviours, (N,), where something is taken from the outputs of projections.

    `removed`: module → number of a prompt → what is taken at its compared tokens, (c, H).
    """
    number = {id(prompt): place for place, prompt in enumerate(prompts)}
    found: dict[int, Tensor] = {}
    with evaluating(view.model):
        for batch, inputs in batches_of(prompts):
            length = inputs.input_ids.shape[1]
            taken = {
                module: _padded([(p, rows[number[id(p)]]) for p in batch], length)
                for module, rows in removed.items()
            }
            with changing(taken):
                values = values_of(view, batch, inputs)
            found |= {number[id(p)]: value for p, value in zip(batch, values, strict=True)}
    return torch.stack([found[place] for place in range(len(prompts))])


def removal(mlp: MLPView, groups: Sequence[Group], unit: slice | None = None) -> dict[int, Tensor]:
    """What its inputs, or those of a slice, make different in a projection's outputs.

    Number of a prompt → (c, H). Without it all prompts of a template are given the same.
    """
    chosen = slice(None) if unit is None else unit
    weight = weight_of(mlp)[chosen]
    return {
        place: difference[:, chosen] @ weight
        for group in groups
        for place, difference in zip(group.places, group.differences, strict=True)
    }


def _members(prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
    numbers = sorted({prompt.group for prompt in prompts})
    return [tuple(k for k, each in enumerate(prompts) if each.group == n) for n in numbers]


def _groups(
    weight: Tensor, seen: Mapping[int, tuple[Tensor, Tensor]], members: Sequence[tuple[int, ...]]
) -> Iterator[Group]:
    for places in members:
        inputs = torch.stack([seen[place][0] for place in places]).float()
        gradients = torch.stack([seen[place][1] for place in places]).float()
        yield Group(places, inputs - inputs.mean(dim=0), gradients @ weight.T)


def _padded(rows: Sequence[tuple[Prompt, Tensor]], length: int) -> Tensor:
    """What is taken at the last tokens of each prompt, as (B, S, H)."""
    placed = [
        nn.functional.pad(taken, (0, 0, len(prompt.ids) - len(taken), 0)) for prompt, taken in rows
    ]
    padded = pad_sequence(placed, batch_first=True)
    return nn.functional.pad(padded, (0, 0, 0, length - padded.shape[1]))
