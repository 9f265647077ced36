"""Calibration text → batches of tokens: a text file, a JSONL file, or a dataset id."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...batches import Batch
from ...checking import check_layer_count, check_seed, whole_number
from ...errors import ArgumentError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAMPLES = 128
_HELD_BACK = 4096  # tokens
_DATASET_TEXTS = 20_000  # rows of a dataset that are read at most
_DATASET_ID = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?")
_OF_FILES = {".csv", ".gz", ".json", ".jsonl", ".md", ".parquet", ".txt"}
_GIVE_FILE = "Give a .txt file, or a .jsonl file with a field 'text' in each line"


@dataclass(frozen=True)
class Drawn:
    """Sequences of a calibration text."""

    batches: list[Batch]  # to calibrate on
    held_back: list[Batch]  # others, in one batch, to judge by; none where the text is short


@dataclass(frozen=True)
class CalibrationText:
    """Where calibration text comes from, and how many sequences of how many tokens are drawn.

    The source is a `.txt` file, a `.jsonl` file with a text in each line's `text` field (or its
    first one that is a string), or the id of a dataset.
    """

    source: str
    samples: int = _SAMPLES
    length: int = 512
    seed: int = 0
    batch_size: int = 8

    def check(self) -> None:
        """Check what can be checked without reading."""
        check_layer_count("calibration_samples", self.samples)
        check_layer_count("calibration_batch_size", self.batch_size)
        if (whole_number(self.length) or 0) < 2:
            raise ArgumentError(
                f"calibration_length={self.length!r} is no whole number of 2 or more. Give a "
                "number of tokens, for example 512."
            )
        check_seed(self.seed)
        _check_source(self.source)

    def draw(self, tokenizer: PreTrainedTokenizerBase) -> Drawn:
        """Tokenise the text once and draw sequences from it, at random places.

        The end of the text, up to a tenth of it, is held back to judge the result by.
        """
        encode: Any = tokenizer
        text = "\n\n".join(self.texts()).encode(errors="replace").decode()  # half surrogates
        ids: Tensor = torch.tensor(encode(text, verbose=False)["input_ids"])
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
        held_back = _batches(ids[end:].view(held, self.length), held)
        return Drawn(_batches(rows, self.batch_size), held_back)

    def texts(self) -> list[str]:
        """The texts, in order."""
        path = Path(self.source)
        if not _is(Path.is_file, self.source):
            return _dataset_texts(self.source)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as exc:
            raise DataError(
                f"The calibration file {path} cannot be read: {exc}. Give text in UTF-8."
            ) from exc
        if "\0" in text:
            raise DataError(
                f"The calibration file {path} holds zero bytes, so it is no text. {_GIVE_FILE}."
            )
        if path.suffix.lower() != ".jsonl":
            return [text]
        lines = enumerate(text.split("\n"), 1)  # other line breaks may be part of a text
        return [_text_of(line, path, number) for number, line in lines if line.strip()]


def _check_source(source: str) -> None:
    suffix = Path(source).suffix.lower()
    is_id = suffix not in _OF_FILES and _DATASET_ID.fullmatch(source)
    is_file = _is(Path.is_file, source)
    if is_file and suffix == ".json":
        raise DataError(
            f"The calibration file {source} is JSON, whose brackets and names are no text. "
            f"{_GIVE_FILE}."
        )
    if not (is_file or is_id or (source.strip() and _is(Path.is_dir, source))):
        raise DataError(
            f"There is no calibration file {source!r}. {_GIVE_FILE}, or the id of a dataset."
        )


def _is(kind: Callable[[Path], bool], source: str) -> bool:
    try:
        return kind(Path(source))
    except OSError:  # a name too long
        return False


def _batches(rows: Tensor, size: int) -> list[Batch]:
    parts: tuple[Tensor, ...] = torch.split(rows, size) if len(rows) else ()
    return [Batch(part, torch.ones_like(part).bool()) for part in parts]


def digest(batches: list[Batch]) -> str:
    """SHA-256 of the token ids, first 16 hex digits: the same data gives the same digest."""
    hashed = hashlib.sha256()
    for batch in batches:
        hashed.update(batch.input_ids.to(torch.int64).numpy().tobytes())
    return hashed.hexdigest()[:16]


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as exc:
        why = f"{exc.msg}, column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else exc
        raise DataError(f"{path}, line {number} is not valid JSON ({why}). {_GIVE_FILE}.") from exc
    values = row if isinstance(row, dict) else {"text": row}
    texts = [values["text"]] if "text" in values else list(values.values())
    for text in texts:
        if isinstance(text, str):
            return text
    held = f", only {', '.join(map(repr, values))}"
    if "text" in values:
        held = f" but a {type(values['text']).__name__}"
    raise DataError(f"{path}, line {number} holds no text{held}. {_GIVE_FILE}.")


def _dataset_texts(name: str) -> list[str]:
    """Texts of a dataset's training split, through the package `datasets`."""
    try:
        import datasets
    except ImportError as exc:
        kind = "a folder, no file" if _is(Path.is_dir, name) else "no file"
        raise DataError(
            f"The calibration text {name!r} is {kind}. {_GIVE_FILE}; to read a dataset, install: "
            "pip install datasets"
        ) from exc
    try:
        rows = datasets.load_dataset(name, split="train", streaming=True).take(_DATASET_TEXTS)
        texts = [next((v for v in row.values() if isinstance(v, str)), "") for row in rows]
    except (OSError, ValueError, RuntimeError) as exc:
        raise DataError(f"The dataset {name!r} cannot be read: {exc}") from exc
    return [text for text in texts if text]
