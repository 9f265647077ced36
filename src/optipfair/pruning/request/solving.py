"""A request and a model → which layers go and how many neurons stay. It only reads.

Without a budget this is arithmetic; with one, the largest result that fits is searched for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ...arch.spec import ArchSpec, MLPSpec
from ...arch.view import ModelView
from ...errors import ArgumentError, UnsupportedModelError
from .budget import Budget, largest_that_fits
from .depth_targets import DepthRequest
from .pruning_request import PruningRequest
from .width_targets import WidthTarget

if TYPE_CHECKING:
    from ...arch.view import MLPView

_LEAST, _MOST = 0.5, 1.5  # of the uniform share


def check_width_is_prunable(spec: ArchSpec, mlps: Sequence[MLPView]) -> None:
    """Refuse MLPs that cannot be pruned, with the reason."""
    reason = next((mlp.spec.why_not for mlp in mlps if mlp.spec.why_not), "")
    if not mlps:
        reason = "its layers hold no MLP of a known form"
    if reason:
        raise UnsupportedModelError(
            f"Cannot prune the MLP width of {spec.model_type!r}: {reason}. "
            'Depth pruning works: pruning_type="DEPTH".'
        )


def kept_width(spec: ArchSpec, mlp: MLPView, target: WidthTarget) -> int:
    """How many neurons of an MLP stay; MLPs that one config field governs are rounded alike."""
    units = target.units_kept(mlp.width)
    if units is not None:
        return units
    factor = mlp.spec.width_factor * mlp.spec.groups
    field = int(mlp.width / factor)  # the value of the config field, or the size of a group
    return int(factor * target.kept(field, mlp.hidden_size, width_multiple(spec, mlp.spec)))


def exact_width(mlp: MLPView, target: WidthTarget) -> int:
    """The same before anything is rounded to a multiple."""
    units = target.units_kept(mlp.width)
    if units is not None:
        return units
    groups = mlp.spec.groups
    return groups * target.exact_kept(mlp.width // groups, mlp.hidden_size)


def width_multiple(spec: ArchSpec, mlp: MLPSpec) -> int:
    """What the value of the MLP's config field is rounded to."""
    same = [each.width_multiple for each in spec.mlps if each.width_key == mlp.width_key]
    return math.lcm(*same, mlp.width_factor.denominator)


@dataclass(frozen=True)
class Share:
    """An MLP and what it would lose if all lost alike."""

    layer: int
    width: int
    kept: int  # in the uniform case, below `width`
    multiple: int  # kept widths are multiples of it
    weight: int  # parameters of one neuron (of all experts' where there are)

    def kept_at(self, factor: float) -> int:
        """How many stay where `factor` times the uniform number goes; at least one multiple."""
        wanted = self.width - factor * (self.width - self.kept)
        return max(int(wanted) // self.multiple, 1) * self.multiple


def allocate(shares: Sequence[Share], losses: Mapping[int, float]) -> list[int]:
    """How many neurons stay in each MLP; together at most as many parameters as uniformly.

    A layer whose pruning costs the model twice as much loses half as many neurons, within half and
    one and a half times the uniform number. `losses` says for each layer how much the loss of a
    token rises if it alone is pruned.
    """
    floor = max(max(losses.values()) * 1e-3, 1e-12)  # nothing is missed, or less than nothing
    ease = {layer: 1 / max(loss, floor) for layer, loss in losses.items()}
    wanted = sum(share.weight * share.kept for share in shares)

    def kept(scale: float) -> list[int]:
        factors = [min(max(scale * ease[share.layer], _LEAST), _MOST) for share in shares]
        return [share.kept_at(f) for share, f in zip(shares, factors, strict=True)]

    def fits(scale: float) -> bool:
        left = zip(shares, kept(scale), strict=True)
        return sum(share.weight * count for share, count in left) <= wanted

    low, high = 0.0, _MOST / min(ease.values())  # at `high` every layer loses the most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return kept(high)


@dataclass(frozen=True)
class Sizes:
    """What a model weighs now."""

    parameters: int  # shared ones once
    bytes: int  # of its weights
    item_bytes: Callable[[Tensor], int]  # of one element of a tensor, as it will be stored

    @classmethod
    def of_model(cls, view: ModelView) -> Sizes:
        """Of a model in memory."""
        parameters = list(view.model.parameters())
        size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        return cls(sum(p.numel() for p in parameters), size, lambda tensor: tensor.element_size())


@dataclass(frozen=True)
class Solution:
    """Which layers go, and how many neurons stay; None where none goes."""

    drop: tuple[int, ...]
    width: WidthTarget | None


def solve(view: ModelView, request: PruningRequest, sizes: Sizes) -> Solution:
    """Say what a request means for a model."""
    depth, width = request.depth, request.width
    drop = () if depth is None or depth.open else depth.resolve(len(view.layers))
    if request.budget is None:
        return Solution(drop, width)
    scale = _Scale(view, sizes, request.budget)
    if width is None:
        assert depth is not None
        return Solution(scale.fewest_layers(depth), None)
    if depth is None or not depth.open:
        widest = scale.widest(width, drop)
        if widest is None:
            raise scale.out_of_reach("neurons", scale.size(drop, scale.step(width, 1)))
        return Solution(drop, widest)
    return scale.balanced(width, depth)


class _Scale:
    """Weighs what would be left, in the unit of a budget."""

    def __init__(self, view: ModelView, sizes: Sizes, budget: Budget) -> None:
        self.view, self.budget = view, budget
        by_count = budget.parameters is not None
        self.total = sizes.parameters if by_count else sizes.bytes
        self.unit = (lambda tensor: 1) if by_count else sizes.item_bytes
        self.layers = [list(layer.module.parameters()) for layer in view.layers]
        self.widest_mlp = max((mlp.width for mlp in view.mlps), default=1)

    def size(self, drop: Sequence[int], target: WidthTarget | None) -> int:
        """What is left without these layers, and with these widths in the others."""
        stay = set(range(len(self.layers))) - set(drop)
        before = {id(p): p for layer in self.layers for p in layer}
        after = {id(p) for index in stay for p in self.layers[index]}
        gone = sum(self._weight(p) for key, p in before.items() if key not in after)
        if target is None:
            return self.total - gone
        cut: dict[int, int] = {}  # shared tensors once
        for mlp in self.view.mlps:
            if mlp.layer in stay and (target.layers is None or mlp.layer in target.layers):
                kept = kept_width(self.view.spec, mlp, target)
                for slot, tensor in mlp.tensors.items():
                    if isinstance(tensor, nn.Parameter):  # a buffer is not weighed
                        unit = self._weight(tensor) * slot.rows // tensor.shape[slot.axis]
                        cut[id(tensor)] = unit * (mlp.width - kept)
        return self.total - gone - sum(cut.values())

    def _weight(self, tensor: Tensor) -> int:
        return tensor.numel() * self.unit(tensor)

    def widest(self, target: WidthTarget, drop: Sequence[int]) -> WidthTarget | None:
        """The widest target that fits, None where none does."""
        step = largest_that_fits(
            lambda step: self.size(drop, self.step(target, step)),
            self.widest_mlp,
            self.budget.limit,
        )
        return None if step is None else self.step(target, step)

    def step(self, target: WidthTarget, step: int) -> WidthTarget:
        return replace(target, share=Fraction(step, self.widest_mlp))

    def fewest_layers(self, depth: DepthRequest) -> tuple[int, ...]:
        """The fewest layers to remove; none where the model fits as it is."""
        total = len(self.layers)
        for count in range(total):
            drop = depth.first_to_go(total, count)
            if self.size(drop, None) <= self.budget.limit:
                return drop
        raise self.out_of_reach("layers", self.size(drop, None))

    def balanced(self, target: WidthTarget, depth: DepthRequest) -> Solution:
        """Layers and neurons in about the same share: the nearest such pair that fits."""
        total = len(self.layers)
        pairs: list[tuple[Fraction, Solution]] = []
        for count in range(total):
            drop = depth.first_to_go(total, count)
            width = self.widest(target, drop)
            if width is not None and width.share is not None:
                apart = abs(Fraction(count, total) - (1 - width.share))
                pairs.append((apart, Solution(drop, width)))
        if not pairs:
            smallest = self.size(drop, self.step(target, 1))
            raise self.out_of_reach("layers and neurons", smallest)
        return min(pairs, key=lambda pair: pair[0])[1]

    def out_of_reach(self, what: str, smallest: int) -> ArgumentError:
        return ArgumentError(
            f"A budget of {self.budget} cannot be reached by removing {what}: {smallest:,} "
            f"{self.budget.unit} would be left at least. Give a larger budget, or another "
            "pruning_type."
        )
