"""Which neurons and layers: scores → kept units, strategy → removed layers. Pure functions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..errors import ArgumentError, UnknownNameError
from ..registry import Registry, unknown_name

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


def check_layer_count(name: str, value: object, total: int | None = None) -> int:
    """Return a number of layers as an int, at least 1 and below `total`."""
    allowed = f"1 to {total - 1}" if total is not None else "1 or more"
    if total == 1:
        raise ArgumentError("The model has one layer; removing it would leave none.")
    count = whole_number(value)
    if count is None:
        raise ArgumentError(f"{name}={value!r} is no whole number. Give one from {allowed}.")
    if count < 1 or (total is not None and count >= total):
        raise ArgumentError(f"{name}={count} is outside what is possible: {allowed}.")
    return count


def check_layer_indices(name: str, values: object, total: int | None = None) -> list[int]:
    """Return layer indices as sorted ints: distinct, and in range where `total` is known."""
    last = "the last layer" if total is None else total - 1
    way_out = f"Give distinct indices from 0 to {last}, for example [0, 1]."
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ArgumentError(f"{name}={values!r} is no sequence of layer indices. {way_out}")
    given = list(values) if getattr(values, "ndim", 1) else [values]
    indices = [whole_number(value) for value in given]
    wrong = [value for value, index in zip(given, indices, strict=True) if index is None]
    if wrong:
        raise ArgumentError(f"{name} holds {wrong[0]!r}, which is no whole number. {way_out}")
    found = sorted(index for index in indices if index is not None)
    if not found:
        raise ArgumentError(f"{name} is empty. {way_out}")
    outside = [index for index in found if index < 0 or (total is not None and index >= total)]
    if outside:
        layers = "" if total is None else f", but the model has {total} layers"
        raise ArgumentError(f"{name} holds {outside}{layers}. {way_out}")
    repeated = sorted({index for index in found if found.count(index) > 1})
    if repeated:
        raise ArgumentError(f"{name} names {repeated} more than once. {way_out}")
    return found


def check_layers_to_remove(name: str, values: object, total: int) -> list[int]:
    """`check_layer_indices`, and one layer at least must stay."""
    found = check_layer_indices(name, values, total)
    if len(found) == total:
        raise ArgumentError(
            f"{name} names all {total} layers; at least one must stay. Give fewer of them."
        )
    return found


def whole_number(value: object) -> int | None:
    """The value as an int if it is one (Python, numpy or tensor), not a bool or a float."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
