"""Every causal language model that transformers can build: pruned, and the same when reloaded, or
refused with a reason. Nothing in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from optipfair.arch.tiny import UNBUILDABLE
from walk import MODEL_TYPES, OK, walk

TABLE = Path(__file__).parents[2] / "docs" / "families.md"
REPRESENTATIVE = {
    *("bert", "bart", "cohere2", "deepseek_v3", "gemma4_text", "glm4_moe", "gpt_oss", "jamba"),
    *("llama4_text", "mamba", "minicpm3", "mpt", "qwen3_next", "smollm3"),
}


def documented() -> dict[str, tuple[str, str]]:
    """Model type → (width, depth) as the docs table says it."""
    rows = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `") and "`model_type`" not in line:
            name, width, depth = (cell.strip() for cell in line.strip("|").split("|")[:3])
            rows[name.strip("`")] = (width, depth)
    return rows


@pytest.mark.filterwarnings("ignore")  # transformers warns about some of its own toy models
@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param(name, marks=() if name in REPRESENTATIVE else pytest.mark.slow)
        for name in MODEL_TYPES
        if name not in UNBUILDABLE
    ],
)
def test_family_is_served_or_refused_as_documented(model_type: str) -> None:
    outcome = walk(model_type)
    expected = documented()[model_type]
    assert ("yes" if outcome.width == OK else "no", "yes" if outcome.depth == OK else "no") == (
        expected
    ), outcome


def test_the_table_names_every_family() -> None:
    assert sorted(documented()) == [name for name in MODEL_TYPES if name not in UNBUILDABLE]


def test_most_families_are_served() -> None:
    rows = list(documented().values())
    assert sum(width == "yes" for width, _ in rows) >= 0.87 * len(rows)
    assert sum(depth == "yes" for _, depth in rows) >= 0.9 * len(rows)
