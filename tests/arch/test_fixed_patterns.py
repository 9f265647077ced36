"""Patterns of layers that other readers have in their code."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING

from optipfair import PruningWarning, plan_pruning
from optipfair.arch.fixed_patterns import PERIODS, broken_pattern
from optipfair.testing import tiny_model


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


def test_a_broken_pattern_is_warned_of_when_layers_go() -> None:
    model = tiny_model("gemma2")
    with pytest.warns(PruningWarning, match="llama.cpp takes every second layer of 'gemma2'"):
        plan_pruning(model, "DEPTH", layer_indices=[1])
    plan_pruning(model, "DEPTH", layer_indices=[0, 1])
