"""What each choice alone costs: the divergence on held-back text if only that part is changed.

A narrower MLP is made up for by its kept neurons, a block that is gone by the block before it. The
model is only read; layers run on copies.

Axes: `S` tokens, `V` vocabulary, `H` hidden, `I` neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..arch.slots import rows_of
from ..arch.spec import Block
from ..arch.view import MLPView, ModelView
from ..batches import Batch
from ..hooks import evaluating
from ..noted import unheard
from ..progress import track
from ..pruning.calibration.fast_products import fast_products
from ..pruning.calibration.holding import Key
from ..pruning.calibration.stream import LIVE, capture, copied_layer, logits_after, run_layer
from ..pruning.compensation.by_layers import widths_alone
from ..pruning.compensation.lone_blocks import fits_alone
from ..pruning.cut.surgery import own_mlp
from ..pruning.layers.block_loss import blocks_of, silenced
from ..pruning.layers.removal_loss import sampled
from ..pruning.request.pruning_request import PruningRequest
from .choices import Choice

_TOKENS, _LOGITS = 2048, 10**8  # that are judged, and that are held of the model as it is
_FITTED = 8192  # tokens

Told = Callable[[Choice, float], None]


def score_choices(
    view: ModelView,
    choices: Sequence[Choice],
    request: PruningRequest,
    batches: Sequence[Batch],
    held_back: Iterable[object],
    told: Told,
    *,
    show_progress: bool = False,
) -> None:
    """Score choices one after the other, and tell each score as soon as it is there.

    The request says how neurons are chosen; `batches` are what they are chosen and fitted on.
    """
    judge = Judge(view, held_back)
    gone = [choice for choice in choices if not choice.kept]
    if gone:
        with unheard():
            stream = capture(view, _some(batches), LIVE)
            fits = fits_alone(stream, {c.block for c in gone}, show_progress=show_progress)
        for choice in track(gone, "scoring blocks", show_progress, unit="block"):
            told(choice, judge.without(choice.block, fits.get(choice.block)))
    narrower = [choice for choice in choices if choice.kept]
    wanted: dict[Block, list[int]] = {}
    for choice in narrower:
        wanted.setdefault(choice.block, []).append(choice.kept)
    by_name = {choice.name: choice for choice in narrower}
    if wanted:
        found = widths_alone(
            capture(view, batches, LIVE),
            {block[0]: widths for block, widths in wanted.items()},
            request,
            show_progress=show_progress,
        )
        for mlp, kept, keep, weight in found:
            told(by_name[f"mlp.{mlp.layer}:{kept}"], judge.narrower(mlp, keep, weight))


def _some(batches: Sequence[Batch]) -> Sequence[Batch]:
    """As many batches as projections out of blocks are fitted on, where each block is by itself."""
    tokens = batches[0].input_ids.numel()
    return batches[: max(_FITTED // tokens, 1)]


class Judge:
    """How far a model is from itself, on held-back text, if some layers are changed."""

    def __init__(self, view: ModelView, held_back: Iterable[object]) -> None:
        self.view = view
        self.parts = blocks_of(view)
        vocabulary = int(view.text_config.vocab_size)
        self.sample = sampled(held_back, min(_TOKENS, max(_LOGITS // vocabulary, 256)))
        self.stream = capture(view, self.sample)
        self.entering: list[list[Tensor]] = []  # of each layer, for each batch (B, S, H)
        with self._running():
            states = list(self.stream.hidden)
            for layer in view.layers:
                self.entering.append(states)
                states = [
                    self._run(layer.module, number, layer.index, state)
                    for number, state in enumerate(states)
                ]
            self.whole = [self._answers(number, state) for number, state in enumerate(states)]

    def narrower(self, mlp: MLPView, keep: Tensor, weight: Tensor) -> float:
        """With one MLP of which these neurons stay, whose new down projection (H, k) is given."""
        layer = self.view.layers[mlp.layer]
        copied = copied_layer(layer.module)
        own = own_mlp(mlp, copied)
        slot = own.spec.down
        down = own.tensors[slot]
        # Neurons that go give nothing: the others' weights in their places, and zeros.
        places, full = rows_of(keep, slot.rows).to(down.device), torch.zeros_like(down.data)
        full.index_copy_(slot.axis, places, weight.movedim(-1, slot.axis).to(down))
        down.data = full
        return self.divergence({layer.index: (copied, nullcontext())})

    def without(self, block: Block, fit: tuple[Key, Tensor] | None) -> float:
        """Without one block, and with the projection before it that makes up for it."""
        layer = self.view.layers[block[0]]
        copies = {layer.index: copied_layer(layer.module)}
        if fit is not None:
            (index, _, name), weight = fit
            copies.setdefault(index, copied_layer(self.view.layers[index].module))
            copies[index].get_parameter(name).data = weight
        own = [own_mlp(mlp, copies[block[0]]) for mlp in self.parts[block]]
        return self.divergence(
            {
                index: (copied, silenced(own) if index == block[0] else nullcontext())
                for index, copied in copies.items()
            }
        )

    def divergence(
        self, changed: Mapping[int, tuple[nn.Module, AbstractContextManager[Any]]]
    ) -> float:
        """KL of the model as it is to the one with these layers, mean over tokens, in nats."""
        first, total, tokens = min(changed), 0.0, 0
        todo = {index: module for index, (module, _) in changed.items()}
        with self._running():
            states = self.entering[first]
            for layer in self.view.layers[first:]:
                _, context = changed.get(layer.index, (None, nullcontext()))
                module = todo.get(layer.index, layer.module)
                with context:
                    states = [
                        self._run(module, number, layer.index, state)
                        for number, state in enumerate(states)
                    ]
            for number, state in enumerate(states):
                before, after = self.whole[number], self._answers(number, state)
                total += float((before.exp() * (before - after)).sum(dim=1).double().sum())
                tokens += len(before)
        return total / tokens

    def _running(self) -> AbstractContextManager[Any]:
        return _together(evaluating(self.view.model), fast_products(self.view))

    def _run(self, module: nn.Module, number: int, index: int, state: Tensor) -> Tensor:
        return run_layer(module, state, self.stream.arguments[number][index])

    def _answers(self, number: int, state: Tensor) -> Tensor:
        """Log-probabilities after each real token, (S, V)."""
        batch = self.sample[number]
        logits = logits_after(self.view, batch, state, self.stream.forms)
        return logits[batch.attention_mask.to(logits.device)].float().log_softmax(dim=-1)


def _together(*contexts: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
    stack = ExitStack()
    for context in contexts:
        stack.enter_context(context)
    return stack
