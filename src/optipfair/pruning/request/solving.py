"""A request and a model → which layers go and what share of the neurons stays. It only reads.

Without a budget this is arithmetic; with one, the largest result that fits is searched for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from torch import Tensor

from ...arch.view import ModelView
from ...errors import ArgumentError
from .budget import Budget, largest_that_fits
from .pruning_request import PruningRequest
from .targets import DepthRequest, WidthTarget
from .widths import kept_width


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
                for tensor in mlp.tensors.values():
                    cut[id(tensor)] = self._weight(tensor) // mlp.width * (mlp.width - kept)
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
