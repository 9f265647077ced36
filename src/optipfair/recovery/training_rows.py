"""Sequences as a trainer reads them: a dict of tensors each, numbered.

Axes: `B` batch, `S` sequence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..batches import read_batch
from ..errors import DataError
from .training_text import TrainingData

_HELD_BACK = 20  # one sequence in so many, where there are no documents

Row = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingRows:
    """What is trained on and what is judged by: `input_ids` (S,) and a number `row` in each."""

    train: Sequence[Row]
    held_back: Sequence[Row]
    sha256: str
    repeats: float = 1.0

    @property
    def everything(self) -> list[Row]:
        return [*self.train, *self.held_back]


def rows_of_text(drawn: TrainingData) -> TrainingRows:
    """Those of a text."""
    everything = [*drawn.rows, *drawn.held_back]
    return _numbered(everything, len(drawn.rows), drawn.sha256, drawn.repeats)


def rows_of_batches(batches: Iterable[Any]) -> TrainingRows:
    """Those of batches of token ids, without their padding; every twentieth is held back."""
    sequences = [
        ids[mask]
        for batch in map(read_batch, batches)
        for ids, mask in zip(batch.input_ids.cpu(), batch.attention_mask.cpu(), strict=True)
    ]
    if len(sequences) < 2:
        raise DataError(
            f"data holds {len(sequences)} sequences. Give two or more, since one in twenty is held "
            "back to judge by."
        )
    last = _HELD_BACK - 1
    judged = [each for number, each in enumerate(sequences) if number % _HELD_BACK == last]
    judged = judged or sequences[-1:]
    held = {id(each) for each in judged}
    train = [each for each in sequences if id(each) not in held]
    hashed = hashlib.sha256()
    for each in sequences:
        hashed.update(each.to(torch.int64).numpy().tobytes())
    return _numbered([*train, *judged], len(train), hashed.hexdigest(), 1.0)


def collated(rows: Sequence[Row]) -> Row:
    """A batch of rows: ids (B, S) padded on the right, and a mask where something is padded."""
    lengths = [len(row["input_ids"]) for row in rows]
    batch = {
        "input_ids": pad_sequence([row["input_ids"] for row in rows], batch_first=True),
        "row": torch.stack([row["row"] for row in rows]),
    }
    if min(lengths) < max(lengths):
        places = torch.arange(max(lengths))
        batch["attention_mask"] = torch.stack([(places < n).long() for n in lengths])
    return batch


def _numbered(
    sequences: Sequence[Tensor], trained: int, sha256: str, repeats: float
) -> TrainingRows:
    rows = [{"input_ids": ids, "row": torch.tensor(n)} for n, ids in enumerate(sequences)]
    return TrainingRows(rows[:trained], rows[trained:], sha256, repeats)
