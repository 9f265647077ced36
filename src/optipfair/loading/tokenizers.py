"""Loading the tokenizer of a model from wherever it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checking import is_file
from ..files.foreign import read_json
from ..visible import visible
from .quiet import reading
from .sources import Source, find_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)


def load_tokenizer(
    source: str | Path | Source, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer, or return None where a folder has none."""
    found = source if isinstance(source, Source) else find_source(source)
    if found.kind == "folder" and not has_tokenizer(Path(found.location)):
        return None
    if found.kind == "hub" and not _hub_has_tokenizer(found):
        return None
    from transformers import AutoTokenizer

    auto: Any = AutoTokenizer
    with reading(found):
        if found.kind == "folder":
            _check_tokens(Path(found.location))
        tokenizer: PreTrainedTokenizerBase = auto.from_pretrained(
            found.location, trust_remote_code=trust_remote_code, **found.arguments
        )
    return tokenizer


def _check_tokens(folder: Path) -> None:
    """Refuse options of special tokens that a terminal acts on: tokenizers prints unknown ones."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if is_file(folder / name):
            waiting = [read_json(folder / name, constants=True)]
            while waiting:
                value = waiting.pop()
                if isinstance(value, dict) and any(visible(key) != key for key in value):
                    raise ValueError(f"{name} has a field with characters that a terminal acts on")
                inside = value.values() if isinstance(value, dict) else value
                waiting += inside if isinstance(value, dict | list) else ()


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _hub_has_tokenizer(source: Source) -> bool:
    from transformers.utils.hub import cached_file

    with reading(source):
        return any(
            cached_file(
                source.location,
                name,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                **source.arguments,
            )
            for name in _TOKENIZER_FILES
        )
