"""How many layers go, or which: counts, indices and percentages, and what excludes what."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...checking import check_layer_count, check_layer_indices, check_layers_to_remove
from ...errors import ArgumentError
from ..layers.strategies import LAYER_STRATEGIES, custom_layers, select_layers_to_remove
from .budget import Budget
from .shares import check_percentage, of_a_hundred, refuse_beside_budget, removed_count


@dataclass(frozen=True)
class DepthRequest:
    """How many layers go, or which: count, indices or percentage, or a budget decides."""

    method: str
    count: int | None = None
    indices: tuple[int, ...] | None = None
    percentage: float | None = None
    chosen: Callable[[int], Sequence[int]] | None = None  # by data: count → the layers that go

    @property
    def open(self) -> bool:
        return self.count is None and self.indices is None and self.percentage is None

    def resolve(self, total_layers: int) -> tuple[int, ...]:
        """Say which layers of a model go; of a percentage p, floor(L * p / 100 + 1e-9 * L)."""
        if self.indices is not None:
            return tuple(check_layers_to_remove("layer_indices", self.indices, total_layers))
        return self.first_to_go(total_layers, self.number(total_layers))

    def number(self, total_layers: int) -> int:
        """How many layers of a model go; a number or indices that it has not are refused."""
        if self.indices is not None:
            return len(check_layers_to_remove("layer_indices", self.indices, total_layers))
        count = self.count
        if count is None:
            count = _count_from_percentage(self.percentage or 0.0, total_layers)
        return check_layer_count("num_layers_to_remove", count, total_layers)

    def first_to_go(self, total_layers: int, count: int) -> tuple[int, ...]:
        """The layers that go when so many go; `count` may be 0."""
        if count == 0:
            return ()
        if self.chosen is not None:
            return tuple(self.chosen(count))
        return tuple(select_layers_to_remove(total_layers, count, self.method))


def depth_request(
    num_layers_to_remove: object = None,
    layer_indices: object = None,
    depth_pruning_percentage: object = None,
    layer_selection_method: str = "last",
    *,
    budget: Budget | None = None,
    may_be_open: bool = False,
) -> DepthRequest:
    """Check a depth target as far as that goes without a model. Exactly one of three is given.

    With a `budget` none of the three may be given; where it `may_be_open`, none need be.
    """
    method = LAYER_STRATEGIES.canonical(layer_selection_method)
    given = {
        "num_layers_to_remove": num_layers_to_remove,
        "layer_indices": layer_indices,
        "depth_pruning_percentage": depth_pruning_percentage,
    }
    refuse_beside_budget(budget, given)
    names = [name for name, value in given.items() if value is not None]
    if not names and may_be_open:
        if method == "custom":
            raise ArgumentError(
                "layer_selection_method='custom' needs layer_indices; a budget removes the 'last' "
                "or the 'first' layers."
            )
        return DepthRequest(method)
    if len(names) != 1:
        wrong = (
            f"{' and '.join(names)} are mutually exclusive" if names else "No depth target is given"
        )
        raise ArgumentError(
            f"{wrong}. Must specify exactly one of {', '.join(given)} (with pruning_type='DEPTH' "
            "also named pruning_percentage)."
        )
    if layer_indices is not None:
        if method not in ("last", "custom"):
            raise ArgumentError(
                f"layer_indices excludes layer_selection_method={method!r}. Leave one of them out."
            )
        indices = check_layer_indices("layer_indices", layer_indices)
        return DepthRequest("custom", indices=tuple(indices))
    if num_layers_to_remove is not None:
        count = check_layer_count("num_layers_to_remove", num_layers_to_remove)
        if method == "custom":
            custom_layers(count + 1, count)
        return DepthRequest(method, count=count)
    share = check_percentage("depth_pruning_percentage", depth_pruning_percentage)
    return DepthRequest(method, percentage=share)


def _count_from_percentage(percentage: float, total_layers: int) -> int:
    count = removed_count(total_layers, percentage)
    if count == 0:
        smallest = math.ceil(1e4 / total_layers) / 100
        raise ArgumentError(
            f"depth_pruning_percentage={percentage:g} of {total_layers} layers is no whole layer. "
            f"The smallest that removes one is {smallest:g}.{of_a_hundred(percentage)}"
        )
    return count
