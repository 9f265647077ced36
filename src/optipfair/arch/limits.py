"""Whether a model can take data: token ids that it knows, lengths that it can count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from ..batches import Batch
from ..errors import DataError

_UNUSED = 2  # rows that some tables of positions begin with
_WINDOWS = ("sliding_window", "sliding_window_size", "window_size", "attention_chunk_size")


def check_sequences(model: Any, batches: Sequence[Batch], kind: str = "calibration") -> None:
    """Refuse token ids outside the vocabulary, and sequences longer than a table of positions.

    Positions that are computed for any length (rotary ones) set no limit. `kind` says what the
    data are for.
    """
    known = vocabulary(model)
    for batch in batches:
        least, most = (int(each) for each in batch.input_ids.aminmax())
        if least < 0 or most >= known:
            raise DataError(
                f"The {kind} data hold token id {least if least < 0 else most}; the model "
                f"knows 0 to {known - 1}. Use the tokenizer that belongs to the model."
            )
    longest = max((batch.input_ids.shape[1] for batch in batches), default=0)
    limit = positions(model)
    if limit is not None and longest > limit:
        raise DataError(
            f"A {kind} sequence has {longest} tokens; this {model.config.model_type!r} has "
            f"{limit} positions. Give shorter ones (of a text: calibration_length={limit})."
        )


def vocabulary(model: Any) -> int:
    """How many token ids a model knows."""
    return int(model.get_input_embeddings().weight.shape[0])


def positions(model: Any) -> int | None:
    """The most tokens that a model can count, None where its positions have no end.

    What its config states is a limit where a table is that long. `max_seq_len` by itself is the
    length that attention is computed for (MPT).
    """
    config = model.config.get_text_config()
    stated = getattr(config, "max_position_embeddings", None)
    if not isinstance(stated, int):
        length = getattr(config, "max_seq_len", None)
        return length if isinstance(length, int) else None
    usable = [
        rows - skipped
        for rows, skipped in _tables(model)
        if 0 <= rows - stated <= _UNUSED
    ]  # fmt: skip
    return min([stated, *usable]) if usable else None


def attention_window(model: Any) -> int | None:
    """The fewest tokens that any layer's attention is limited to, None where its config names none.

    A field may stand there without being in use.
    """
    config = model.config.get_text_config()
    stated = (getattr(config, name, None) for name in _WINDOWS)
    return min((size for size in stated if isinstance(size, int) and size > 0), default=None)


def _tables(model: Any) -> Iterator[tuple[int, int]]:
    """The rows of tables beside that of the tokens, and how many of them are for padding."""
    tokens = model.get_input_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module is not tokens:
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            yield module.num_embeddings, skipped
        for buffer in module.buffers(recurse=False):
            if buffer.dim() > 1:
                yield int(buffer.shape[-2]), 0
