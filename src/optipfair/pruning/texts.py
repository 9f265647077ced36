"""Calibration text → batches of tokens: a text file, a JSONL file, or a dataset id."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..batches import Batch
from ..errors import DataError
from .request import check_seed
from .selection import check_layer_count

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS = 8  # sequences in a batch
_HELD_BACK = 4096  # tokens
_DATASET_TEXTS = 20_000  # rows of a dataset that are read at most


@dataclass(frozen=True)
class Drawn:
    """Sequences of a calibration text.

    Attributes:
        batches: to calibrate on.
        held_back: other ones in one batch, to judge the result by; none where the text is short.
    """

    batches: list[Batch]
    held_back: list[Batch]


@dataclass(frozen=True)
class CalibrationText:
    """Where calibration text comes from, and how much of it is used.

    Attributes:
        source: a `.txt` file, a `.jsonl` file with a text in each line's `text` field (or its first
            one that is a string), or the id of a dataset.
        samples: how many sequences are drawn.
        length: of each, in tokens.
        seed: of the draw.
    """

    source: str
    samples: int = 128
    length: int = 512
    seed: int = 0

    def check(self) -> None:
        """Check what can be checked without reading.

        Raises:
            ArgumentError: a number out of range.
            DataError: there is no such file.
        """
        check_layer_count("calibration_samples", self.samples)
        check_layer_count("calibration_length", self.length)
        check_seed(self.seed)
        looks_local = Path(self.source).suffix in (".txt", ".jsonl", ".json")
        if looks_local and not Path(self.source).is_file():
            raise DataError(f"There is no calibration file {self.source}. Give its path.")

    def draw(self, tokenizer: PreTrainedTokenizerBase) -> Drawn:
        """Tokenise the text once and draw sequences from it, at random places.

        The end of the text, up to a tenth of it, is held back to judge the result by.

        Raises:
            DataError: the text cannot be read or is shorter than one sequence.
        """
        encode: Any = tokenizer
        ids: Tensor = torch.tensor(encode("\n\n".join(self.texts()), verbose=False)["input_ids"])
        if len(ids) < self.length + 1:
            raise DataError(
                f"The calibration text {self.source} has {len(ids)} tokens, a sequence takes "
                f"{self.length}. Give a longer text, or a smaller calibration_length."
            )
        held = min(max(_HELD_BACK // self.length, 1), len(ids) // (10 * self.length))
        end = len(ids) - held * self.length
        generator = torch.Generator().manual_seed(self.seed)
        starts = torch.randint(0, end - self.length, (self.samples,), generator=generator)
        rows = torch.stack([ids[start : start + self.length] for start in starts.tolist()])
        return Drawn(_batches(rows), _batches(ids[end:].view(held, self.length), held))

    def texts(self) -> list[str]:
        """The texts, in order."""
        path = Path(self.source)
        if not path.is_file():
            return _dataset_texts(self.source)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise DataError(f"The calibration file {path} cannot be read: {exc}.") from exc
        if path.suffix != ".jsonl":
            return [text]
        return [_text_of(line, path, number) for number, line in enumerate(text.splitlines(), 1)]


def _batches(rows: Tensor, size: int = _ROWS) -> list[Batch]:
    parts: tuple[Tensor, ...] = torch.split(rows, size) if len(rows) else ()
    return [Batch(part, torch.ones_like(part).bool()) for part in parts]


def digest(batches: list[Batch]) -> str:
    """SHA-256 of the token ids, first 16 hex digits: the same data gives the same digest."""
    found = hashlib.sha256()
    for batch in batches:
        found.update(batch.input_ids.to(torch.int64).numpy().tobytes())
    return found.hexdigest()[:16]


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as exc:
        raise DataError(f"{path}, line {number} is not valid JSON: {exc}.") from exc
    values = row if isinstance(row, dict) else {"text": row}
    texts = [values["text"]] if "text" in values else list(values.values())
    for text in texts:
        if isinstance(text, str):
            return text
    raise DataError(f"{path}, line {number} holds no text. Give a field 'text' in each line.")


def _dataset_texts(name: str) -> list[str]:
    """Texts of a dataset's training split, through the package `datasets`."""
    try:
        import datasets
    except ImportError as exc:
        raise DataError(
            f"{name!r} is no file. To read it as a dataset, install: pip install datasets"
        ) from exc
    try:
        rows = datasets.load_dataset(name, split="train", streaming=True).take(_DATASET_TEXTS)
        texts = [next((v for v in row.values() if isinstance(v, str)), "") for row in rows]
    except (OSError, ValueError, RuntimeError) as exc:
        raise DataError(f"The dataset {name!r} cannot be read: {exc}") from exc
    return [text for text in texts if text]
