"""Every causal language model that transformers can build: pruned, and the same when reloaded, or
refused with a reason. Nothing in between."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from optipfair.arch.view import describe
from optipfair.pruning.calibration.activations import neuron_input_norms
from optipfair.testing import tiny_model
from optipfair.testing.toys import UNBUILDABLE
from support.walk import IDS, MODEL_TYPES, OK, THIS_RELEASE, skip_without_toy, walk

BUILT = [name for name in MODEL_TYPES if name not in UNBUILDABLE]
REFUSED_WITH_DATA = {
    **dict.fromkeys(("jetmoe", "llama4", "llama4_text"), "experts of a form of their own"),
    "cpmant": "32 prompt tokens stand before every text, which the mask does not know",
    "prophetnet": "its n-gram streams are further tokens, which the mask does not know",
}
PADDING = 7  # a byte like any other: only the mask says that it is padding
TABLE = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
# What is served depends on the release; the table is of one.
OF_RELEASE = Version(re.findall(r", transformers ([\d.]+),", TABLE)[0])
REPRESENTATIVE = {
    *("bert", "bart", "cohere2", "deepseek_v3", "gemma4_text", "glm4_moe", "gpt_oss", "jamba"),
    *("llama4_text", "mamba", "minicpm3", "mpt", "qwen3_next", "smollm3"),
}


def documented() -> dict[str, tuple[str, str]]:
    """Model type → (width, depth) as the docs table says it."""
    rows = {}
    for line in TABLE.splitlines():
        if line.startswith("| `") and "`model_type`" not in line:
            name, width, depth = (cell.strip() for cell in line.strip("|").split("|")[:3])
            rows[name.strip("`")] = (width, depth)
    return rows


def families(names: list[str]) -> list[Any]:
    """Families as parameters; all but a few are slow."""
    marks = {name: [] if name in REPRESENTATIVE else [pytest.mark.slow] for name in names}
    return [pytest.param(name, marks=marks[name]) for name in names]


def served_with_data() -> list[str]:
    """The families whose width is pruned with data."""
    served = [name for name, (width, _) in documented().items() if width == "yes"]
    return [name for name in served if name in BUILT and name not in REFUSED_WITH_DATA]


@pytest.mark.filterwarnings("ignore")  # transformers warns about some of its own toy models
@pytest.mark.parametrize("model_type", families(BUILT))
def test_family_is_served_or_refused_as_documented(model_type: str) -> None:
    skip_without_toy(model_type)
    outcome = walk(model_type)
    if OF_RELEASE != THIS_RELEASE:
        return  # served or refused, and nothing in between, is all that must hold
    expected = documented()[model_type]
    assert ("yes" if outcome.width == OK else "no", "yes" if outcome.depth == OK else "no") == (
        expected
    ), outcome
    refused_with_data_only = outcome.width == OK != outcome.data
    assert refused_with_data_only == (model_type in REFUSED_WITH_DATA), outcome


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", families(served_with_data()))
def test_padding_does_not_change_the_norms_of_any_family(model_type: str) -> None:
    skip_without_toy(model_type)
    view = describe(tiny_model(model_type))
    rows = [IDS[0], IDS[1, :7]]  # 7 < 8, the toys' `index_topk`: beyond it, its scores tie at 0
    expected = neuron_input_norms(view, [{"input_ids": row[None]} for row in rows])
    for side in ("left", "right"):
        found = neuron_input_norms(view, [padded(rows, side)])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def padded(rows: list[Tensor], side: str) -> dict[str, Tensor]:
    ids = pad_sequence(rows, batch_first=True, padding_value=PADDING, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in rows], True, padding_side=side)
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.skipif(OF_RELEASE != THIS_RELEASE, reason=f"it is of {OF_RELEASE}")
def test_the_table_names_every_family() -> None:
    assert sorted(documented()) == BUILT


def test_most_families_are_served() -> None:
    rows = list(documented().values())
    assert sum(width == "yes" for width, _ in rows) >= 0.87 * len(rows)
    assert sum(depth == "yes" for _, depth in rows) >= 0.9 * len(rows)
