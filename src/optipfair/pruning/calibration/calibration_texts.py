"""Calibration text → batches of tokens, drawn at random places of one source or several."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ...batches import Batch
from ...checking import (
    BUILTIN_TEXT,
    SELF_WRITTEN,
    check_layer_count,
    check_seed,
    not_whole,
    whole_number,
)
from ...errors import ArgumentError, DataError
from ...files.text_rows import Texts
from ...tokenized import tokenized
from .self_written import SelfWritten
from .text_sources import check_source, read_source, sources_of, strands_of

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import PreTrainedTokenizerBase

_SAMPLES, _LENGTH = 256, 512
_MORE = 4  # times as many on an accelerator
_HELD_BACK = 4096  # tokens
_COMPARED, _PIECES = 32, 64  # tokens of a piece that is looked for elsewhere, and how many


@dataclass(frozen=True)
class Drawn:
    """Sequences of a calibration text."""

    batches: list[Batch]  # to calibrate on
    held_back: list[Batch]  # others, in one batch, to judge by; none where the text is short
    sha256: str = ""  # of the whole text; of each source where there are several
    repeated: float = 0.0  # share of the held-back tokens that the rest of the text repeats


@dataclass(frozen=True)
class CalibrationText:
    """Where calibration text comes from, and how many sequences of how many tokens are drawn.

    The source is `builtin`, `self`, a `.txt` file, a `.jsonl` or `.json` file with a text, messages
    or an instruction in each row, or the id of a dataset with such rows; or several of these with
    commas between them, of which as many sequences are drawn. `field` says which field of a row is
    the text, where its name does not.
    """

    source: str
    samples: int | None = None  # 256, and more on an accelerator
    length: int | None = None  # 512, or as many as the model has positions
    seed: int = 0
    batch_size: int = 8
    field: str | None = None

    def check(self) -> None:
        """Check what can be checked without reading."""
        if self.samples is not None:
            check_layer_count("calibration_samples", self.samples)
        check_layer_count("calibration_batch_size", self.batch_size)
        if self.length is not None and (whole_number(self.length) or 0) < 2:
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
        sources = sources_of(self.source)
        for source in sources:
            check_source(source)
        if self.field is not None and set(sources) <= {BUILTIN_TEXT, SELF_WRITTEN}:
            raise ArgumentError(
                f"calibration_field={self.field!r} names a field of the rows of a file or dataset, "
                f"and calibration={self.source!r} is neither. Leave it out."
            )
        if self.samples is not None and self.samples < len(sources):
            raise ArgumentError(
                f"calibration_samples={self.samples} is less than the {len(sources)} sources of "
                "calibration text. Give more samples, or fewer sources."
            )

    def settled(
        self, positions: int | None = None, *, accelerated: bool = False
    ) -> CalibrationText:
        """The same with numbers where none were given: for so many positions, and on which device.

        Memory and time on an accelerator allow four times as many sequences.
        """
        usual = _LENGTH if positions is None else min(_LENGTH, positions)
        samples = _SAMPLES * (_MORE if accelerated else 1)
        return replace(self, samples=self.samples or samples, length=self.length or usual)

    def by_source(self) -> list[tuple[str, int]]:
        """How many of the samples, which are settled, come from each source."""
        sources = sources_of(self.source)
        return list(zip(sources, _shared(self.samples or 0, [1] * len(sources)), strict=True))

    def draw(
        self, tokenizer: PreTrainedTokenizerBase, model: Callable[[], Any] | None = None
    ) -> Drawn:
        """Tokenise each source once and draw sequences from it, at random places.

        The end of each, up to a tenth of it, is held back to judge the result by. Sequences of
        several sources take turns, so that the first few hold all of them. `model` gives the model
        that writes text where it is to write some itself; what is held back is bundled text then.
        """
        text = self.settled()
        assert text.samples is not None and text.length is not None
        parts: list[_Part] = []
        for source, samples in (shared_out := text.by_source()):
            if source == SELF_WRITTEN:
                parts.append(_written_by(model, text, samples, tokenizer))
            else:
                parts += _parts_of(source, text, samples, len(shared_out), tokenizer)
        held_back = torch.cat([part.held_back for part in parts])
        return Drawn(
            _batches(_in_turns([part.rows for part in parts]), self.batch_size),
            _batches(held_back, max(len(held_back), 1)),
            ",".join(dict.fromkeys(part.sha256 for part in parts)),
            sum(part.repeated for part in parts) / len(parts),
        )


@dataclass(frozen=True)
class _Part:
    """What is drawn from one source, or one strand of it; token ids, a sequence in each row."""

    rows: Tensor
    held_back: Tensor
    sha256: str  # of the whole source
    repeated: float


def _shared(count: int, shares: Sequence[int]) -> list[int]:
    """So many as whole numbers in proportion to shares; what is left goes to the first."""
    parts = [count * share // sum(shares) for share in shares]
    return [part + (place < count - sum(parts)) for place, part in enumerate(parts)]


def _in_turns(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts, so mixed that each stretch holds each part by its size."""
    turns = torch.cat([(torch.arange(len(part)) + 0.5) / max(len(part), 1) for part in parts])
    return torch.cat(list(parts))[turns.argsort(stable=True)]


def _parts_of(
    source: str, text: CalibrationText, samples: int, of: int, tokenizer: PreTrainedTokenizerBase
) -> list[_Part]:
    """What is drawn from one of so many sources: of each strand that is long enough its share."""
    length = text.length or _LENGTH
    whole = read_source(source, text.field, tokenizer)
    sha256 = hashlib.sha256(whole.joined.encode()).hexdigest()
    known = [(_token_ids(s.texts, tokenizer), s.share) for s in strands_of(source, whole)]
    enough = [(ids, share) for ids, share in known if len(ids) > length]
    if not enough:
        raise DataError(
            f"The calibration text {source} has {max(len(ids) for ids, _ in known)} tokens, a "
            f"sequence takes {length}, and one more is needed. Give a longer text, or a smaller "
            "calibration_length."
        )
    shares = [share for _, share in enough]
    held = _shared(max(_HELD_BACK // (of * length), 1), shares)
    generator = torch.Generator().manual_seed(text.seed)
    return [
        _drawn(source, text, ids, count, max(judged, 1), generator, sha256)
        for (ids, _), count, judged in zip(enough, _shared(samples, shares), held, strict=True)
    ]


def _drawn(
    source: str,
    text: CalibrationText,
    ids: Tensor,
    count: int,
    held: int,
    generator: torch.Generator,
    sha256: str,
) -> _Part:
    """So many sequences of a strand; the end of it, but no more than a tenth, is held back."""
    length = text.length or _LENGTH
    held = min(held, len(ids) // (10 * length))
    end = len(ids) - held * length
    places = end - length
    if count > max(places, _MORE * _SAMPLES):  # the usual number always goes
        raise ArgumentError(
            f"calibration_samples={text.samples} is more than the {places} places where a sequence "
            f"of {length} tokens can begin in {source}. Give fewer, or a longer text."
        )
    rows = ids.unfold(0, length, 1)  # every sequence that begins somewhere
    starts = torch.randint(0, places, (count,), generator=generator)
    return _Part(
        rows[starts], ids[end:].view(held, length), sha256, _repeated(ids[:end], ids[end:])
    )


def _token_ids(texts: Texts, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The texts as one, tokenised once."""
    special = not texts.templated
    found = tokenized(tokenizer, texts.joined, verbose=False, add_special_tokens=special)
    return torch.tensor(found["input_ids"], dtype=torch.int64)


def _written_by(
    model: Callable[[], Any] | None,
    text: CalibrationText,
    samples: int,
    tokenizer: PreTrainedTokenizerBase,
) -> _Part:
    """Sequences that the model writes itself; held back is the end of the bundled text."""
    if model is None:
        raise ArgumentError(
            f"The calibration text {SELF_WRITTEN!r} is written by the model. Give model= too."
        )
    length = text.length or _LENGTH
    rows = SelfWritten(model(), tokenizer, length, text.seed).sequences(samples)
    judged = _parts_of(BUILTIN_TEXT, text, 1, 1, tokenizer)
    sha256 = hashlib.sha256(rows.numpy().tobytes()).hexdigest()
    return _Part(rows, torch.cat([part.held_back for part in judged]), sha256, 0.0)


def calibration_loader(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    model: Any = None,
    samples: int = _SAMPLES,
    length: int = _LENGTH,
    seed: int = 0,
    batch_size: int = 8,
) -> DataLoader[dict[str, Tensor]]:
    """Draw calibration sequences from a text, for the `dataloader` of the pruning functions.

    Args:
        text: "builtin" for the text that ships with the package (five domains and twenty tongues,
            with its licence), "self" for text that the model writes, a `.txt` or `.jsonl` file, the
            id of a dataset, or several of these with commas between them.
        tokenizer: of the model that is to be pruned.
        model: that model, which "self" needs.
        samples: how many sequences are drawn.
        length: of each, in tokens.
        seed: of the draw; the same seed gives the same sequences.
        batch_size: how many sequences a batch holds.

    Returns:
        Batches `{"input_ids": (batch_size, length), "attention_mask": (batch_size, length)}`.

    Raises:
        ArgumentError: a number that makes no sense, or more samples than the text has places.
        DataError: there is no such text, or it is too short.

    Example:
        >>> from optipfair.testing import byte_tokenizer
        >>> loader = calibration_loader("builtin", byte_tokenizer(), samples=4, length=16)
        >>> next(iter(loader))["input_ids"].shape
        torch.Size([4, 16])
    """
    from torch.utils.data import DataLoader

    asked = CalibrationText(str(text), samples, length, seed, batch_size)
    asked.check()
    drawn = asked.draw(tokenizer, None if model is None else lambda: model)
    rows = [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for batch in drawn.batches
        for ids in batch.input_ids
    ]
    loader: Any = DataLoader(cast("Any", rows), batch_size=batch_size)
    return cast("DataLoader[dict[str, Tensor]]", loader)


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
