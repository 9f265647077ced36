"""A prompt as tokens: ids, which of them are special, and where each lies in the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentError, DataError


@dataclass(frozen=True)
class Encoded:
    """A prompt as a model reads it, `T` tokens."""

    text: str
    ids: tuple[int, ...]
    special: tuple[bool, ...]  # which tokens the tokenizer added
    spans: tuple[tuple[int, int], ...] | None = None  # in the text, where the tokenizer says so

    def __len__(self) -> int:
        return len(self.ids)

    def text_of(self, tokens: tuple[int, ...]) -> str:
        """What consecutive tokens say; their ids where the tokenizer does not tell."""
        if self.spans is None:
            return " ".join(f"#{self.ids[i]}" for i in tokens)
        spans = [self.spans[i] for i in tokens]
        return self.text[spans[0][0] : spans[-1][1]].strip() or self.text[slice(*spans[0])]


def encode(tokenizer: Any, prompt: str, vocabulary: int) -> Encoded:
    """Tokenize a prompt as the model expects it, special tokens included.

    A slow tokenizer, without offsets, does. `vocabulary` is the number of the model's embeddings;
    a token beyond it is refused, and a prompt of which none comes.
    """
    if not callable(tokenizer):
        raise ArgumentError(
            f"tokenizer is a {type(tokenizer).__name__}. Give the tokenizer of the model, such as "
            "AutoTokenizer.from_pretrained loads."
        )
    fast = bool(getattr(tokenizer, "is_fast", False))
    found = tokenizer(
        prompt, return_special_tokens_mask=True, return_offsets_mapping=fast, verbose=False
    )
    ids = tuple(int(number) for number in found["input_ids"])
    special = tuple(bool(flag) for flag in found["special_tokens_mask"])
    if all(special):
        raise DataError(f"The tokenizer makes no token of the prompt {prompt!r}. Give another.")
    if max(ids) >= vocabulary:
        raise DataError(
            f"The tokenizer does not match the model: it gives token {max(ids)} for {prompt!r}, "
            f"the model has {vocabulary}. Give the tokenizer that belongs to the model."
        )
    spans = tuple((int(a), int(b)) for a, b in found["offset_mapping"]) if fast else None
    return Encoded(prompt, ids, special, spans)
