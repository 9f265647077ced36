"""Run prompts through a model once and hand what its components give, aligned, to reducers.

Axes: `B` prompts of a batch, `S` sequence, `U` units of a component, `M` aligned units of tokens
of all comparisons of a batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...arch.limits import positions
from ...arch.view import ModelView
from ...errors import ArgumentError, DataError, UnsupportedModelError
from ...hooks import evaluating, recording
from ...progress import track
from ..prompts.tokens import Alignment, Encoded, align
from .components import Tap, first_tensor, tap
from .layer_keys import LayerKey

BATCH_TOKENS = 2048  # of one batch, padding included
_LONGEST = 8192  # tokens of a prompt, however many positions a model has: attention is quadratic


@dataclass(frozen=True)
class Comparison:
    """Two prompts and which of their tokens are compared."""

    first: Encoded
    second: Encoded

    @property
    def sides(self) -> tuple[Encoded, Encoded]:
        return self.first, self.second

    @cached_property
    def alignment(self) -> Alignment:
        return align(self.first, self.second)


@dataclass(frozen=True)
class Groups:
    """Which rows of the aligned activations belong to which comparison."""

    start: int  # number of the batch's first comparison
    sizes: tuple[int, ...]  # units of tokens of each comparison of the batch, one after the other


# Keeps a little of a component's aligned activations, float32 (M, U) of both sides.
Reducer = Callable[[LayerKey, Tensor, Tensor, Groups], None]


@dataclass(frozen=True)
class Captured:
    """What a capture saw beside the activations."""

    prompts: int  # each ran once
    passes: int
    missing: dict[str, dict[int, str]]  # component → layer → why it has none there


def capture(
    view: ModelView,
    comparisons: Sequence[Comparison],
    components: Sequence[str],
    layers: Sequence[int],
    reducers: Sequence[Reducer],
    *,
    show_progress: bool = False,
) -> Captured:
    """Run every prompt once, without the head, and reduce what the components give on the way.

    Prompts that recur in one batch run once. Every reducer gets all components of all layers.
    Refused are components that no layer has, prompts that are too long, and NaN and Inf.
    """
    taps, missing = some_taps(view, components, layers)
    for side in (side for each in comparisons for side in each.sides):
        check_length(view, side)
    batches = list(_batches(comparisons))
    device: Any = view.model.get_input_embeddings().weight.device
    with evaluating(view.model), _hint():
        for batch in track(batches, "running prompts", show_progress, unit="batch"):
            hooks = [
                (place.module, place.inputs, partial(_reduce, reducers, batch, key, place))
                for key, place in taps.items()
            ]
            with recording(hooks):
                run_base(view, batch.inputs(device))
    for key in (key for key in taps if not all(key in batch.seen for batch in batches)):
        missing.setdefault(key.component, {})[key.layer] = "it did not run"
    return Captured(sum(len(batch.prompts) for batch in batches), len(batches), missing)


def check_length(view: ModelView, encoded: Encoded) -> None:
    """Refuse a prompt that is longer than what the model can read."""
    known = positions(view.model)
    limit = _LONGEST if known is None else min(known, _LONGEST)
    if len(encoded) > limit:
        most = f"this model has {limit} positions" if limit < _LONGEST else f"{limit} are read"
        raise DataError(
            f"The prompt {encoded.text[:40]!r}... has {len(encoded)} tokens; {most}. Give a "
            "shorter one."
        )


def run_base(view: ModelView, inputs: Mapping[str, Tensor]) -> None:
    """Run the model without its head and without a cache."""
    base: Any = view.model.base_model
    named = inspect.signature(base.forward).parameters
    base(**inputs, **({"use_cache": False} if "use_cache" in named else {}))


def find_taps(
    view: ModelView, components: Sequence[str], layers: Sequence[int]
) -> tuple[dict[LayerKey, Tap], dict[str, dict[int, str]]]:
    """Where components of layers show; and component → layer → why it has none there."""
    taps: dict[LayerKey, Tap] = {}
    missing: dict[str, dict[int, str]] = {}
    for index in layers:
        for component in components:
            found = tap(view.layers[index], component)
            if isinstance(found, Tap):
                taps[LayerKey(component, index)] = found
            else:
                missing.setdefault(component, {})[index] = found
    return taps, missing


def some_taps(
    view: ModelView, components: Sequence[str], layers: Sequence[int]
) -> tuple[dict[LayerKey, Tap], dict[str, dict[int, str]]]:
    """`find_taps`; components that no layer has are refused."""
    taps, missing = find_taps(view, components, layers)
    if not taps:
        reasons = "; ".join(
            f"{component} ({', '.join(dict.fromkeys(layers.values()))})"
            for component, layers in missing.items()
        )
        raise ArgumentError(f"No layer has {reasons}. Choose another component.")
    return taps, missing


class _Batch:
    """Some comparisons, their prompts padded to the right, and where their aligned tokens are."""

    def __init__(self, start: int, comparisons: Sequence[Comparison]) -> None:
        self.groups = Groups(start, tuple(len(c.alignment.units) for c in comparisons))
        self.prompts = list(dict.fromkeys(side.ids for each in comparisons for side in each.sides))
        self.length = max(map(len, self.prompts))
        self.seen: set[LayerKey] = set()
        self._sides = [self._places(comparisons, side) for side in (0, 1)]

    def inputs(self, device: torch.device) -> dict[str, Tensor]:
        rows = [torch.tensor(prompt) for prompt in self.prompts]
        inputs = {"input_ids": pad_sequence(rows, batch_first=True).to(device)}
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return inputs if bool(mask.all()) else inputs | {"attention_mask": mask.to(device)}

    def _places(self, comparisons: Sequence[Comparison], side: int) -> _Places:
        rows = {prompt: row for row, prompt in enumerate(self.prompts)}
        begins = [rows[each.sides[side].ids] * self.length for each in comparisons]
        units = [
            [begin + token for token in unit.sides[side]]
            for begin, each in zip(begins, comparisons, strict=True)
            for unit in each.alignment.units
        ]
        others = [(token, owner) for owner, unit in enumerate(units) for token in unit[1:]]
        return _Places(
            torch.tensor([unit[0] for unit in units], dtype=torch.long),
            torch.tensor([token for token, _ in others], dtype=torch.long),
            torch.tensor([owner for _, owner in others], dtype=torch.long),
            torch.tensor([[len(unit)] for unit in units]),
        )

    def aligned(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides of (B, S, U): the means of the tokens of each unit, float32 (M, U)."""
        flat = values.reshape(len(self.prompts) * self.length, -1)
        first, second = (places.means(flat) for places in self._sides)
        return first, second


class _Places(NamedTuple):
    """Where the aligned units of one side are in a batch's tokens."""

    firsts: Tensor  # the first token of each unit, (M,)
    others: Tensor  # the other tokens of the units of several
    owners: Tensor  # the unit of each of these
    sizes: Tensor  # how many tokens each unit has, (M, 1)

    def means(self, flat: Tensor) -> Tensor:
        """Of the tokens of each unit, float32 (M, U)."""
        firsts, others, owners, sizes = (part.to(flat.device) for part in self)
        taken = flat.index_select(0, firsts).float()
        if len(others):
            taken.index_add_(0, owners, flat.index_select(0, others).float()).div_(sizes)
        return taken


def _batches(comparisons: Sequence[Comparison]) -> Iterator[_Batch]:
    """As many comparisons together as fit, in order."""
    held: list[Comparison] = []
    start, longest = 0, 0
    for number, each in enumerate(comparisons):
        longer = max(longest, *map(len, each.sides))
        if held and 2 * (len(held) + 1) * longer > BATCH_TOKENS:
            yield _Batch(start, held)
            held, start = [], number
            longer = max(map(len, each.sides))
        held.append(each)
        longest = longer
    if held:
        yield _Batch(start, held)


def _reduce(
    reducers: Sequence[Reducer], batch: _Batch, key: LayerKey, place: Tap, value: object
) -> None:
    tensor = first_tensor(value)
    tokens = len(batch.prompts) * batch.length
    if tensor is None or tensor.shape[:-1].numel() != tokens:
        shape = None if tensor is None else tuple(tensor.shape)
        raise UnsupportedModelError(
            f"{key} gives {shape} where the prompts have {tokens} tokens. Leave the component out."
        )
    batch.seen.add(key)
    first, second = batch.aligned(tensor if place.part is None else place.part(tensor))
    if not bool((first.sum() + second.sum()).isfinite()):
        raise DataError(
            f"{key} gives NaN or Inf for these prompts, so that nothing can be compared. Load the "
            f"model in a wider dtype than {tensor.dtype}, or leave the component out."
        )
    for reducer in reducers:
        reducer(key, first, second, batch.groups)


@contextmanager
def _hint() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as exc:
        full = isinstance(exc, torch.OutOfMemoryError | MemoryError)
        if full or "can't allocate memory" in str(exc):  # what torch says on the CPU
            exc.add_note("Shorter prompts, fewer controls or a smaller dtype need less memory.")
        raise


class Kept:
    """It keeps the aligned activations of some keys and comparisons, on the CPU."""

    def __init__(self, keys: Sequence[LayerKey], comparisons: Sequence[int]) -> None:
        self._wanted, self._numbers = set(keys), set(comparisons)
        self.found: dict[tuple[int, LayerKey], tuple[Tensor, Tensor]] = {}

    def add(self, key: LayerKey, first: Tensor, second: Tensor, groups: Groups) -> None:
        if key not in self._wanted:
            return
        sides = (torch.split(side, list(groups.sizes)) for side in (first, second))
        for number, (one, two) in enumerate(zip(*sides, strict=True), start=groups.start):
            if number in self._numbers:
                self.found[number, key] = one.cpu().clone(), two.cpu().clone()
