"""Patterns of layers that other readers have in their code."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING

from optipfair.arch.fixed_patterns import PERIODS, broken_pattern


@pytest.mark.parametrize(
    ("family", "keep", "period"),
    [
        ("gemma2", [0, 1, 2, 3], None),
        ("gemma2", [0, 1], None),  # the last are gone
        ("gemma2", [2, 3], None),  # a period is gone
        ("gemma2", [0, 3], None),  # each stands on a place of its kind
        ("gemma2", [0, 2, 3], 2),
        ("gemma3_text", [0, 1, 2, 4, 5, 6], 6),
        ("gemma3_text", [*range(6), *range(12, 18)], None),
        ("cohere2", [1, 2, 3], 4),
        ("llama", [1, 3], None),
    ],
)
def test_layers_must_stand_on_a_place_of_their_kind(
    family: str, keep: list[int], period: int | None
) -> None:
    assert broken_pattern(family, keep) == period


def test_every_family_of_the_table_is_one_of_transformers() -> None:
    assert [family for family in PERIODS if family not in CONFIG_MAPPING] == []
