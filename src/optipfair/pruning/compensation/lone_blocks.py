"""What a kept attention or MLP does for blocks behind it that go: a map in its projection out.

A layer is run as two: its attention alone, then its MLP alone, each by silencing the other. A block
that goes leaves the one before it that stays to give what both gave, as the layer before removed
layers does (`blocks.py`).

Axes: `B` batch, `S` sequence, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from torch import Tensor, nn

from ...arch.spec import Block
from ...arch.view import LayerView, MLPView
from ...distributed import together
from ...hooks import evaluating
from ...noted import warn
from ...progress import track
from ..calibration.holding import HiddenStates, Key
from ..calibration.stream import Batches, run_layer
from ..cut.surgery import own_mlp
from ..layers.block_loss import blocks_of, silenced
from .blocks import Anchor, additive_scale, fit_anchor

_APART = 1e-3  # relative; a layer whose parts run beside each other is far above


def make_up_for_blocks(
    stream: Batches,
    gone: Collection[Block],
    *,
    replaced: MutableMapping[Key, Tensor],
    show_progress: bool = False,
) -> list[dict[str, Any]]:
    """Fit the block before each run of blocks that go to give what these would have given.

    `stream` is what enters the first layer, and is used up; `replaced` takes the new projections.
    The record names what was fitted, the blocks it stands for, and the errors of `replace_blocks`.
    """
    with evaluating(stream.view.model):
        return _Pass(stream, set(gone), replaced, show_progress).made()


def fits_alone(
    stream: Batches, gone: Collection[Block], *, show_progress: bool = False
) -> dict[Block, tuple[Key, Tensor]]:
    """For each of these blocks, what would make up for it if it alone went.

    Returns the projection out of the block before it: its key and its new weights. Blocks before
    which there is none, or none that can, are left out. `stream` is used up.
    """
    found: dict[Block, tuple[Key, Tensor]] = {}
    with evaluating(stream.view.model):
        alone = _Pass(stream, set(), {}, show_progress)
        for layer in track(stream.view.layers, "fitting blocks", show_progress, unit="layer"):
            with together():
                copied = stream.source.copied(layer)
            for block in (each for each in alone.order if each[0] == layer.index):
                following = alone.order[alone.order.index(block) + 1 :][:1]
                wanted = [each for each in following if each in gone]
                fit = alone.fit(block, copied, wanted)
                if fit is not None:
                    found[following[0]] = fit
    return found


@dataclass
class _Pass:
    """A pass over the layers, block by block."""

    stream: Batches
    gone: set[Block]
    replaced: MutableMapping[Key, Tensor]
    show_progress: bool
    errors: list[dict[str, Any]] = field(default_factory=list)
    follow: dict[int, bool] = field(default_factory=dict)  # layers, by what was found of them

    def __post_init__(self) -> None:
        self.blocks: Mapping[Block, Sequence[MLPView]] = blocks_of(self.stream.view)
        # As they follow each other: attention comes before the MLP, in the alphabet too.
        self.order = sorted(self.blocks)

    def made(self) -> list[dict[str, Any]]:
        first = next(iter(self.order), None)
        if first in self.gone:
            warn(
                f"Before {_named(first)} there is nothing that could make up for it, so it was "
                "only removed."
            )
        last = max((layer for layer, _ in self.gone), default=-1)
        layers = self.stream.view.layers[: last + 1]
        for layer in track(layers, "making up for blocks", self.show_progress, unit="layer"):
            with together():
                copied = self.stream.source.copied(layer)
            own = [block for block in self.order if block[0] == layer.index]
            if not any(block in self.gone or self._behind(block) for block in own):
                self._run(copied, layer.index)
                continue
            for block in own:
                self._fit_and_run(block, copied)
        return self.errors

    def _behind(self, block: Block) -> list[Block]:
        """The blocks that go right behind one."""
        after = self.order[self.order.index(block) + 1 :]
        return list(takewhile(lambda each: each in self.gone, after))

    def _fit_and_run(self, block: Block, layer: nn.Module) -> None:
        """Let one block of a layer make up for those behind it, and the batches flow through it."""
        with self._alone(block, layer):
            behind = [] if block in self.gone else self._behind(block)
            anchor = self._anchor(block, behind) if behind else None
            if anchor is not None:
                onward = self._onward(block, layer, behind)
                fitted = fit_anchor(anchor, layer, self.stream, onward, self.replaced)
                self.errors.append({**fitted, "blocks": [_named(each) for each in behind]})
            with silenced(self._own(block, layer) if block in self.gone else ()):
                self._run(layer, block[0])

    def fit(
        self, block: Block, layer: nn.Module, behind: Sequence[Block]
    ) -> tuple[Key, Tensor] | None:
        """What a block would be for those behind it; the batches flow through it as it is."""
        replaced: dict[Key, Tensor] = {}
        with self._alone(block, layer):
            anchor = self._anchor(block, behind) if behind else None
            if anchor is not None:
                down = own_mlp(anchor.mlp, layer).tensors[anchor.mlp.spec.down]
                before = down.data
                onward = self._onward(block, layer, behind)
                fit_anchor(anchor, layer, self.stream, onward, replaced)
                down.data = before
            self._run(layer, block[0])
        return next(iter(replaced.items()), None)

    def _anchor(self, block: Block, behind: Sequence[Block]) -> Anchor | None:
        """The projection that makes up for the blocks behind it; None, and a word, if none can."""
        names = ", ".join(map(_named, behind))
        if len(self.blocks[block]) > 1 or not self._parts_follow(block[0]):
            why = "its attention and its MLPs are not one after the other"
        else:
            (mlp,) = self.blocks[block]
            scale = additive_scale(self.stream, mlp, self._beside(block))
            if scale is not None:
                return Anchor(behind[0][0], behind[-1][0], mlp, scale)
            why = "its outputs are changed (by a norm or a gate) before they are added"
        warn(f"{_named(block)} cannot make up for {names}: {why}. So these were only removed.")
        return None

    def _parts_follow(self, index: int) -> bool:
        """Whether a layer gives what its blocks give one after the other, on the first batch."""
        if index not in self.follow:
            self.follow[index] = self._found_to_follow(index)
        return self.follow[index]

    def _found_to_follow(self, index: int) -> bool:
        layer = self.stream.view.layers[index]
        copied, own = self.stream.source.copied(layer), [b for b in self.order if b[0] == index]
        arguments, hidden = self.stream.arguments[0][index], self.stream.hidden[0]
        whole, states = run_layer(copied, hidden, arguments), hidden
        for block in own:
            with self._alone(block, copied):
                states = run_layer(copied, states, arguments)
        return float((states - whole).norm()) <= _APART * float(whole.norm())

    def _alone(self, block: Block, layer: nn.Module) -> AbstractContextManager[None]:
        """Inside it the layer, a copy or the model's own, is nothing but this block."""
        return silenced((own_mlp(mlp, layer) for mlp in self._beside(block)), bias=False)

    def _own(self, block: Block, layer: nn.Module) -> list[MLPView]:
        return [own_mlp(mlp, layer) for mlp in self.blocks[block]]

    def _beside(self, block: Block) -> list[MLPView]:
        """What else is in the layer of a block."""
        others = [each for each in self.order if each[0] == block[0] and each != block]
        return [mlp for each in others for mlp in self.blocks[each]]

    def _onward(self, block: Block, layer: nn.Module, behind: Sequence[Block]) -> HiddenStates:
        """What this block should give, (B, S, H) for each batch: what those behind it gave, without
        the biases that stay of them.
        """
        onward = self.stream.hidden.others()
        with together():
            for number, hidden in enumerate(self.stream.hidden):
                onward.append(run_layer(layer, hidden, self.stream.arguments[number][block[0]]))
            for each in behind:
                module = self._lent(each[0], block[0])
                with self._alone(each, module):
                    for number, hidden in enumerate(onward):
                        arguments = self.stream.arguments[number][each[0]]
                        onward[number] = run_layer(module, hidden, arguments)
            for each in (b for b in behind if any(m.down_bias is not None for m in self.blocks[b])):
                module = self._lent(each[0], block[0])
                with self._alone(each, module), silenced(self._own(each, module)):
                    for number, hidden in enumerate(onward):
                        arguments = self.stream.arguments[number][each[0]]
                        onward[number] = 2 * hidden - run_layer(module, hidden, arguments)
        return onward

    def _lent(self, index: int, own: int) -> nn.Module:
        """A layer to run as it was; another copy where the block that is fitted is of the same."""
        view: LayerView = self.stream.view.layers[index]
        return self.stream.source.copied(view) if index == own else self.stream.source.lent(view)

    def _run(self, layer: nn.Module, index: int) -> None:
        with together():
            for number, hidden in enumerate(self.stream.hidden):
                arguments = self.stream.arguments[number][index]
                self.stream.hidden[number] = run_layer(layer, hidden, arguments)


def _named(block: Block | None) -> str:
    return f"{block[1]}.{block[0]}" if block else ""
