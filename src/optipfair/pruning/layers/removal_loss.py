"""What the loss of calibration text says of layers, or blocks of them: how much each is missed.

Axes: `B` batch, `S` sequence, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ...arch.view import LayerView, ModelView
from ...batches import Batch
from ...distributed import together, total
from ...errors import DataError
from ...hooks import evaluating
from ...progress import track
from ..calibration.activations import no_batch, read_batches
from ..calibration.stream import capture, logits_after, run_layer

_SAMPLE_TOKENS = 2048  # each costs L^2 / 2 layers a step
_BATCH_TOKENS = 512  # padding included, which bounds the logits that exist at once


class TextLoss:
    """The loss of a token of calibration text (nats, mean) without some layers, or with others.

    Which layers go is measured when it is asked for, and kept. The model is left as it was.
    """

    def __init__(
        self,
        view: ModelView,
        batches: Iterable[object],
        show_progress: bool = False,
        most_tokens: int = _SAMPLE_TOKENS,
    ) -> None:
        self.view = view
        self.show_progress = show_progress
        self.sample = sampled(batches, most_tokens)
        self.stream = capture(view, self.sample)
        self.order: list[int] = []
        self.blocks: dict[int, int] = {}  # of so many layers: where the best begins

    def greedy(self, count: int) -> tuple[int, ...]:
        """The layers that go when so many go, sorted; each step scores without those before."""
        while len(self.order) < count:
            self.order.append(_least(self.without_each(self.order)))
        return tuple(sorted(self.order[:count]))

    def block(self, count: int) -> tuple[int, ...]:
        """The consecutive layers that are missed least when so many go."""
        if count not in self.blocks:
            self.blocks[count] = _least(self.without_each([], count))
        start = self.blocks[count]
        return tuple(range(start, start + count))

    def without(self, gone: Collection[int]) -> float:
        """The loss without these layers."""
        left = [index for index in range(len(self.view.layers)) if index not in gone]
        loss = 0.0
        with together(), evaluating(self.view.model):
            for number in range(len(self.sample)):
                loss += self.behind(number, left, self.stream.hidden[number])
        return self.means([loss])[0]

    def without_each(self, gone: Sequence[int], count: int = 1) -> dict[int, float]:
        """The losses without each of the layers that are left, and without `gone`.

        Where `count` layers go together, each block of those that are left is named by its first.
        What flows into a layer is the same whichever layers behind it go, so it is found once.
        """
        left = [index for index in range(len(self.view.layers)) if index not in set(gone)]
        sums = dict.fromkeys(left[: len(left) - count + 1], 0.0)
        label = f"removing layer {len(gone) + 1}" if count == 1 else f"removing {count} layers"
        with together(), evaluating(self.view.model):
            for number, index, hidden in self._entering(sums, label):
                sums[index] += self.behind(number, left[left.index(index) + count :], hidden)
        return dict(zip(sums, self.means(list(sums.values())), strict=True))

    def rises(
        self, changed: Collection[int], copied: Callable[[LayerView], nn.Module]
    ) -> dict[int, float]:
        """By how much the loss rises if one of these layers is its copy, the others as they are."""
        sums = dict.fromkeys([-1, *sorted(changed)], 0.0)  # -1: nothing is changed
        every = range(len(self.view.layers))
        with together(), evaluating(self.view.model):
            for number, index, hidden in self._entering(every, "weighing layers"):
                if index == 0:
                    sums[-1] += self.behind(number, every, hidden)
                if index in sums:
                    module, arguments = copied(self.view.layers[index]), self.stream.arguments
                    after = run_layer(module, hidden, arguments[number][index])
                    sums[index] += self.behind(number, every[index + 1 :], after)
        whole = sums.pop(-1)
        rises = self.means([each - whole for each in sums.values()])
        return dict(zip(sums, rises, strict=True))

    def _entering(self, layers: Iterable[int], label: str) -> Iterator[tuple[int, int, Tensor]]:
        """Each batch's number, with what enters each of these layers if there were no others."""
        for number in track(range(len(self.sample)), label, self.show_progress, "batch"):
            hidden = self.stream.hidden[number]
            for index in layers:
                yield number, index, hidden
                hidden = self.through(number, [index], hidden)

    def through(self, number: int, layers: Sequence[int], hidden: Tensor) -> Tensor:
        """Run a batch's hidden states through some layers of the model."""
        for index in layers:
            module = self.view.layers[index].module
            hidden = run_layer(module, hidden, self.stream.arguments[number][index])
        return hidden

    def behind(self, number: int, layers: Sequence[int], hidden: Tensor) -> float:
        """The summed loss of a batch whose hidden states go through these layers last."""
        batch, end = self.sample[number], self.through(number, layers, hidden)
        logits = logits_after(self.view, batch, end, self.stream.forms)
        real = batch.attention_mask[:, 1:].to(logits.device)
        wanted = batch.input_ids[:, 1:].to(logits.device)[real]
        losses = nn.functional.cross_entropy(logits[:, :-1][real].float(), wanted, reduction="none")
        return float(losses.double().sum())

    def means(self, sums: Sequence[float]) -> list[float]:
        """Summed losses divided by the predicted tokens, over all processes."""
        own = sum(int(batch.attention_mask[:, 1:].sum()) for batch in self.sample)
        predicted, *losses = total(own, *sums)
        if not predicted:
            raise DataError("No calibration sequence has two tokens. Give longer ones.")
        if not all(math.isfinite(value) for value in losses):
            raise DataError(
                "The loss on the calibration data is NaN or Inf. Try a wider dtype (bfloat16 or "
                "float32)."
            )
        return [loss / predicted for loss in losses]


def _least(losses: dict[int, float]) -> int:
    return min(losses, key=lambda index: (losses[index], index))


def sampled(batches: Iterable[object], most_tokens: int) -> list[Batch]:
    """Sequences taken evenly from the batches, about `most_tokens` real tokens (one at least).

    They are batched anew, so that the batches' size does not matter. Several processes take what
    one would take, each those of its own batches.
    """
    rows = {
        number: ids[mask]
        for batch in read_batches(batches)
        for number, (ids, mask) in enumerate(
            zip(batch.input_ids, batch.attention_mask, strict=True), batch.first or 0
        )
    }
    tokens, given = map(int, total(sum(map(len, rows.values())), len(rows)))
    if not given:
        raise no_batch()
    count = min(max(given * most_tokens // tokens, 1), given)
    wanted = [number * given // count for number in range(count)]
    chosen = [rows[number] for number in wanted if number in rows]
    groups: list[list[Tensor]] = []
    for row in chosen:
        last = groups[-1] if groups else []
        longest = max(map(len, [*last, row]))
        if last and (len(last) + 1) * longest <= _BATCH_TOKENS:
            last.append(row)
        else:
            groups.append([row])
    return [_batch(group) for group in groups]


def _batch(rows: Sequence[Tensor]) -> Batch:
    """Rows padded to the right."""
    ids = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    return Batch(ids, torch.arange(ids.shape[1], device=ids.device) < lengths[:, None])
