"""`optipfair export`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.exported import toy_folder

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_folder(tmp_path_factory.mktemp("models") / "model", "odd widths")


@pytest.mark.parametrize(
    ("to", "form", "file"),
    [
        ("vllm", "decilm", "configuration_decilm.py"),
        ("mlx", "decilm", "model.safetensors"),
        ("llama.cpp", "gguf", "model.gguf"),
        ("transformers", "remote code", "modeling_layers_differ.py"),
    ],
)
def test_each_engine_gets_its_form(
    run_as_given: Run, folder: Path, tmp_path: Path, to: str, form: str, file: str
) -> None:
    ask = ("export", "--model-path", str(folder), "--output-path", str(tmp_path / "out"))
    code, out, err = run_as_given(*ask, "--to", to)
    assert code == 0, err
    assert f"for {to} ({form}, " in out
    assert (tmp_path / "out" / file).is_file()
    assert "## Exported" in (tmp_path / "out" / "README.md").read_text()
    code, out, err = run_as_given(*ask, "--to", to, "--overwrite", "--json")
    assert code == 0, err
    assert json.loads(out)["form"] == form


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--to", "ollama"), "Available: llama.cpp, mlx, transformers, vllm"),
        (("--to", "mlx", "--dtype", "q4"), "Unknown dtype 'q4'"),
        (("--to", "mlx", "--verify-engine", "--engine-python", "nowhere"), "is no program"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    run_as_given: Run, folder: Path, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    ask = ("export", "--model-path", str(folder), "--output-path", str(tmp_path / "out"))
    code, _, err = run_as_given(*ask, *more)
    assert code == 2 and said in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()
