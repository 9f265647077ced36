"""Scores kept on disk while they are made, so that a run that is killed goes on where it stopped.

A file belongs to one model on one kind of device. Each line holds one batch, by a hash of its
tokens: a batch is there or not, so what comes from the file has the bits that a new run would give.
Which tokenizer made the tokens does not matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch

from ...arch.fingerprint import fingerprint
from ...distributed import in_first
from ...errors import OutputError
from ...noted import warn

Scored = tuple[list[float], bool]  # log-probabilities, and whether each token is the likeliest

_FORMAT = 1


class ScoreCache(AbstractContextManager["ScoreCache"]):
    """The scores of one model, by batch. Only the first of several processes writes.

    Without a folder none is kept.
    """

    def __init__(self, folder: str | Path | None, model: Any) -> None:
        self.fingerprint = fingerprint(model)
        # What the bits of a score depend on beside the batch.
        self._header = {
            "format": _FORMAT,
            "model": self.fingerprint,
            "device": model.get_input_embeddings().weight.device.type,
            "torch": str(torch.__version__),
        }
        name = f"scores-{_hash(self._header)[:16]}.jsonl"
        self.path = None if folder is None else Path(folder) / name
        self.reused = 0  # scores taken from the file
        self._file: TextIO | None = None
        self._found = {} if self.path is None else in_first(partial(self._opened, self.path))

    def get(self, key: str) -> list[Scored] | None:
        """The scores of a batch, None if it is not there."""
        known = self._found.get(key)
        self.reused += len(known or ())
        return known

    def add(self, key: str, scores: Sequence[Scored]) -> None:
        """Keep a batch; it is in the file when this returns."""
        if self.path is not None:
            self._found[key] = list(scores)
        if self._file is not None:
            self._file.write(_line(key, scores))
            self._file.flush()

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _opened(self, path: Path) -> dict[str, list[Scored]]:
        """What the file holds; it is written anew unless every line is whole."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            known = path.exists()
            text = path.read_text(encoding="utf-8", errors="replace") if known else ""
            first, *lines = text.splitlines() or [""]
            right = _parsed(first) == self._header
            kept, damaged = _read(lines) if right else ({}, len(lines) + bool(first))
            if damaged or not right or not text.endswith("\n"):
                temporary = path.with_suffix(".part")
                whole = [json.dumps(self._header) + "\n", *(_line(*each) for each in kept.items())]
                temporary.write_text("".join(whole), encoding="utf-8")
                temporary.replace(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as exc:
            raise OutputError(
                f"Scores cannot be kept in {path.parent}: {exc.strerror}. Give a folder that "
                "can be written, or none."
            ) from exc
        if damaged:
            warn(
                f"{path} is damaged: {damaged} of its lines are not as they were written. "
                "What they held is scored again.",
            )
        return kept


def _hash(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _line(key: str, scores: Sequence[Scored]) -> str:
    """JSON writes floats in the shortest form that reads back to the same bits."""
    return json.dumps({"batch": key, "scores": scores, "check": _check(key, scores)}) + "\n"


def _check(key: str, scores: Sequence[Scored]) -> str:
    return _hash({key: scores})[:16]


def _read(lines: Sequence[str]) -> tuple[dict[str, list[Scored]], int]:
    """The lines that are whole, and the number of the others."""
    kept: dict[str, list[Scored]] = {}
    damaged = 0
    for line in lines:
        values = _parsed(line)
        try:
            scores = [([*map(float, own)], bool(greedy)) for own, greedy in values["scores"]]
            if values["check"] != _check(values["batch"], scores):
                raise ValueError
            kept[values["batch"]] = scores
        except (KeyError, TypeError, ValueError):
            damaged += 1
    return kept, damaged


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
