"""The report that the demonstration ends with, here of toy models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optipfair import prune_model
from optipfair.demo.demonstration import write_report
from optipfair.evaluation.tasks import TASKS
from optipfair.testing import byte_tokenizer, tiny_model


def test_the_report_is_made_of_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIPFAIR_DATA", str(tmp_path / "missing"))
    for name in ("original", "width"):
        model = tiny_model("llama", max_position_embeddings=512)
        if name == "width":
            prune_model(model, pruning_percentage=40, show_progress=False)
        model.save_pretrained(tmp_path / name)
        byte_tokenizer().save_pretrained(str(tmp_path / name))
    run = write_report(tmp_path)
    assert run.folder == tmp_path / "report" and (run.folder / "report.html").is_file()
    assert json.loads((run.folder / "comparison.json").read_text()) == run.comparison
    measured = {each["task"] for each in run.comparison["measures"]}
    assert measured == {"text", "next_token"}
    left_out = {each["section"]: each["how"] for each in run.comparison["left_out"]}
    assert set(left_out) == {name for name in TASKS if TASKS[name].path and TASKS[name].default}
    assert all("--data" in how for how in left_out.values())
    assert run.comparison["speed"] and run.comparison["layers"]
