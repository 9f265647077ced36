"""Which layers go: the strategies. A new one is a function here.

A strategy is registered by one line that says what it needs:

- `nothing`: `(total, count) -> layers`, the layers that go, sorted.
- `layers` or `model`: `(view, batches, show_progress) -> (count -> layers)`, which looks at the
  model while calibration text runs through it: once through each layer, so that these may come one
  at a time, or as often as it likes through the whole model.

Command line, docs and tests read the registry, and this module loads without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from ...checking import check_layer_count, check_layers_to_remove
from ...errors import ArgumentError, UnknownNameError
from ...registry import Registry, same_but_for_case, unknown_name

if TYPE_CHECKING:
    from ...arch.view import ModelView

NOTHING, LAYERS, MODEL = "nothing", "layers", "model"

Chosen = Callable[[int], tuple[int, ...]]  # how many layers go → which, sorted


@dataclass(frozen=True)
class LayerStrategy:
    """A registered strategy, and what it looks at: `nothing`, `layers` or `model`."""

    name: str
    function: Callable[..., Any]
    needs: str = NOTHING
    passes: int = 0  # times that all text runs through the layers
    removals: int = 0  # times that each layer, or block, is left out for a sample of the text

    @property
    def ranks(self) -> bool:
        """Whether it ranks the layers on calibration data."""
        return self.needs != NOTHING


LAYER_STRATEGIES: Registry[LayerStrategy] = Registry("layer_selection_method")


def strategy(
    name: str, needs: str = NOTHING, **work: int
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as a strategy."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        LAYER_STRATEGIES.add(name, LayerStrategy(name, function, needs, **work))
        return function

    return register


def ranks_layers(name: object) -> bool:
    """Whether a strategy ranks the layers on calibration data; an unknown name is refused."""
    return LAYER_STRATEGIES[name].ranks


def ranked_names() -> list[str]:
    """The strategies that do so, sorted."""
    return [name for name in LAYER_STRATEGIES.names() if ranks_layers(name)]


@strategy("last")
def last_layers(total: int, count: int) -> list[int]:
    """Remove the last layers."""
    return list(range(total - count, total))


@strategy("first")
def first_layers(total: int, count: int) -> list[int]:
    """Remove the first layers."""
    return list(range(count))


@strategy("custom")
def custom_layers(total: int, count: int) -> NoReturn:
    """Remove the layers given as indices."""
    raise ArgumentError(
        f"layer_selection_method='custom' needs the indices of the layers to remove, not a count "
        f"({count}). Give layer_indices, for example [{max(total - 2, 0)}], or use 'last'."
    )


@strategy("block_influence", LAYERS, passes=1)
def least_influence(view: ModelView, batches: Iterable[object], show_progress: bool) -> Chosen:
    """Remove the layers that change what flows through them least."""
    from .influence import block_influence, by_influence

    return by_influence(block_influence(view, batches, show_progress))


@strategy("angular", MODEL, passes=1)
def least_angle(view: ModelView, batches: Iterable[object], show_progress: bool) -> Chosen:
    """Remove the block of layers that turns its input least."""
    from .influence import block_angles, flattest_block

    return partial(flattest_block, block_angles(view, batches, show_progress))


@strategy("perplexity", MODEL, removals=4)
def missed_least(view: ModelView, batches: Iterable[object], show_progress: bool) -> Chosen:
    """Remove one layer after the other, each the one that is missed least."""
    from .removal_loss import TextLoss

    return TextLoss(view, batches, show_progress).greedy


@strategy("block_perplexity", MODEL, removals=1)
def block_missed_least(view: ModelView, batches: Iterable[object], show_progress: bool) -> Chosen:
    """Remove the block of layers that is missed least."""
    from .removal_loss import TextLoss

    return TextLoss(view, batches, show_progress).block


@strategy("auto", MODEL, passes=1, removals=1)
def block_or_influence(view: ModelView, batches: Iterable[object], show_progress: bool) -> Chosen:
    """Remove that block, or the layers of least influence: what is missed less."""
    from .removal_loss import TextLoss

    influence = least_influence(view, batches, show_progress)
    losses = TextLoss(view, batches, show_progress)
    return lambda count: min(losses.block(count), influence(count), key=losses.without)


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
    without_data = [name for name in LAYER_STRATEGIES.names() if not ranks_layers(name)]
    method = same_but_for_case(str(layer_selection_method), without_data)
    if method is None:
        raise UnknownNameError(
            unknown_name(LAYER_STRATEGIES.kind, layer_selection_method, without_data)
        )
    total = check_layer_count("total_layers", total_layers)
    count = check_layer_count("num_layers_to_remove", num_layers_to_remove, total)
    if method != "custom":
        if custom_indices is not None:
            raise ArgumentError(
                f"custom_indices excludes layer_selection_method={method!r}. "
                "Use 'custom', or leave the indices out."
            )
        return list(LAYER_STRATEGIES[method].function(total, count))
    if custom_indices is None:
        custom_layers(total, count)
    indices = check_layers_to_remove("custom_indices", custom_indices, total)
    if len(indices) != count:
        raise ArgumentError(
            f"custom_indices names {len(indices)} layers, num_layers_to_remove says {count}. "
            "Give one of them, or make them agree."
        )
    return indices
