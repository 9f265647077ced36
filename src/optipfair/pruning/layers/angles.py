"""Which block of layers turns its input least, on calibration data.

Axes: `T` real tokens, `H` hidden, `L` layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ...arch.view import ModelView
from ...distributed import sum_
from ..calibration.activations import not_finite_on_data, run_batches, token_mask

_CHUNK_TOKENS = 256


def block_angles(
    view: ModelView, batches: Iterable[object], show_progress: bool = False
) -> list[list[float]]:
    """Mean angle, as a share of a half turn, between every two states of the hidden stream.

    State l is the input of layer l, state L the output of the last layer, so entry [l][l + n] is
    arccos(cos(h_l, h_{l+n})) / pi of the block of n layers that begins with layer l. Source:
    arXiv 2403.17887, section 3; there of the last token of each sequence, here the mean over all
    real tokens.

    Returns:
        (L + 1) rows of (L + 1) numbers from 0 to 1, symmetric.

    Raises:
        DataError: no batch, one of an unknown kind, or hidden states that are NaN or Inf.
    """
    sums = torch.zeros(len(view.layers) + 1, len(view.layers) + 1, dtype=torch.float64)
    states: list[Tensor] = []  # of the batch that runs
    real: list[Tensor] = [torch.empty(0)]

    def note(_args: tuple[Any, ...], mask: Tensor) -> None:
        real[0] = mask
        states.clear()

    def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if not states:
            states.append(_rows(args[0] if args else kwargs["hidden_states"], real[0]))
        states.append(_rows(output[0] if isinstance(output, tuple | list) else output, real[0]))
        if len(states) == len(sums):
            sums.add_(_angle_sums(states))

    with ExitStack() as stack:
        for layer in view.layers:
            handle = layer.module.register_forward_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        tokens = run_batches(view, batches, [(view.layers[0].module, note)], show_progress)
    sum_(sums)
    if not bool(torch.isfinite(sums).all()):
        raise not_finite_on_data("hidden states of a layer")
    angles: list[list[float]] = (sums / tokens).tolist()
    return angles


def flattest_block(angles: Sequence[Sequence[float]], count: int) -> tuple[int, ...]:
    """The block of `count` layers that turns its input least; ties go to the lower index."""
    starts = range(len(angles) - count)
    start = min(starts, key=lambda first: (angles[first][first + count], first))
    return tuple(range(start, start + count))


def _rows(hidden: Tensor, mask: Tensor) -> Tensor:
    """The real tokens' states as unit vectors, (T, H)."""
    real = token_mask(hidden, mask).to(hidden.device)
    return nn.functional.normalize(hidden.flatten(0, -2)[real].float(), dim=-1)


def _angle_sums(states: Sequence[Tensor]) -> Tensor:
    """Sum of the angles over tokens: L + 1 times (T, H) → (L + 1, L + 1), float64."""
    total = torch.zeros(len(states), len(states), dtype=torch.float64)
    for chunk in zip(*(torch.split(state, _CHUNK_TOKENS) for state in states), strict=True):
        units = torch.stack([part.cpu() for part in chunk], dim=1)  # (T, L + 1, H)
        cosines = (units @ units.mT).clamp(-1, 1)
        total += torch.arccos(cosines).double().sum(dim=0) / math.pi
    return total
