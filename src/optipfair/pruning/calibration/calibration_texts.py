"""Calibration text → batches of tokens: a text file, a JSONL file, or a dataset id."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...batches import Batch
from ...checking import check_layer_count, check_seed, is_file, is_folder, not_whole, whole_number
from ...errors import ArgumentError, DataError
from ...files.foreign import reading
from ...files.text_rows import Texts, read_texts, texts_of
from ...tokenized import tokenized

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAMPLES = 128
_HELD_BACK = 4096  # tokens
_DATASET_TEXTS = 20_000  # rows of a dataset that are read at most
_DATASET_ID = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?")
_OF_FILES = {".csv", ".gz", ".json", ".jsonl", ".md", ".ndjson", ".parquet", ".tsv", ".txt"}
_GIVE_FILE = (
    "Give a .txt file, or a .jsonl file with a text, messages, or an instruction in each line"
)
_COMPARED, _PIECES = 32, 64  # tokens of a piece that is looked for elsewhere, and how many


@dataclass(frozen=True)
class Drawn:
    """Sequences of a calibration text."""

    batches: list[Batch]  # to calibrate on
    held_back: list[Batch]  # others, in one batch, to judge by; none where the text is short
    sha256: str = ""  # of the whole text
    repeated: float = 0.0  # share of the held-back tokens that the rest of the text repeats


@dataclass(frozen=True)
class CalibrationText:
    """Where calibration text comes from, and how many sequences of how many tokens are drawn.

    The source is a `.txt` file, a `.jsonl` or `.json` file with a text, messages or an instruction
    in each row, or the id of a dataset with such rows. `field` says which field of a row is the
    text, where its name does not.
    """

    source: str
    samples: int = _SAMPLES
    length: int = 512
    seed: int = 0
    batch_size: int = 8
    field: str | None = None

    def check(self) -> None:
        """Check what can be checked without reading."""
        check_layer_count("calibration_samples", self.samples)
        check_layer_count("calibration_batch_size", self.batch_size)
        if (whole_number(self.length) or 0) < 2:
            raise ArgumentError(
                f"calibration_length={self.length!r} {not_whole(self.length)} of 2 or more. Give "
                "a number of tokens, for example 512."
            )
        check_seed(self.seed)
        if self.field is not None and (not isinstance(self.field, str) or not self.field):
            raise ArgumentError(
                f"calibration_field={self.field!r} is no name of a field. Give one, for example "
                "'text'."
            )
        _check_source(self.source)

    def draw(self, tokenizer: PreTrainedTokenizerBase) -> Drawn:
        """Tokenise the text once and draw sequences from it, at random places.

        The end of the text, up to a tenth of it, is held back to judge the result by.
        """
        texts = self.texts(tokenizer)
        text = texts.joined
        found = tokenized(tokenizer, text, verbose=False, add_special_tokens=not texts.templated)
        ids: Tensor = torch.tensor(found["input_ids"], dtype=torch.int64)
        if len(ids) < self.length + 1:
            raise DataError(
                f"The calibration text {self.source} has {len(ids)} tokens, a sequence takes "
                f"{self.length}, and one more is needed. Give a longer text, or a smaller "
                "calibration_length."
            )
        held = min(max(_HELD_BACK // self.length, 1), len(ids) // (10 * self.length))
        end = len(ids) - held * self.length
        places = end - self.length
        if self.samples > max(places, _SAMPLES):  # the default always goes
            raise ArgumentError(
                f"calibration_samples={self.samples} is more than the {places} places where a "
                f"sequence of {self.length} tokens can begin in {self.source}. Give fewer, or a "
                "longer text."
            )
        generator = torch.Generator().manual_seed(self.seed)
        starts = torch.randint(0, places, (self.samples,), generator=generator)
        rows = torch.stack([ids[start : start + self.length] for start in starts.tolist()])
        return Drawn(
            _batches(rows, self.batch_size),
            _batches(ids[end:].view(held, self.length), held),
            hashlib.sha256(text.encode()).hexdigest(),
            _repeated(ids[:end], ids[end:]),
        )

    def texts(self, tokenizer: PreTrainedTokenizerBase | None = None) -> Texts:
        """The texts, in order; chats as the tokenizer's template writes them."""
        if not is_file(self.source):
            rows = _dataset_rows(self.source)
            return texts_of(
                f"The dataset {self.source!r}", rows, name=self.field, tokenizer=tokenizer
            )
        return read_texts(Path(self.source), name=self.field, tokenizer=tokenizer)


def _check_source(source: str) -> None:
    suffix = Path(source).suffix.lower()
    is_id = suffix not in _OF_FILES and _DATASET_ID.fullmatch(source)
    if not (is_file(source) or is_id or (source.strip() and is_folder(source))):
        raise DataError(
            f"There is no calibration file {source!r}. {_GIVE_FILE}, or the id of a dataset."
        )


def _batches(rows: Tensor, size: int) -> list[Batch]:
    parts: tuple[Tensor, ...] = torch.split(rows, min(size, len(rows))) if len(rows) else ()
    return [Batch(part, torch.ones_like(part).bool()) for part in parts]


def digest(batches: list[Batch]) -> str:
    """SHA-256 of the token ids, first 16 hex digits: the same data gives the same digest."""
    hashed = hashlib.sha256()
    for batch in batches:
        hashed.update(batch.input_ids.to(torch.int64).numpy().tobytes())
    return hashed.hexdigest()[:16]


def _repeated(ids: Tensor, others: Tensor) -> float:
    """The share of the others, in pieces of 32 tokens, that stand among the ids too."""
    if not len(others):
        return 0.0
    everywhere, pieces = ids.numpy().tobytes(), torch.split(others, _COMPARED)
    chosen = pieces[:: -(-len(pieces) // _PIECES)]
    return sum(piece.numpy().tobytes() in everywhere for piece in chosen) / len(chosen)


def _dataset_rows(name: str) -> list[tuple[str, Any]]:
    """Rows of a dataset's training split, through the package `datasets`."""
    try:
        import datasets
    except ImportError as exc:
        kind = "a folder, no file" if is_folder(name) else "no file"
        raise DataError(
            f"The calibration text {name!r} is {kind}. {_GIVE_FILE}; to read a dataset, install: "
            "pip install datasets"
        ) from exc
    with reading(f"The dataset {name!r}", DataError, "Give its id and split as the hub has them."):
        rows = datasets.load_dataset(name, split="train", streaming=True).take(_DATASET_TEXTS)
        return [(f"{name}, row {number}", row) for number, row in enumerate(rows, 1)]
