"""How much the activations of two prompts differ, from a few sums over tokens and units.

A metric is one small function of these sums, registered under the name it has in the results.

Axes: `K` keys (a component of a layer), `C` comparisons, `M` aligned units of tokens, `U` units.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, UnsupportedModelError
from ...registry import Registry
from ..prompts.alignment import align_lengths
from .capture import Groups
from .layer_keys import LayerKey, read_key

EMPTY = "no tokens are compared"
NO_SIZE = "one side is zero everywhere"
_PIECE = 2**18  # elements at once: what lies in the CPU's cache is many times as fast
FEW = "fewer than two layers have a value"
UNKNOWN = "the layer has no value"


@dataclass(frozen=True)
class Sums:
    """Sums over the tokens and units of one comparison, or of many: tensors of one shape, float64.

    Attributes:
        count: how many differences.
        absolute, squared: sums of |a - b| and of (a - b)^2.
        largest, smallest: of |a - b|.
        dot, first, second: sums of a b, a^2 and b^2.
    """

    count: Tensor
    absolute: Tensor
    squared: Tensor
    largest: Tensor
    smallest: Tensor
    dot: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, first: Tensor, second: Tensor, sizes: Sequence[int]) -> Sums:
        """Of aligned activations (M, U); `sizes` are the comparisons' shares of M."""
        piece = max(1, _PIECE // first.shape[1]) if first.device.type == "cpu" else len(first)
        pieces = zip(torch.split(first, piece), torch.split(second, piece), strict=True)
        rows = cls.joined([cls._of_rows(one, two) for one, two in pieces], torch.cat)
        owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        zeros = torch.zeros(len(sizes), dtype=torch.float64)
        names = ("count", "absolute", "squared", "dot", "first", "second")
        sums = {name: zeros.index_add(0, owner, getattr(rows, name)) for name in names}
        ends = {
            "largest": zeros.scatter_reduce(0, owner, rows.largest, "amax"),
            "smallest": (zeros + math.inf).scatter_reduce(0, owner, rows.smallest, "amin"),
        }
        return cls(**sums, **ends)

    @classmethod
    def _of_rows(cls, first: Tensor, second: Tensor) -> Sums:
        """Each row (U,) by itself."""
        difference = (first - second).abs_()
        largest, smallest = difference.amax(dim=1), difference.amin(dim=1)
        total = difference.sum(dim=1)
        absolute = total.cpu().double()
        # Squares of the distances from the row's mean, so that equal differences have no spread.
        difference.sub_((total / first.shape[1])[:, None])
        around = difference.square_().sum(dim=1).cpu().double()
        values = {
            "largest": largest,
            "smallest": smallest,
            "dot": (first * second).sum(dim=1),
            "first": first.square().sum(dim=1),
            "second": second.square().sum(dim=1),
        }
        return cls(
            count=torch.full((len(first),), first.shape[1], dtype=torch.float64),
            absolute=absolute,
            squared=around + absolute.square() / first.shape[1],
            **{name: value.cpu().double() for name, value in values.items()},
        )

    @classmethod
    def joined(cls, parts: Sequence[Sums], join: Callable[[list[Tensor]], Tensor]) -> Sums:
        """Field by field, of equal shapes."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: join([getattr(part, name) for part in parts]) for name in names})

    def over(self, axis: int) -> Sums:
        """As if what lies along an axis were one comparison."""
        values = {name.name: getattr(self, name.name).sum(dim=axis) for name in fields(self)}
        values["largest"] = self.largest.amax(dim=axis)
        values["smallest"] = self.smallest.amin(dim=axis)
        return Sums(**values)

    def __getitem__(self, place: Any) -> Sums:
        return Sums(**{name.name: getattr(self, name.name)[place] for name in fields(self)})


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        function: sums → values of the same shape; NaN where it is not defined.
        scale_free: whether activations of any size can be compared. What is not, is taken over all
            elements of several layers; what is, is averaged over the layers.
    """

    function: Callable[[Sums], Tensor]
    scale_free: bool = False


METRICS: Registry[Metric] = Registry("bias metric")


def metric(
    name: str, *, scale_free: bool = False
) -> Callable[[Callable[[Sums], Tensor]], Callable[[Sums], Tensor]]:
    """Register a function of sums as a metric."""

    def register(function: Callable[[Sums], Tensor]) -> Callable[[Sums], Tensor]:
        METRICS.add(name, Metric(function, scale_free))
        return function

    return register


@metric("mean")
def mean_difference(sums: Sums) -> Tensor:
    """Mean of |a - b|."""
    return sums.absolute / sums.count


@metric("max")
def largest_difference(sums: Sums) -> Tensor:
    """Largest |a - b|."""
    return sums.largest + 0 * mean_difference(sums)


@metric("min")
def smallest_difference(sums: Sums) -> Tensor:
    """Smallest |a - b|."""
    return torch.where(sums.count > 0, sums.smallest, math.nan)


@metric("std")
def spread(sums: Sums) -> Tensor:
    """Standard deviation of |a - b| (of all there are, divided by their number)."""
    variance = sums.squared / sums.count - mean_difference(sums).square()
    return variance.clamp_min(0).sqrt()


@metric("l1")
def l1(sums: Sums) -> Tensor:
    """Sum of |a - b|."""
    return sums.absolute + 0 * mean_difference(sums)


@metric("l2")
def l2(sums: Sums) -> Tensor:
    """Euclidean length of a - b."""
    return sums.squared.sqrt() + 0 * mean_difference(sums)


@metric("relative_difference", scale_free=True)
def relative_difference(sums: Sums) -> Tensor:
    """|a - b| over the mean of |a| and |b| (Euclidean lengths): 0 for equal, 2 for opposite."""
    return 2 * sums.squared.sqrt() / (sums.first.sqrt() + sums.second.sqrt())


@metric("cosine_distance", scale_free=True)
def cosine_distance(sums: Sums) -> Tensor:
    """1 - a b / (|a| |b|): 0 for one direction, 1 for orthogonal, 2 for opposite."""
    lengths = (sums.first * sums.second).sqrt()
    found = 1 - sums.dot / lengths
    return torch.where(lengths > 0, found.clamp(0, 2), math.nan)


class Differences:
    """A reducer: the sums of every key and comparison.

    They lie in one table. Small tensors of their own, made between a model's large ones and kept,
    would pin the memory around them: some 250 MB after 50 pairs.
    """

    def __init__(self) -> None:
        self._rows: dict[LayerKey, int] = {}
        self._seen: Counter[LayerKey] = Counter()
        self._table = torch.zeros(len(fields(Sums)), 0, 0, dtype=torch.float64)

    def add(self, key: LayerKey, first: Tensor, second: Tensor, groups: Groups) -> None:
        sums = Sums.of(first, second, groups.sizes)
        row = self._rows.setdefault(key, len(self._rows))
        end = groups.start + len(groups.sizes)
        self._seen[key] += len(groups.sizes)
        self._reserve(len(self._rows), end)
        values = [getattr(sums, name.name) for name in fields(Sums)]
        self._table[:, row, groups.start : end] = torch.stack(values)

    def measured(self, comparisons: int) -> Measured:
        """The keys that were captured in all comparisons, in order of component and layer.

        Raises:
            UnsupportedModelError: there is none.
        """
        keys = sorted(key for key, seen in self._seen.items() if seen == comparisons)
        if not keys:
            raise UnsupportedModelError(
                "None of the components ran with the model. Choose others: residual_output is "
                "there in every model."
            )
        rows = torch.tensor([self._rows[key] for key in keys])
        return Measured(tuple(keys), Sums(*self._table[:, rows, :comparisons]))

    def _reserve(self, rows: int, comparisons: int) -> None:
        """Make room, at least twice what there was."""
        held = self._table.shape[1:]
        if rows <= held[0] and comparisons <= held[1]:
            return
        wanted = zip((rows, comparisons), held, strict=True)
        table = self._table.new_zeros(
            len(self._table), *(had if more <= had else max(more, 2 * had) for more, had in wanted)
        )
        table[:, : held[0], : held[1]] = self._table
        self._table = table


@dataclass(frozen=True)
class Measured:
    """Sums (K, C) of all keys and comparisons."""

    keys: tuple[LayerKey, ...]
    sums: Sums

    def values(self, name: str) -> Tensor:
        """One metric of all keys and comparisons, (K, C); NaN where it is not defined."""
        return METRICS[name].function(self.sums)

    def groups(self, comparison: int) -> dict[str, Any]:
        """The four groups of figures of a comparison, plain data for JSON."""
        return four_groups(self.keys, self.sums[:, comparison])


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
        None, with the reason in `undefined`. With `left_out`: key → tokens of each prompt that are
        not compared.

    Raises:
        DataError: nothing in common, another shape, NaN or Inf.
        ArgumentError: keys of another form.

    Example:
        >>> key = "mlp_output_layer_0"
        >>> found = calculate_bias_metrics({key: torch.zeros(3, 4)}, {key: torch.ones(3, 4)})
        >>> found["layer_metrics"][key]["mean"]
        1.0
    """
    for name, given in (("act1", act1), ("act2", act2)):
        if not isinstance(given, Mapping) or not given:
            raise DataError(f"{name} holds no activations. Give a dict of key → tensor.")
    shared = [name for name in act1 if name in act2]
    if not shared:
        raise DataError(
            f"The activations have no key in common: {_some(act1)} and {_some(act2)}. Capture the "
            "same components of both prompts."
        )
    left_out: dict[str, list[int]] = {}
    rows: dict[LayerKey, Sums] = {}
    for name in shared:
        first, second = _side_by_side(name, act1[name], act2[name])
        alignment = align_lengths(len(first), len(second))
        left_out[name] = [len(side) for side in alignment.left_out]
        one = first[[unit.first[0] for unit in alignment.units]]
        two = second[[unit.second[0] for unit in alignment.units]]
        rows[read_key(name)] = Sums.of(one, two, [len(one)])
    found = four_groups(tuple(rows), Sums.joined(list(rows.values()), torch.cat))
    only = sorted(set(act1) ^ set(act2), key=str)
    return found | {"left_out": left_out, "in_one_only": only}


def _side_by_side(name: str, act1: object, act2: object) -> tuple[Tensor, Tensor]:
    """The activations of both prompts as matrices of equal width."""
    first, second = _matrix(act1, f"act1[{name!r}]"), _matrix(act2, f"act2[{name!r}]")
    if first.shape[1] != second.shape[1]:
        raise DataError(
            f"{name} has {first.shape[1]} units in act1 and {second.shape[1]} in act2. Take "
            "both from one model."
        )
    return first, second.to(first.device)


def four_groups(keys: Sequence[LayerKey], sums: Sums) -> dict[str, Any]:
    """The specification's four groups, from the sums (K,) of one comparison."""
    of_layers = {name: found.function(sums) for name, found in _metrics()}
    places = {
        component: [i for i, key in enumerate(keys) if key.component == component]
        for component in dict.fromkeys(key.component for key in keys)
    }
    return {
        "layer_metrics": {
            str(key): _figures({name: v[i] for name, v in of_layers.items()}, sums.count[i])
            for i, key in enumerate(keys)
        },
        "component_metrics": {
            component: _over(sums, of_layers, own) for component, own in places.items()
        },
        "overall_metrics": _over(sums, of_layers, list(range(len(keys)))),
        "progression_metrics": {
            component: _progression([keys[i].layer for i in own], of_layers, own)
            for component, own in places.items()
        },
    }


def _metrics() -> list[tuple[str, Metric]]:
    return [(name, METRICS[name]) for name in METRICS]


def _over(sums: Sums, of_layers: Mapping[str, Tensor], places: list[int]) -> dict[str, Any]:
    """Figures of several keys together."""
    together = sums[places].over(0)
    values = {
        name: of_layers[name][places].nanmean() if found.scale_free else found.function(together)
        for name, found in _metrics()
    }
    return {**_figures(values, together.count), "layers": len(places)}


def _figures(values: Mapping[str, Tensor], count: Tensor) -> dict[str, Any]:
    """Plain numbers; None for what is not defined, and why."""
    found = {name: _number(value) for name, value in values.items()}
    return _with_reasons(found, lambda _: NO_SIZE if count > 0 else EMPTY)


def _with_reasons(found: Mapping[str, Any], reason: Callable[[str], str]) -> dict[str, Any]:
    undefined = {name: reason(name) for name, value in found.items() if value is None}
    return {**found, "undefined": undefined} if undefined else dict(found)


def _progression(
    layers: Sequence[int], of_layers: Mapping[str, Tensor], places: list[int]
) -> dict[str, Any]:
    """How the scale-free figures, and the mean difference, go with depth."""
    order = sorted(range(len(places)), key=lambda i: layers[i])
    depth = [layers[i] for i in order]
    found: dict[str, Any] = {"layers": depth}
    names = ["mean", *(name for name, each in _metrics() if each.scale_free)]
    for name in names:
        values = of_layers[name][[places[i] for i in order]]
        known = ~values.isnan()
        found[name] = {
            "values": [_number(value) for value in values],
            "first": _number(values[0]),
            "last": _number(values[-1]),
            "peak_layer": depth[int(values.nan_to_num(-1).argmax())] if bool(known.any()) else None,
            "slope": _slope(torch.tensor(depth)[known].double(), values[known]),
        }
        found[name] = _with_reasons(found[name], lambda each: FEW if each == "slope" else UNKNOWN)
    return found


def _slope(depth: Tensor, values: Tensor) -> float | None:
    """Least-squares change per layer; None for fewer than two layers."""
    if len(values) < 2:
        return None
    centred = depth - depth.mean()
    return _number((centred * values).sum() / centred.square().sum())


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


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
    if tensor.dim() == 3 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.dim() == 1:
        tensor = tensor[None]
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
