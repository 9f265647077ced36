"""What the loss of calibration text says of blocks: how much a layer's attention or MLP is missed.

One block goes after the other, each the one without which the text is likeliest; the others are
scored again then, since what a block is worth depends on which are gone.

Axes: `B` batch, `S` sequence, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...arch.spec import UNITS, Block
from ...arch.view import MLPView, ModelView
from ...distributed import together
from ...hooks import evaluating, running_instead
from ...progress import track
from ..calibration.activations import down_module
from ..calibration.fast_products import fast_products
from .removal_loss import TextLoss


def blocks_of(view: ModelView) -> dict[Block, list[MLPView]]:
    """Each block of a model: the attention of a layer, and its MLPs, of which some have several.

    Left out is what a config cannot state as gone: experts, widths that it does not hold, and
    projections that do not run without inputs.
    """
    found: dict[Block, list[MLPView]] = {}
    for layer in view.layers:
        for mlp in layer.mlps:
            found.setdefault((layer.index, kind_of(mlp.spec.name)), []).append(mlp)
    return {block: mlps for block, mlps in found.items() if all(map(_may_go, mlps))}


def kind_of(name: str) -> str:
    """The kind of block that an attention, or an MLP of this name, belongs to."""
    return name if name == UNITS["attention"] else "mlp"


def _may_go(mlp: MLPView) -> bool:
    is_linear = isinstance(mlp.owner.get_submodule(mlp.spec.down.module), nn.Linear)
    return is_linear and not (mlp.spec.experts or mlp.spec.why_not)


@contextmanager
def silenced(mlps: Iterable[MLPView], *, bias: bool = True) -> Iterator[None]:
    """Inside the block these give zeros, with the bias of their projection out or without."""

    def nothing(module: Any, inputs: Tensor) -> Tensor:
        zeros = inputs.new_zeros(*inputs.shape[:-1], len(module.weight))
        return zeros if module.bias is None or not bias else zeros + module.bias

    modules = [down_module(mlp) for mlp in mlps]
    with running_instead({module: partial(nothing, module) for module in modules}):
        yield


class BlockLoss:
    """Which blocks are missed least, one after the other; the order is kept as far as it goes."""

    def __init__(
        self,
        view: ModelView,
        batches: Iterable[object],
        kinds: Sequence[str],
        show_progress: bool = False,
    ) -> None:
        self.blocks = {b: mlps for b, mlps in blocks_of(view).items() if b[1] in kinds}
        self.loss = TextLoss(view, batches, show_progress)
        self.order: list[Block] = []

    def greedy(self, count: int) -> list[Block]:
        """The blocks that go when so many go, in the order in which they do."""
        while len(self.order) < count:
            losses = self.without_each()
            self.order.append(min(losses, key=lambda block: (losses[block], block)))
        return self.order[:count]

    def without_each(self) -> dict[Block, float]:
        """The losses without each block that is left, and without those that are gone."""
        left = {block: mlps for block, mlps in self.blocks.items() if block not in self.order}
        sums = dict.fromkeys(left, 0.0)
        gone = [mlp for block in self.order for mlp in self.blocks[block]]
        view = self.loss.view
        every = range(len(view.layers))
        label = f"removing block {len(self.order) + 1}"
        with together(), evaluating(view.model), silenced(gone), fast_products(view):
            for number in track(range(len(self.loss.sample)), label, self.loss.show_progress):
                hidden = self.loss.stream.hidden[number]
                for index in every:
                    for block in (each for each in left if each[0] == index):
                        with silenced(left[block]):
                            after = self.loss.through(number, [index], hidden)
                        sums[block] += self.loss.behind(number, every[index + 1 :], after)
                    hidden = self.loss.through(number, [index], hidden)
        return dict(zip(sums, self.loss.means(list(sums.values())), strict=True))


def choosing_blocks(
    view: ModelView, batches: Iterable[object], kinds: Sequence[str], show_progress: bool
) -> Callable[[int], list[Block]]:
    """What chooses blocks by calibration text: how many go → which."""
    return BlockLoss(view, batches, kinds, show_progress).greedy
