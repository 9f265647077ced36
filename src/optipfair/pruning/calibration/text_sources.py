"""Where calibration text comes from: the text that ships with the package, a file, or a dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checking import BUILTIN_TEXT, SELF_WRITTEN, is_file, is_folder
from ...errors import DataError
from ...files.foreign import reading
from ...files.text_rows import Texts, read_texts, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BUILTIN_FILE = Path(__file__).with_name("text_mix") / "calibration.jsonl"
# Of the bundled text: domain → its share of the sequences. Text that reads like stories, news and
# speeches counts most, since a model loses most there; by length, half would be mathematics, code
# and other tongues.
BUILTIN_SHARES = {"prose": 8, "fiction": 12, "speech": 6, "math": 3, "code": 4, "multilingual": 1}
_DATASET_TEXTS = 20_000  # rows of a dataset that are read at most
_DATASET_ID = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?")
_OF_FILES = {".csv", ".gz", ".json", ".jsonl", ".md", ".ndjson", ".parquet", ".tsv", ".txt"}
_GIVE_FILE = (
    "Give a .txt file, or a .jsonl file with a text, messages, or an instruction in each line"
)


def sources_of(given: str) -> tuple[str, ...]:
    """The sources that are named with commas between them; a file's name may hold commas too."""
    if is_file(given):
        return (given,)
    return tuple(part.strip() for part in given.split(","))


def check_source(source: str) -> None:
    """Refuse what can be neither a file nor a dataset, without reading it.

    Raises:
        DataError: there is no such file, and it is no id of a dataset.
    """
    if source in (BUILTIN_TEXT, SELF_WRITTEN):
        return
    suffix = Path(source).suffix.lower()
    is_id = suffix not in _OF_FILES and _DATASET_ID.fullmatch(source)
    if not (is_file(source) or is_id or (source.strip() and is_folder(source))):
        raise DataError(
            f"There is no calibration file {source!r}. {_GIVE_FILE}, the id of a dataset, "
            f"{BUILTIN_TEXT!r} for the text that ships with OptiPFair, or {SELF_WRITTEN!r} for "
            "what the model writes."
        )


@dataclass(frozen=True)
class Strand:
    """Texts of a source that belong together, and how many of its sequences come from them."""

    texts: Texts
    share: int = 1  # relative to those of the other strands


def strands_of(source: str, texts: Texts) -> Sequence[Strand]:
    """A source's texts as strands: those of the bundled text by domain, all others as one."""
    if source != BUILTIN_TEXT:
        return [Strand(texts)]
    domains = read_texts(_BUILTIN_FILE, name="domain").rows
    pairs = list(zip(texts.rows, domains, strict=True))
    return [
        Strand(Texts([text for text, domain in pairs if domain == name]), share)
        for name, share in BUILTIN_SHARES.items()
    ]


def read_source(
    source: str, field: str | None = None, tokenizer: PreTrainedTokenizerBase | None = None
) -> Texts:
    """The texts of a source, in order; chats as the tokenizer's template writes them."""
    if source == BUILTIN_TEXT:
        return read_texts(_BUILTIN_FILE)
    if is_file(source):
        return read_texts(Path(source), name=field, tokenizer=tokenizer)
    rows = _dataset_rows(source)
    return texts_of(f"The dataset {source!r}", rows, name=field, tokenizer=tokenizer)


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
    way_out = (
        "Give its id as the hub has it, and be online; text that needs no network is "
        f"{BUILTIN_TEXT!r}, {SELF_WRITTEN!r}, or a file."
    )
    with reading(f"The dataset {name!r}", DataError, way_out):
        rows = datasets.load_dataset(name, split="train", streaming=True).take(_DATASET_TEXTS)
        return [(f"{name}, row {number}", row) for number, row in enumerate(rows, 1)]
