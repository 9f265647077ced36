"""A teacher's answers on disk, so that it need not be in memory while a student is trained.

For each token the K likeliest next tokens are kept, with the natural logarithms of their
probabilities; what is left of the mass is one bucket (`objectives.bucketed_kl`).

Axes: `N` sequences, `T` tokens of one or of several, `K` kept next tokens, `V` vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batches import Batch, model_inputs
from ..errors import ArgumentError, ModelOutputError, OutputError
from ..hooks import evaluating
from ..progress import track
from .by_chunks import Parted
from .objectives import bucketed_kl
from .teachers import Distance
from .training_rows import Row, collated

KEPT = 64
_ABOUT, _DONE = "about.json", "done.json"
_TOKENS, _LOGS = "tokens.bin", "log_probabilities.bin"
_CHUNK = 2**24  # logits that exist at once


@dataclass(frozen=True)
class TeacherCache:
    """The answers for some rows in a folder; those of a part of them where it was interrupted."""

    folder: Path
    starts: Sequence[int]  # of each row among all tokens, and their end: N + 1
    kept: int  # K

    @classmethod
    def of(
        cls, folder: str | Path, teacher: str, rows: Sequence[Row], vocabulary: int
    ) -> TeacherCache:
        """Open the answers of a teacher, named by its hash, or begin them.

        Raises:
            ArgumentError: the folder holds answers of another teacher, or for another text.
            OutputError: it holds something else.
        """
        lengths = [len(row["input_ids"]) for row in rows]
        starts = [0, *np.cumsum(lengths).tolist()]
        hashed = hashlib.sha256()
        for row in rows:
            hashed.update(row["input_ids"].to(torch.int64).numpy().tobytes())
        kept = min(KEPT, vocabulary - 1)
        about = {"version": 1, "teacher": teacher, "rows": hashed.hexdigest(), "kept": kept}
        cache = cls(Path(folder), starts, kept)
        cache._begin(about)
        return cache

    @property
    def bytes_a_token(self) -> int:
        return self.kept * (4 + 4)

    @property
    def done(self) -> int:
        """How many rows are there."""
        try:
            return int(json.loads((self.folder / _DONE).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return 0

    @property
    def complete(self) -> bool:
        return self.done >= len(self.starts) - 1

    def write(self, first: int, tokens: Tensor, logs: Tensor) -> None:
        """Add the answers for rows from `first` on, (T, K) each, one after the other."""
        start = self.starts[first]
        rows = first + 1
        while self.starts[rows] < start + len(tokens):
            rows += 1
        for name, values in ((_TOKENS, tokens.int()), (_LOGS, logs.float())):
            with (self.folder / name).open("r+b") as file:
                file.seek(start * self.kept * 4)
                file.write(values.contiguous().numpy().tobytes())
                file.flush()
                os.fsync(file.fileno())
        part = self.folder / f"{_DONE}.part"
        part.write_text(json.dumps(rows), encoding="utf-8")
        part.replace(self.folder / _DONE)

    def read(self, row: int) -> tuple[Tensor, Tensor]:
        """The answers for a row: tokens (T, K), and logarithms of their probabilities (T, K)."""
        start, end = self.starts[row], self.starts[row + 1]
        found = []
        for name, kind in ((_TOKENS, np.int32), (_LOGS, np.float32)):
            count, offset = (end - start) * self.kept, start * self.kept * 4
            values = np.fromfile(self.folder / name, kind, count, offset=offset)
            found.append(torch.from_numpy(values.reshape(end - start, self.kept)))
        return found[0].long(), found[1]

    def _begin(self, about: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / _ABOUT
        if file.exists():
            before = _read(file)
            if before != about:
                raise ArgumentError(
                    f"{self.folder} holds answers of another original, or for other text. Give "
                    "another folder for the answers."
                )
            return
        if any(self.folder.iterdir()):
            raise OutputError(
                f"{self.folder} is not empty and holds no answers of an original. Give another "
                "folder for them."
            )
        for name in (_TOKENS, _LOGS):
            (self.folder / name).touch()
        file.write_text(json.dumps(about), encoding="utf-8")


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def fill(
    cache: TeacherCache, model: Any, rows: Sequence[Row], *, at_once: int, show_progress: bool
) -> None:
    """Let a model answer the rows that are missing, as many tokens at once as are given."""
    batches = _batches(rows, cache.done, at_once)
    parted = Parted(model)
    vocabulary = int(model.config.get_text_config().vocab_size)
    device = model.get_input_embeddings().weight.device
    with evaluating(model):
        for first, several in track(batches, "the original answers", show_progress, unit="batch"):
            batch = collated(several)
            mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
            states = parted.states(**model_inputs(Batch(batch["input_ids"], mask), device))
            states = states[mask.to(states.device)]  # (T, H)
            answers = [
                _answers(parted.logits(chunk), cache.kept)
                for chunk in torch.split(states, max(_CHUNK // vocabulary, 1))
            ]
            cache.write(first, *(torch.cat(parts) for parts in zip(*answers, strict=True)))


def _answers(logits: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    logs, tokens = logits.float().log_softmax(dim=-1).topk(kept, dim=-1)
    if not bool(logs.isfinite().all()):
        raise ModelOutputError(
            "The original gives logits that are not finite, so nothing can be learned from it. "
            "Look for broken weights in it."
        )
    return tokens.cpu(), logs.cpu()


def _batches(rows: Sequence[Row], done: int, at_once: int) -> list[tuple[int, list[Row]]]:
    """The rows that are missing, with the number of the first, so many tokens together."""
    found: list[tuple[int, list[Row]]] = []
    tokens = at_once
    for number in range(done, len(rows)):
        length = len(rows[number]["input_ids"])
        if tokens + length > at_once:
            found.append((number, []))
            tokens = 0
        found[-1][1].append(rows[number])
        tokens += length
    return found


@dataclass(frozen=True)
class CachedTeacher:
    """A teacher whose answers are on disk."""

    cache: TeacherCache

    def distance(self, input_ids: Tensor, real: Tensor, row: Tensor | None) -> Distance:
        """See `teachers.Teacher`."""
        del real
        assert row is not None
        answers = [self.cache.read(int(each)) for each in row]
        tokens = torch.cat([each for each, _ in answers]).to(input_ids.device)  # (T, K)
        logs = torch.cat([each for _, each in answers]).to(input_ids.device)
        return lambda logits, place: bucketed_kl(logits, tokens[place], logs[place])
