"""How long a pruning by data will take, and how much memory, from one layer that is timed.

A layer in the middle stands for all. It is decided on one batch and on several: the difference is
the time of a batch, the rest that of a layer, which reads, factors and solves.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from ..arch.view import LayerView
from ..batches import Batch
from ..checkpoint.pruned import stored_sizes
from ..checkpoint.stored_layers import StoredLayers
from ..checkpoint.stored_model import StoredModel
from ..errors import OptiPFairError
from ..noted import unheard
from ..progress import duration
from ..pruning.calibration.stream import capture, run_layer
from ..pruning.compensation.by_layers import decide_by_layers
from ..pruning.cut.guard import prove
from ..pruning.cut.plan import PruningPlan
from ..pruning.importance.expert_scores import ExpertScore
from ..pruning.layers.block_loss import blocks_of
from ..pruning.layers.strategies import LAYER_STRATEGIES
from ..pruning.planning import plan_counts
from ..pruning.request.block_targets import BlockRequest
from ..pruning.request.pruning_request import PruningRequest

_FEW, _MORE = 1, 3  # batches that a layer is timed on
_HELD_BACK = 2  # passes over held-back text: with the layers as they were, and as they are
_SAMPLED = 2048  # tokens that layers are removed for, one after the other (`removal_loss`)
_OF_A_BUDGET = 8  # the share of the blocks that go, where a budget says how many

T = TypeVar("T")


@dataclass(frozen=True)
class Estimate:
    """What a pruning takes for so many sequences of so many tokens."""

    each: float  # seconds for a sequence, through all layers
    beside: float  # seconds for the rest
    sequences: int
    tokens: int  # of a sequence
    memory: int  # bytes of the process at most

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.beside + self.each * self.sequences

    def within(self, seconds: float, at_least: int) -> Estimate:
        """The same for as many sequences as fit, no fewer than so many, and no more than before."""
        fitting = int(max(seconds - self.beside, 0.0) / max(self.each, 1e-9))
        return replace(self, sequences=min(self.sequences, max(fitting, at_least)))

    def in_words(self) -> str:
        """One line for the terminal."""
        tokens = self.sequences * self.tokens
        return (
            f"This will take about {duration(self.seconds)} and {self.memory / 1e9:.2g} GB of "
            f"memory: {tokens:,} tokens of calibration text run through the layers."
        )


def estimated(
    stored: StoredModel,
    request: PruningRequest,
    batches: Sequence[Batch],
    device: torch.device,
    dtype: str,
) -> Estimate | None:
    """Time a layer of a checkpoint, and say what the whole will take; None where none runs alone.

    The batches are those that will be calibrated on, all of one size.
    """
    try:
        with unheard():
            layers = StoredLayers(stored, device, dtype, request.units)
            return _Timed(layers, request, batches, dtype).estimate(stored)
    except OptiPFairError:  # what is wrong is said where it is needed
        return None


@dataclass
class _Timed:
    """A checkpoint's layers, and the batches that they are timed on."""

    layers: StoredLayers
    request: PruningRequest
    batches: Sequence[Batch]
    dtype: str

    def estimate(self, stored: StoredModel) -> Estimate:
        view, request = self.layers.view, self.request
        count, size = len(view.layers), len(self.batches[0].input_ids)
        middle = view.layers[count // 2]
        reading, module = _time(lambda: self.layers.copied(middle))
        stream = capture(view, self.batches[:_FEW], self.layers.source)
        arguments = stream.arguments[0][middle.index]
        run_layer(module, stream.hidden[0], arguments)  # the first is slow
        running = _time(lambda: run_layer(module, stream.hidden[0], arguments))[0]
        head = self._head() * running
        each, beside = self._of_choosing_layers(count, running, head)
        if request.blocks is not None:
            # Each layer once as it is, and those near a block that goes in parts.
            beside += self._of_choosing_blocks(request.blocks, running, head)
            each += 2 * count * running if request.compensate else 0.0
        if request.unit == "expert" and isinstance(request.criterion, ExpertScore):
            # The layer's own forward, and what each chosen expert adds once more.
            each += 2 * count * running if request.criterion.needs_data else 0.0
        if request.width is not None and request.by_layers:
            sizes = stored_sizes(stored, self.dtype, 5 * 10**9)
            plan = plan_counts(stored.view, _choosing_last(request), sizes, with_data=True)
            of_batch, of_layer = self._of_width(stored, plan)
            cut = len({c.layer for c in plan.width_cuts})
            each, beside = each + cut * of_batch, beside + cut * of_layer
        if request.compensate and request.depth is not None:
            # Up to the layer before the last block, wherever that is; through it three times
            # more, and through the block.
            gone = count // 4 if request.depth.open else request.depth.number(count)
            each += (count / 2 + gone + 3) * running + self._of_moments(middle)
        held = max(1, 4096 // self.batches[0].input_ids.numel())
        beside += count * _HELD_BACK * (reading + held * running) + 2 * count * reading
        beside += _HELD_BACK * held * head
        tokens = sum(batch.input_ids.numel() for batch in self.batches)
        hidden = tokens * stream.hidden[0].shape[-1] * stream.hidden[0].element_size()
        return Estimate(
            each / size,
            beside,
            sum(len(batch.input_ids) for batch in self.batches),
            self.batches[0].input_ids.shape[1],
            _most_bytes() + hidden,
        )

    def _of_moments(self, layer: LayerView) -> float:
        """Seconds for each batch of what the layer before a block is fitted by."""
        if not layer.mlps:
            return 0.0
        inputs = torch.randn(self.batches[0].input_ids.numel(), layer.mlps[0].down_inputs)
        outputs = torch.randn(len(inputs), layer.mlps[0].hidden_size)

        def products() -> None:
            for other in (inputs, outputs):
                (other.T @ inputs).double()

        products()  # the first is slow
        return _time(products)[0]

    def _head(self) -> float:
        """How many layers the head is worth: by what is multiplied with each token."""
        model: Any = self.layers.view.model
        layers = self.layers.view.layers
        own = sum(each.numel() for each in layers[len(layers) // 2].module.parameters())
        return float(model.get_input_embeddings().weight.numel() / max(own, 1))

    def _of_choosing_layers(self, count: int, running: float, head: float) -> tuple[float, float]:
        """Seconds for each batch, and beside, that the choice of layers takes."""
        depth = self.request.depth
        if depth is None or depth.indices is not None:
            return 0.0, 0.0
        ranked = LAYER_STRATEGIES[depth.method]
        tokens = self.batches[0].input_ids.numel()
        a_loss = count / 2 * running + head  # through the layers behind one that goes
        return ranked.passes * count * running, (
            ranked.removals * count * a_loss * _SAMPLED / tokens
        )

    def _of_choosing_blocks(self, blocks: BlockRequest, running: float, head: float) -> float:
        """Seconds for the choice of blocks: each that is left is left out, for each that goes."""
        if blocks.named is not None:
            return 0.0
        view = self.layers.view
        there = sum(block[1] in blocks.kinds for block in blocks_of(view))
        number = blocks.number(there) or there // _OF_A_BUDGET
        a_loss = len(view.layers) / 2 * running + head
        return number * there * a_loss * _SAMPLED / self.batches[0].input_ids.numel()

    def _of_width(self, stored: StoredModel, plan: PruningPlan) -> tuple[float, float]:
        """Seconds for each batch, and beside, that one layer takes when its neurons are chosen."""
        rewrite = prove(stored.view, plan)
        cut = [c.layer for c in plan.width_cuts]
        if not cut:
            return 0.0, 0.0
        index = cut[len(cut) // 2]
        own = tuple(c for c in plan.width_cuts if c.layer == index)
        one = replace(plan, keep_layers=(index,), width_cuts=own)

        def of(number: int, *, reconstruct: bool = False) -> float:
            stream = capture(self.layers.view, self.batches[:number], self.layers.source)
            asked = replace(self.request, reconstruct=reconstruct)
            return _time(lambda: decide_by_layers(stream, one, asked, rewrite))[0]

        of(_FEW)  # the first is slow
        few, more = of(_FEW), of(_MORE)
        of_batch = max((more - few) / (_MORE - _FEW), 0.0)
        # Training takes as long for any number of batches.
        training = of(_MORE, reconstruct=True) - more if self.request.reconstruct else 0.0
        return of_batch, max(few - _FEW * of_batch, 0.0) + max(training, 0.0)


def _choosing_last(request: PruningRequest) -> PruningRequest:
    """The same, whose layers need no data to be chosen: which ones go hardly changes the time."""
    depth = request.depth
    if depth is None or depth.indices is not None:
        return request
    return replace(request, depth=replace(depth, method="last"))


def _time(work: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    done = work()
    return time.perf_counter() - started, done


def _most_bytes() -> int:
    """The most memory that the process has taken."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
