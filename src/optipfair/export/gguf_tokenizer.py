"""A tokenizer as llama.cpp reads it, from a folder's `tokenizer.json`: byte-level BPE.

How text is split before merging is not in a `.gguf` file but in llama.cpp's code, under a name.
Only tokenizers whose splitting is one of those known here are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, UnsupportedModelError
from ..files.foreign import read_json, reading
from ..tokenized import tokenized

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # llama.cpp's kinds of tokens

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}

# How text is split, as tokenizer.json says it → llama.cpp's name for it.
_SPLITS: tuple[tuple[tuple[Mapping[str, Any], ...], str], ...] = (
    (({**_BYTES, "use_regex": True},), "gpt-2"),
    (
        ({"type": "Digits", "individual_digits": True}, {**_BYTES, "use_regex": True}),
        "smollm",
    ),
    (
        ({"Regex": "|".join((_CONTRACTIONS, _WORDS, r"\p{N}{1,3}", _REST))}, _BYTES),
        "llama-bpe",
    ),
    (({"Regex": "|".join((_CONTRACTIONS, _WORDS, r"\p{N}", _REST))}, _BYTES), "qwen2"),
)


@dataclass(frozen=True)
class GgufTokenizer:
    """What a file says of its tokenizer; ids are None where the model has none."""

    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    special: Mapping[str, int]  # `bos`, `eos`, `unk`, `pad` → its id
    add_bos: bool
    chat_template: str | None


def read_tokenizer(folder: Path, load: Callable[[], Any], vocabulary: int) -> GgufTokenizer:
    """The tokenizer of a folder, as transformers would `load` it; of so many tokens.

    Raises:
        CheckpointError: the file is damaged.
        UnsupportedModelError: it is no byte-level BPE, or splits text as nothing here does.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UnsupportedModelError(
            "The model has no tokenizer.json, and a .gguf file holds its tokenizer. Load the "
            "tokenizer with AutoTokenizer, and save it into the folder."
        )
    with reading(path, CheckpointError, "Restore or download it."):
        return _as_gguf(read_json(path), load, vocabulary)


def _as_gguf(fields: Any, load: Callable[[], Any], vocabulary: int) -> GgufTokenizer:
    model = fields["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise UnsupportedModelError(
            "Only byte-level BPE tokenizers are written into .gguf files here; this one is "
            f"{_kind(model)}. Convert the model with convert_hf_to_gguf.py of llama.cpp."
        )
    if fields.get("normalizer") not in (None, {"type": "NFC"}):
        raise UnsupportedModelError(
            f"The tokenizer changes text before it splits it ({fields['normalizer']['type']}), "
            "which a .gguf file cannot say."
        )
    if not model.get("merges"):
        raise UnsupportedModelError("The tokenizer merges nothing, and llama.cpp needs merges.")
    tokenizer = load()
    added = {each["id"]: each for each in fields.get("added_tokens", ())}
    by_id = {number: token for token, number in model["vocab"].items()}
    by_id |= {number: each["content"] for number, each in added.items()}
    return GgufTokenizer(
        _split_name(fields.get("pre_tokenizer")),
        tuple(by_id.get(number, f"[PAD{number}]") for number in range(vocabulary)),
        tuple(_kind_of(number, by_id, added) for number in range(vocabulary)),
        tuple(each if isinstance(each, str) else " ".join(each) for each in model["merges"]),
        {
            name: number
            for name in ("bos", "eos", "unk", "pad")
            if (number := getattr(tokenizer, f"{name}_token_id", None)) is not None
        },
        _adds_bos(tokenizer),
        _template(tokenizer),
    )


def _kind(model: Mapping[str, Any]) -> str:
    return "a BPE of characters" if model.get("type") == "BPE" else f"of type {model.get('type')}"


def _kind_of(number: int, by_id: Mapping[int, str], added: Mapping[int, Any]) -> int:
    if number not in by_id:
        return _UNUSED
    if number in added:
        return _CONTROL if added[number].get("special") else _USER_DEFINED
    return _NORMAL


def _split_name(pre: Any) -> str:
    """llama.cpp's name for how text is split."""
    steps = (pre or {}).get("pretokenizers") or ([pre] if pre else [])
    for wanted, name in _SPLITS:
        if len(steps) == len(wanted) and all(map(_does, steps, wanted)):
            return name
    known = ", ".join(name for _, name in _SPLITS)
    raise UnsupportedModelError(
        f"The tokenizer splits text in a way that is not among those written here ({known}): "
        f"{json.dumps(pre)[:200]}. Convert the model with convert_hf_to_gguf.py of llama.cpp."
    )


def _does(step: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if "Regex" in wanted:
        pattern = step.get("pattern") or {}
        isolated = step.get("behavior") == "Isolated" and not step.get("invert")
        return isolated and pattern.get("Regex") == wanted["Regex"]
    return all(step.get(name) == value for name, value in wanted.items())


def _adds_bos(tokenizer: Any) -> bool:
    """Whether a text begins with the token for that, unasked."""
    found = tokenized(tokenizer, "a")["input_ids"]
    first = found[0] if found else None
    return first is not None and first == getattr(tokenizer, "bos_token_id", None)


def _template(tokenizer: Any) -> str | None:
    found = getattr(tokenizer, "chat_template", None)
    return found if isinstance(found, str) else None
