"""Text to train on → sequences of tokens, with whole documents held back to judge by.

Axes: `N` sequences, `S` tokens of each.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checking import SELF_WRITTEN
from ..errors import ArgumentError, DataError
from ..files.held_back import held_back
from ..files.text_rows import Texts
from ..pruning.calibration.self_written import SelfWritten
from ..pruning.calibration.text_sources import read_source, sources_of
from ..tokenized import tokenized
from .mixing import mixed

_HELD_BACK = 20  # of sequences that the model writes, one in so many
_PIECES = 200  # of a text that is one document, about
_JUDGED = 16  # sequences to judge by, at most
_PARAGRAPHS = "\n\n"


@dataclass(frozen=True)
class TrainingData:
    """Sequences of token ids, without padding."""

    rows: Tensor  # to train on, in the order in which they are read, (N, S)
    held_back: Tensor  # of other documents, to judge by, (M, S)
    sha256: str  # of all the text
    repeats: float  # how often the text is read


@dataclass(frozen=True)
class _Part:
    """A domain: documents to train on, and sequences of others, (M, S)."""

    train: Sequence[Tensor]
    held_back: Tensor


@dataclass(frozen=True)
class TrainingText:
    """Where text comes from, as in calibration, and how much of it is read."""

    source: str
    tokens: int
    length: int = 512
    seed: int = 0
    field: str | None = None

    def drawn(self, tokenizer: Any, model: Callable[[], Any] | None = None) -> TrainingData:
        """Tokenise every document, hold one in twenty back, and put the others in a row.

        Documents follow each other in random order with an end-of-sequence token between them; text
        that is too short is read again, in another order. Of a file whose rows have a field
        `domain`, each domain is read by its share (`mixing.py`). `model` gives the model that
        writes text where it is to write some itself.
        """
        wanted = max(self.tokens // self.length, 1)
        parts = sources_of(self.source)
        drawn = [self._of(part, -(-wanted // len(parts)), tokenizer, model) for part in parts]
        order = torch.randperm(
            sum(len(each.rows) for each in drawn), generator=self._generator(len(parts))
        )
        return TrainingData(
            torch.cat([each.rows for each in drawn])[order][:wanted],
            torch.cat([each.held_back[: -(-_JUDGED // len(parts))] for each in drawn]),
            ",".join(each.sha256 for each in drawn),
            max(each.repeats for each in drawn),
        )

    def _of(
        self, source: str, count: int, tokenizer: Any, model: Callable[[], Any] | None
    ) -> TrainingData:
        if source == SELF_WRITTEN:
            return self._written(count, tokenizer, model)
        texts = read_source(source, self.field, tokenizer)
        documents, domains = _documents(texts)
        end = _end(tokenizer)
        ids = [_ids(each, texts, tokenizer, end) for each in documents]
        judged = _held_back(documents, domains, list(map(len, ids)), self.length)
        parts = self._parts(ids, domains, judged)
        if not parts:
            raise DataError(
                f"The text {source} has {sum(map(len, ids))} tokens in {len(documents)} documents. "
                f"To train on sequences of {self.length} tokens and to judge by others, more are "
                "needed. Give more text, shorter sequences (--length), or builtin."
            )
        sizes = {name: sum(map(len, part.train)) // self.length for name, part in parts.items()}
        counts = mixed(count, sizes)
        rows = torch.cat([self._read(parts[name].train, n) for name, n in counts.items()])
        of_judged = mixed(_JUDGED, {name: len(part.held_back) for name, part in parts.items()})
        held_back = [parts[name].held_back[:n] for name, n in of_judged.items()]
        return TrainingData(
            rows[torch.randperm(len(rows), generator=self._generator(0))],
            torch.cat(held_back),
            hashlib.sha256(texts.joined.encode()).hexdigest(),
            max(count / sizes[name] for name, count in counts.items()),
        )

    def _parts(
        self, ids: Sequence[Tensor], domains: Sequence[str], judged: set[int]
    ) -> dict[str, _Part]:
        """The documents by domain; all together where one is too short to be read by itself."""
        for named in (domains, [""] * len(ids)):
            found = {}
            for name in dict.fromkeys(named):
                of_domain = [number for number, each in enumerate(named) if each == name]
                train = [ids[number] for number in of_domain if number not in judged]
                rows = _rows([ids[number] for number in of_domain if number in judged], self.length)
                rows = rows[torch.randperm(len(rows), generator=self._generator(0))]
                found[name] = _Part(train, rows)
            if all(
                sum(map(len, p.train)) >= self.length and len(p.held_back) for p in found.values()
            ):
                return found
        return {}

    def _read(self, documents: Sequence[Tensor], count: int) -> Tensor:
        """So many sequences, (count, S): the documents in random order, as often as needed."""
        generator, found, have = self._generator(0), [], 0
        while have < count:
            order = torch.randperm(len(documents), generator=generator).tolist()
            rows = _rows([documents[place] for place in order], self.length)
            rows = rows[torch.randperm(len(rows), generator=generator)]
            found.append(rows)
            have += len(rows)
        return torch.cat(found)[:count]

    def _written(self, count: int, tokenizer: Any, model: Callable[[], Any] | None) -> TrainingData:
        if model is None:
            raise ArgumentError(f"The text {SELF_WRITTEN!r} is written by the model. Give it too.")
        judged = min(max(count // _HELD_BACK, 1), _JUDGED)
        rows = SelfWritten(model(), tokenizer, self.length, self.seed).sequences(count + judged)
        sha256 = hashlib.sha256(rows.numpy().tobytes()).hexdigest()
        return TrainingData(rows[judged:], rows[:judged], sha256, 1.0)

    def _generator(self, part: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed + 1000 * part)


def _documents(texts: Texts) -> tuple[list[str], Sequence[str]]:
    """The rows and their domains; a single one is cut into its paragraphs."""
    if len(texts.rows) > 1 or texts.templated:
        return texts.rows, texts.domains or [""] * len(texts.rows)
    paragraphs = [each for each in texts.rows[0].split(_PARAGRAPHS) if each.strip()]
    size = max(len(paragraphs) // _PIECES, 1)
    pieces = [
        _PARAGRAPHS.join(paragraphs[start : start + size])
        for start in range(0, len(paragraphs), size)
    ]
    return pieces, [""] * len(pieces)


def _held_back(
    documents: Sequence[str], domains: Sequence[str], lengths: Sequence[int], enough: int
) -> set[int]:
    """The documents that nothing is trained on: of each domain some, and `enough` tokens in all."""
    of_domains: dict[str, list[str]] = defaultdict(list)
    for document, domain in zip(documents, domains, strict=True):
        of_domains[domain].append(document)
    chosen = {texts[place] for texts in of_domains.values() for place in held_back(texts)}
    tokens = sum(n for document, n in zip(documents, lengths, strict=True) if document in chosen)
    if tokens < enough:
        characters = sum(map(len, documents)) * enough // max(sum(lengths), 1)
        chosen |= {documents[place] for place in held_back(documents, 2 * characters)}
    return {number for number, document in enumerate(documents) if document in chosen}


def _end(tokenizer: Any) -> list[int]:
    end = getattr(tokenizer, "eos_token_id", None)
    return [end] if isinstance(end, int) else []


def _ids(text: str, texts: Texts, tokenizer: Any, end: Sequence[int]) -> Tensor:
    whole = text.encode(errors="replace").decode()
    special = not texts.templated
    found = tokenized(tokenizer, whole, verbose=False, add_special_tokens=special)["input_ids"]
    closing = [] if texts.templated or list(found[-1:]) == end else end
    return torch.tensor([*found, *closing], dtype=torch.int64)


def _rows(documents: Sequence[Tensor], length: int) -> Tensor:
    """Documents one after the other, cut into sequences; what is left of the last is left out."""
    if not documents:
        return torch.zeros(0, length, dtype=torch.int64)
    ids = torch.cat(list(documents))
    return ids[: len(ids) // length * length].view(-1, length)
