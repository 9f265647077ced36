"""Every shape in every engine: the same greedy tokens and log-probabilities as in PyTorch.

The engines' Pythons are in `OPTIPFAIR_ENGINES`; `make test-engines` builds them, and prints the
table.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optipfair import export_model, load_model
from support.exported import SHAPES, demo_folder, toy_folder

ENVIRONMENTS = os.environ.get("OPTIPFAIR_ENGINES", "")
pytestmark = pytest.mark.skipif(
    not ENVIRONMENTS, reason="OPTIPFAIR_ENGINES is not set: make test-engines"
)
ENGINES = {"vllm": "vllm", "mlx": "mlx", "llama.cpp": "llama_cpp", "transformers": "transformers4"}


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[list[str]]:
    """Lines of what was compared, printed at the end."""
    lines: list[str] = []
    yield lines
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_toy_computes_the_same(engine: str, shape: str, tmp_path: Path, table: list[str]) -> None:
    compare(engine, f"toy, {shape}", toy_folder(tmp_path / "model", shape), tmp_path, table)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral"])
def test_other_families_compute_the_same(
    engine: str, family: str, tmp_path: Path, table: list[str]
) -> None:
    for shape in ("uniform", "odd widths"):
        if family == "qwen3" and shape == "odd widths" and engine != "transformers":
            continue  # refused, which the ordinary tests see
        place = tmp_path / shape.replace(" ", "-")
        folder = toy_folder(place / "model", shape, family)
        compare(engine, f"{family} toy, {shape}", folder, place, table)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_embedded_model_computes_the_same(
    engine: str, shape: str, tmp_path: Path, table: list[str]
) -> None:
    model: Any = load_model("demo", dtype="float32")
    folder = demo_folder(tmp_path / "model", shape, model)
    compare(engine, f"SmolLM2-135M, {shape}", folder, tmp_path, table)


def compare(engine: str, name: str, folder: Path, place: Path, table: list[str]) -> None:
    python = Path(ENVIRONMENTS, ENGINES[engine], "bin", "python")
    result = export_model(
        folder, place / "out", to=engine, verify_engine=True, engine_python=str(python)
    )
    check = result.check
    assert check is not None
    tokens = " ".join(map(str, check.equal))
    table.append(f"{engine:14}{name:44}{result.form:14}{tokens:>10}  {check.difference:.5f}")
    assert check.equal == (16, 16, 16)
