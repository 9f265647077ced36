"""Which layers go, by calibration data: the strategies of `selection.RANKED_STRATEGIES`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from ...arch.view import ModelView
from .angles import block_angles, flattest_block
from .influence import block_influence, removal_order
from .removal_loss import Removal

Chosen = Callable[[int], tuple[int, ...]]  # how many layers go → which, sorted


def chosen_layers(
    method: str, view: ModelView, batches: Iterable[object], show_progress: bool = False
) -> Chosen:
    """What a strategy chooses for each count.

    Raises:
        UnsupportedModelError: the model cannot be run as the strategy needs it.
        DataError: the calibration data cannot be used.
    """
    return RANKINGS[method](view, batches, show_progress)


def _by_influence(view: ModelView, batches: Iterable[object], show_progress: bool) -> Chosen:
    order = removal_order(block_influence(view, batches, show_progress))
    return lambda count: tuple(sorted(order[:count]))


def _by_angle(view: ModelView, batches: Iterable[object], show_progress: bool) -> Chosen:
    return partial(flattest_block, block_angles(view, batches, show_progress))


def _by_perplexity(view: ModelView, batches: Iterable[object], show_progress: bool) -> Chosen:
    return Removal(view, batches, show_progress).greedy


def _by_block_perplexity(view: ModelView, batches: Iterable[object], show_progress: bool) -> Chosen:
    return Removal(view, batches, show_progress).block


def _by_both(view: ModelView, batches: Iterable[object], show_progress: bool) -> Chosen:
    influence = _by_influence(view, batches, show_progress)
    removal = Removal(view, batches, show_progress)
    return lambda count: min(removal.block(count), influence(count), key=removal.loss)


RANKINGS: dict[str, Callable[[ModelView, Iterable[object], bool], Chosen]] = {
    "block_influence": _by_influence,
    "angular": _by_angle,
    "perplexity": _by_perplexity,
    "block_perplexity": _by_block_perplexity,
    "auto": _by_both,
}
