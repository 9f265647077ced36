"""Layers, or blocks of them, whose loss calibration text shows least.

Axes: `B` batch, `S` sequence, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn

from ...arch.view import ModelView
from ...batches import Batch
from ...distributed import together, total
from ...errors import DataError
from ...hooks import evaluating
from ...progress import track
from ..calibration.activations import no_batch, read_batches
from ..calibration.stream import Batches, capture, logits_after, run_layer

SAMPLE_TOKENS = 2048  # each costs L^2 / 2 layers a step
_BATCH_TOKENS = 512  # padding included, which bounds the logits that exist at once


class Removal:
    """What goes by perplexity. What is asked for is measured then, and kept."""

    def __init__(
        self, view: ModelView, batches: Iterable[object], show_progress: bool = False
    ) -> None:
        self.view = view
        self.show_progress = show_progress
        self.sample = sampled(batches, SAMPLE_TOKENS)
        self.stream = capture(view, self.sample)
        self.order: list[int] = []
        self.blocks: dict[int, int] = {}  # of so many layers: where the best begins

    def greedy(self, count: int) -> tuple[int, ...]:
        """The layers that go when so many go, sorted; each step scores without those before."""
        while len(self.order) < count:
            self.order.append(self._least_missed(1, self.order))
        return tuple(sorted(self.order[:count]))

    def block(self, count: int) -> tuple[int, ...]:
        """The consecutive layers that are missed least when so many go."""
        if count not in self.blocks:
            self.blocks[count] = self._least_missed(count, [])
        start = self.blocks[count]
        return tuple(range(start, start + count))

    def loss(self, gone: Collection[int]) -> float:
        """The mean loss of a token without these layers."""
        return loss_without(self.view, self.sample, self.stream, gone)

    def _least_missed(self, count: int, gone: Sequence[int]) -> int:
        losses = losses_without_each(
            self.view, self.sample, self.stream, gone, count, show_progress=self.show_progress
        )
        return min(losses, key=lambda index: (losses[index], index))


def losses_without_each(
    view: ModelView,
    sample: Sequence[Batch],
    stream: Batches,
    gone: Sequence[int],
    count: int = 1,
    *,
    show_progress: bool = False,
) -> dict[int, float]:
    """The mean loss of a token without each of the layers that are left, and without `gone`.

    What flows into a layer is the same whichever layers behind it go, so it is found once.

    Args:
        view: the model; it is left as it was.
        sample: the text.
        stream: what enters the first layer (`stream.capture` of the sample).
        gone: layers that are gone already.
        count: how many of those that are left go together, each block named by its first.

    Raises:
        DataError: a loss that is NaN or Inf, or no sequence of two tokens.
    """
    left = [index for index in range(len(view.layers)) if index not in set(gone)]
    sums = dict.fromkeys(left[: len(left) - count + 1], 0.0)
    with together(), evaluating(view.model):
        numbers = range(len(sample))
        label = f"removing layer {len(gone) + 1}" if count == 1 else f"removing {count} layers"
        for number in track(numbers, label, show_progress, "batch"):
            hidden = stream.hidden[number]
            for place, index in enumerate(sums):
                end = through(view, stream, number, left[place + count :], hidden)
                logits = logits_after(view, sample[number], end, stream.forms)
                sums[index] += loss_sum(logits, sample[number])
                hidden = through(view, stream, number, [index], hidden)
    return dict(zip(sums, mean_losses(sample, list(sums.values())), strict=True))


def loss_without(
    view: ModelView, sample: Sequence[Batch], stream: Batches, gone: Collection[int]
) -> float:
    """The mean loss of a token without some layers; arguments and errors as above."""
    left = [index for index in range(len(view.layers)) if index not in gone]
    loss = 0.0
    with together(), evaluating(view.model):
        for number, batch in enumerate(sample):
            end = through(view, stream, number, left, stream.hidden[number])
            loss += loss_sum(logits_after(view, batch, end, stream.forms), batch)
    return mean_losses(sample, [loss])[0]


def mean_losses(sample: Sequence[Batch], sums: Sequence[float]) -> list[float]:
    """Summed losses divided by the predicted tokens, over all processes."""
    own = sum(int(batch.attention_mask[:, 1:].sum()) for batch in sample)
    predicted, *losses = total(own, *sums)
    if not predicted:
        raise DataError("No calibration sequence has two tokens. Give longer ones.")
    if not all(math.isfinite(value) for value in losses):
        raise DataError(
            "The loss on the calibration data is NaN or Inf. Try a wider dtype (bfloat16 or "
            "float32)."
        )
    return [loss / predicted for loss in losses]


def through(
    view: ModelView, stream: Batches, number: int, layers: Sequence[int], hidden: Tensor
) -> Tensor:
    """Run a batch's hidden states through some layers of the model."""
    for index in layers:
        module = view.layers[index].module
        hidden = run_layer(module, hidden, stream.arguments[number][index])
    return hidden


def loss_sum(logits: Tensor, batch: Batch) -> float:
    """Negative log-likelihood of the real tokens after the first, summed: (B, S, V) → a number."""
    real = batch.attention_mask[:, 1:].to(logits.device)
    wanted = batch.input_ids[:, 1:].to(logits.device)[real]
    losses = nn.functional.cross_entropy(logits[:, :-1][real].float(), wanted, reduction="none")
    return float(losses.double().sum())


def sampled(batches: Iterable[object], most_tokens: int) -> list[Batch]:
    """Sequences taken evenly from the batches, about `most_tokens` real tokens (one at least).

    They are batched anew, so that the batches' size does not matter. Several processes take what
    one would take, each those of its own batches.

    Raises:
        DataError: no batch, or one of an unknown kind.
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
