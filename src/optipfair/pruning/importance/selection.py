"""Which neurons and layers: scores → kept units, strategy → removed layers. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...checking import check_layer_count, check_layers_to_remove
from ...errors import ArgumentError, UnknownNameError
from ...registry import Registry, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

LAYER_STRATEGIES: Registry[Callable[[int, int], list[int]]] = Registry("layer_selection_method")


@LAYER_STRATEGIES.register("last")
def last_layers(total: int, count: int) -> list[int]:
    """Remove the last layers."""
    return list(range(total - count, total))


@LAYER_STRATEGIES.register("first")
def first_layers(total: int, count: int) -> list[int]:
    """Remove the first layers."""
    return list(range(count))


@LAYER_STRATEGIES.register("custom")
def custom_layers(total: int, count: int) -> list[int]:
    """Remove the layers given as indices."""
    raise ArgumentError(
        f"layer_selection_method='custom' needs the indices of the layers to remove, not a count "
        f"({count}). Give layer_indices, for example [{max(total - 2, 0)}], or use 'last'."
    )


# Strategies that rank the layers on calibration data: name → what it does.
RANKED_STRATEGIES: Registry[str] = Registry("layer_selection_method")
RANKED_STRATEGIES.add(
    "block_influence", "Remove the layers that change what flows through them least."
)
RANKED_STRATEGIES.add("angular", "Remove the block of layers that turns its input least.")
RANKED_STRATEGIES.add(
    "perplexity", "Remove one layer after the other, each the one that is missed least."
)
RANKED_STRATEGIES.add("block_perplexity", "Remove the block of layers that is missed least.")
RANKED_STRATEGIES.add(
    "auto", "Remove that block, or the layers of least influence: what is missed less."
)


def strategy_named(name: object) -> str:
    """Return the name of a strategy of either kind; raise `UnknownNameError` with all names."""
    if isinstance(name, str) and name in strategy_names():
        return name
    raise UnknownNameError(unknown_name(LAYER_STRATEGIES.kind, name, strategy_names()))


def strategy_names() -> list[str]:
    return sorted([*LAYER_STRATEGIES.names(), *RANKED_STRATEGIES.names()])


def select_neurons(scores: Tensor, kept: int) -> Tensor:
    """Return the sorted indices of the `kept` highest scores; ties go to the lower index.

    Args:
        scores: (I,), or (E, I) to choose for each expert apart.
        kept: how many stay, 1 to I.

    Returns:
        (kept,) or (E, kept), int64.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order[..., :kept].sort(dim=-1).values


def select_units(scores: Tensor, kept: int, groups: int = 1) -> Tensor:
    """`select_neurons`, the same number from each of `groups` that follow each other.

    Args:
        scores: (U,); (E, I) where there is one group.
        kept: how many stay in all.
        groups: how many there are.

    Returns:
        Sorted, (kept,) or (E, kept), int64.
    """
    if groups == 1:
        return select_neurons(scores, kept)
    size = len(scores) // groups
    inside = select_neurons(scores.view(groups, size), kept // groups)  # (groups, kept / groups)
    return (inside + size * inside.new_tensor(range(groups))[:, None]).flatten()


def select_layers_to_remove(
    total_layers: int,
    num_layers_to_remove: int,
    layer_selection_method: str,
    custom_indices: list[int] | None = None,
) -> list[int]:
    """Select which layers to remove.

    Args:
        total_layers: number of decoder layers.
        num_layers_to_remove: how many go, 1 to `total_layers - 1`.
        layer_selection_method: `last`, `first` or `custom`.
        custom_indices: the layers themselves when the method is `custom`.

    Returns:
        Sorted layer indices.

    Raises:
        ArgumentError: an unknown method, an impossible count, or indices that do not fit.

    Example:
        >>> select_layers_to_remove(30, 2, "last")
        [28, 29]
    """
    method = LAYER_STRATEGIES.canonical(layer_selection_method)
    total = check_layer_count("total_layers", total_layers)
    count = check_layer_count("num_layers_to_remove", num_layers_to_remove, total)
    if method != "custom":
        if custom_indices is not None:
            raise ArgumentError(
                f"custom_indices excludes layer_selection_method={method!r}. "
                "Use 'custom', or leave the indices out."
            )
        return LAYER_STRATEGIES[method](total, count)
    if custom_indices is None:
        return custom_layers(total, count)
    indices = check_layers_to_remove("custom_indices", custom_indices, total)
    if len(indices) != count:
        raise ArgumentError(
            f"custom_indices names {len(indices)} layers, num_layers_to_remove says {count}. "
            "Give one of them, or make them agree."
        )
    return indices
