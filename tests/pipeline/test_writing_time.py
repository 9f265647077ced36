"""What a run says of calibration text: how long writing it takes, and what one text alone costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optipfair import PruningWarning, prune_checkpoint
from optipfair.pipeline import data
from optipfair.pruning.calibration import self_written
from optipfair.testing import byte_tokenizer, tiny_model

LITTLE: dict[str, Any] = {
    "pruning_percentage": 50,
    "neuron_selection_method": "AUTO",
    "calibration_samples": 8,
    "calibration_length": 32,
    "evaluate": False,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(("source", "tokens"), [("self", 256), ("builtin,self", 128)])
def test_how_long_the_model_writes_is_said_before_it_does(
    folder: Path, source: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_written, "usual_cache", lambda: folder.parent / "cache")
    said: list[str] = []
    prune_checkpoint(folder, folder.parent / "out", calibration=source, say=said.append, **LITTLE)
    assert said[0].startswith(f"First the model writes {tokens} tokens of text, which takes about ")
    again: list[str] = []
    prune_checkpoint(folder, folder.parent / "two", calibration=source, say=again.append, **LITTLE)
    assert not any("the model writes" in line for line in again)


def test_a_text_of_one_kind_is_warned_of_and_the_way_out_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = folder.parent / "mine.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 50)
    out = folder.parent / "out"
    prune_checkpoint(folder, out, calibration=str(text), **LITTLE)  # a toy is not warned of
    monkeypatch.setattr(data, "TRAINED_WIDTH", 2)
    prune_checkpoint(folder, out, calibration=f"builtin,{text}", overwrite=True, **LITTLE)
    with pytest.warns(PruningWarning, match=f"other kinds: .* --calibration builtin,{text}"):
        prune_checkpoint(folder, out, calibration=str(text), overwrite=True, **LITTLE)
