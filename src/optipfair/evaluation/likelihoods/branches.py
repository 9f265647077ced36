"""Rows that a model reads once: of one query, or of several that begin alike, as a tree of tokens.

In a tree each token follows another one, wherever that stands. The model is told so by its position
and by a mask for each pair of tokens, so what it computes for a token is what it would compute
after the same tokens in a row of their own. This module knows no model; which families take such
masks is data (`arch/families.py`).

Axes: `B` rows of a batch, `N` tokens of a row, `S` those of the longest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .query_tokens import Encoded

_USUAL, _LONGEST = 128, 512  # tokens of a tree: attention reads all pairs, masked or not
_MOSTLY = 0.5  # a query of which more is there already joins a longer tree too


@dataclass(frozen=True, slots=True)
class Row:
    """What the model reads once, and the queries that it answers."""

    inputs: tuple[int, ...]  # (N,) token ids
    follows: tuple[int, ...]  # (N,) the place of the token before each, -1 for none
    queries: tuple[Encoded, ...]
    places: tuple[tuple[int, ...], ...]  # of each query, where its scored tokens are predicted

    @property
    def branched(self) -> bool:
        """Whether any token follows another one than that on its left."""
        return self.follows != tuple(range(-1, len(self.follows) - 1))

    @property
    def kept(self) -> int:
        """How many of the last places are needed."""
        return len(self.inputs) - min(min(places) for places in self.places)


def plain_rows(encoded: Iterable[Encoded]) -> list[Row]:
    """A row for each text that is read; queries that differ in their last token share it."""
    together: dict[tuple[int, ...], set[Encoded]] = {}
    for each in encoded:
        together.setdefault(each.inputs, set()).add(each)
    rows = []
    for inputs, queries in together.items():
        own = tuple(sorted(queries, key=lambda each: (each.start, each.ids[-1])))
        places = tuple(tuple(range(each.start - 1, len(inputs))) for each in own)
        rows.append(Row(inputs, tuple(range(-1, len(inputs) - 1)), own, places))
    return _longest_first(rows)


def trees(encoded: Iterable[Encoded], room: float = math.inf) -> list[Row]:
    """Rows of queries that begin alike, each token of a common beginning once.

    Neighbours in the order of their tokens share a row while it has 128 tokens at most, and up to
    512 where more than half of a query is there already, but never more than `room`. Places that
    predict nothing stand first, so that the head need not run on them.
    """
    rows: list[Row] = []
    tree = _Tree()
    for each in sorted(set(encoded), key=lambda query: (query.ids, query.start)):
        new = tree.new_tokens(each.inputs)
        total = len(tree.inputs) + new
        mostly = new < _MOSTLY * len(each.inputs)
        if tree.queries and total > min(room, _LONGEST if mostly else _USUAL):
            rows.append(tree.row())
            tree = _Tree()
        tree.add(each)
    return _longest_first([*rows, tree.row()] if tree.queries else rows)


@dataclass
class _Tree:
    """A row that grows."""

    inputs: list[int] = field(default_factory=list)
    follows: list[int] = field(default_factory=list)
    queries: list[Encoded] = field(default_factory=list)
    places: list[list[int]] = field(default_factory=list)
    known: dict[tuple[int, int], int] = field(default_factory=dict)  # what follows what -> place

    def new_tokens(self, inputs: Sequence[int]) -> int:
        """How many tokens of a text are not there yet."""
        place = -1
        for number, token in enumerate(inputs):
            found = self.known.get((place, token))
            if found is None:
                return len(inputs) - number
            place = found
        return 0

    def add(self, query: Encoded) -> None:
        place, path = -1, []
        for token in query.inputs:
            if (place, token) not in self.known:
                self.known[place, token] = len(self.inputs)
                self.inputs.append(token)
                self.follows.append(place)
            place = self.known[place, token]
            path.append(place)
        self.queries.append(query)
        self.places.append(path[query.start - 1 :])

    def row(self) -> Row:
        """The row, each place behind the one it follows, and those that predict last."""
        late = [False] * len(self.inputs)
        for places in self.places:
            for place in places:
                late[place] = True
        for place, before in enumerate(self.follows):
            late[place] |= before >= 0 and late[before]
        order = sorted(range(len(late)), key=lambda place: (late[place], place))
        moved = {old: new for new, old in enumerate(order)} | {-1: -1}
        return Row(
            tuple(self.inputs[old] for old in order),
            tuple(moved[self.follows[old]] for old in order),
            tuple(self.queries),
            tuple(tuple(moved[place] for place in places) for places in self.places),
        )


def tree_inputs(rows: Sequence[Row]) -> dict[str, Tensor]:
    """What a model is told of rows of trees, padded to the right: ids, positions, who sees whom.

    Returns:
        `input_ids` and `position_ids` (B, S), `attention_mask` (B, 1, S, S) bool: from the second
        of these tokens, the last axis, something flows into the first. Padding sees itself alone.
    """
    longest = max(len(row.inputs) for row in rows)
    ids = np.zeros((len(rows), longest), dtype=np.int64)
    positions = np.zeros_like(ids)
    seen = np.repeat(np.eye(longest, dtype=bool)[None], len(rows), axis=0)
    for number, row in enumerate(rows):
        ids[number, : len(row.inputs)] = row.inputs
        for place, before in enumerate(row.follows):
            if before >= 0:
                seen[number, place] |= seen[number, before]
                positions[number, place] = positions[number, before] + 1
    return {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.from_numpy(positions),
        "attention_mask": torch.from_numpy(seen[:, None]),
    }


def _longest_first(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-len(row.inputs), row.inputs, row.follows))
