"""Sums of what differs between prompts while they run, and between activations that are given.

Axes: `K` keys (a component of a layer), `C` comparisons, `U` units, `S` tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, UnsupportedModelError
from ..prompts.tokens import align_lengths
from .capture import Groups
from .layer_keys import LayerKey, read_key
from .metrics import METRICS, PairMetrics, Sums, four_groups
from .other_names import also_named


class Differences:
    """The sums of every key and comparison, in one table.

    Small tensors of their own, made between a model's large ones and kept, would pin the memory
    around them: some 250 MB after 50 pairs.
    """

    def __init__(self, keys: Sequence[LayerKey], comparisons: int) -> None:
        self._rows = {key: row for row, key in enumerate(sorted(keys))}
        shape = len(Sums._fields), len(keys), comparisons
        self._table = torch.full(shape, torch.nan, dtype=torch.float64)

    def add(self, key: LayerKey, first: Tensor, second: Tensor, groups: Groups) -> None:
        own = slice(groups.start, groups.start + len(groups.sizes))
        sums = Sums.of(first, second, groups.sizes)
        self._table[:, self._rows[key], own] = torch.stack(list(sums))

    def measured(self) -> Measured:
        """The keys that were captured in all comparisons, in order of component and layer."""
        complete = ~self._table[0].isnan().any(dim=1)
        if not bool(complete.any()):
            raise UnsupportedModelError(
                "None of the components ran with the model. Choose others: residual_output is "
                "there in every model."
            )
        keys = tuple(key for key, row in self._rows.items() if complete[row])
        return Measured(keys, Sums(*self._table[:, complete]))


@dataclass(frozen=True)
class Measured:
    """Sums (K, C) of all keys and comparisons."""

    keys: tuple[LayerKey, ...]
    sums: Sums

    def values(self, name: str) -> Tensor:
        """One metric of all keys and comparisons, (K, C); NaN where it is not defined."""
        return METRICS[name].of(self.sums)

    def groups(self, comparison: int) -> PairMetrics:
        return four_groups(self.keys, self.sums.at((slice(None), comparison)))


def calculate_bias_metrics(
    act1: Mapping[str, Tensor], act2: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Measure how much the activations of two prompts differ.

    Where the prompts are of unequal length, the first half of the shorter one's tokens is
    compared from the left and the rest from the right, since nothing says which belong together;
    `visualize_bias` aligns tokens by their ids instead.

    Args:
        act1: activations of the first prompt by key (`mlp_output_layer_3`), each (U,), (S, U) or
            (1, S, U), of any dtype and device; computed in float64.
        act2: of the second.

    Returns:
        `layer_metrics` by key, `component_metrics` by component (over all elements of its layers;
        scale-free ones averaged over those that have one), `overall_metrics`, and
        `progression_metrics` by component: how it goes with depth. A figure that is not defined is
        None, with the reason in `undefined`. `mean_difference`, `l1_norm` and the other names of
        the published package are read from the same dicts. With `left_out`: key → tokens of each
        prompt that are not compared.

    Raises:
        DataError: nothing in common, another shape, NaN or Inf.
        ArgumentError: keys of another form.

    Example:
        >>> key = "mlp_output_layer_0"
        >>> metrics = calculate_bias_metrics({key: torch.zeros(3, 4)}, {key: torch.ones(3, 4)})
        >>> metrics["layer_metrics"][key]["mean"]
        1.0
    """
    left_out: dict[str, list[int]] = {}
    rows: dict[LayerKey, Sums] = {}
    for name, one, two, left in _aligned(act1, act2):
        left_out[name] = left
        rows[read_key(name)] = Sums.of(one, two, [len(one)])
    groups = four_groups(tuple(rows), Sums.joined(list(rows.values())))
    only = sorted(set(act1) ^ set(act2), key=str)
    return {**also_named(groups), "left_out": left_out, "in_one_only": only}


def calculate_activation_differences(
    act1: Mapping[str, Tensor], act2: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Give the absolute differences |a - b| of the activations of two prompts.

    Args:
        act1: activations of the first prompt by key, as in `calculate_bias_metrics`.
        act2: of the second. Tokens of prompts of unequal length are paired as there.

    Returns:
        Key → (tokens that are compared, U), float64, of the keys that both have.

    Raises:
        DataError: nothing in common, another shape, NaN or Inf.

    Example:
        >>> key = "mlp_output_layer_0"
        >>> calculate_activation_differences({key: torch.ones(1, 2)}, {key: -torch.ones(1, 2)})[key]
        tensor([[2., 2.]], dtype=torch.float64)
    """
    return {name: (one - two).abs() for name, one, two, _ in _aligned(act1, act2)}


def _aligned(
    act1: Mapping[str, Tensor], act2: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor, Tensor, list[int]]]:
    """Each shared key, the compared tokens of both sides (M, U), and how many are left out."""
    for name, given in (("act1", act1), ("act2", act2)):
        if not isinstance(given, Mapping) or not given:
            raise DataError(f"{name} holds no activations. Give a dict of key → tensor.")
    shared = [name for name in act1 if name in act2]
    if not shared:
        raise DataError(
            f"The activations have no key in common: {_some(act1)} and {_some(act2)}. Capture the "
            "same components of both prompts."
        )
    for name in shared:
        first = _matrix(act1[name], f"act1[{name!r}]")
        second = _matrix(act2[name], f"act2[{name!r}]").to(first.device)
        if first.shape[1] != second.shape[1]:
            raise DataError(
                f"{name} has {first.shape[1]} units in act1 and {second.shape[1]} in act2. Take "
                "both from one model."
            )
        alignment = align_lengths(len(first), len(second))
        one = first[[unit.first[0] for unit in alignment.units]]
        two = second[[unit.second[0] for unit in alignment.units]]
        yield name, one, two, [len(side) for side in alignment.left_out]


def _matrix(values: object, name: str) -> Tensor:
    """Activations as (S, U) float64."""
    try:
        # A copy, since torch cannot look into every array (read-only, of negative strides).
        tensor = torch.as_tensor(np.array(values) if isinstance(values, np.ndarray) else values)
    except (TypeError, ValueError, RuntimeError) as exc:
        raise DataError(f"{name} is no tensor ({exc}). Give a tensor or an array.") from exc
    if tensor.is_complex():
        raise DataError(f"{name} holds complex numbers. Give real ones.")
    tensor = tensor.detach().double()
    tensor = tensor[0] if tensor.dim() == 3 and tensor.shape[0] == 1 else tensor
    tensor = tensor[None] if tensor.dim() == 1 else tensor
    if tensor.dim() != 2 or not tensor.numel():
        raise DataError(
            f"{name} has shape {tuple(tensor.shape)}. Give (units,), (tokens, units) or "
            "(1, tokens, units)."
        )
    if not bool(tensor.isfinite().all()):
        raise DataError(f"{name} holds NaN or Inf. Give finite activations.")
    return tensor


def _some(names: Mapping[str, object]) -> str:
    listed = ", ".join(map(repr, list(names)[:3]))
    return f"{listed}, ..." if len(names) > 3 else listed
