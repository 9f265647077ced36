"""What a model's folder says of the texts that it has seen."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from optipfair.evaluation.text.calibrated import marked, training_of
from optipfair.evaluation.text.two_models import Text
from optipfair.loading.sources import find_source

FOUND: dict[str, Any] = {
    "before": 0.3,
    "after": 0.2,
    "tokens": 2048,
    "seconds": 9.0,
    "judged": [{"tokens": 0, "loss": 0.3}, {"tokens": 2048, "loss": 0.2}],
    "training": [],
    "text_sha256": "aa,bb",
    "helped": True,
}


def folder(path: Path, found: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}")
    (path / "recovery.json").write_text(json.dumps({"found": found}))
    return path


def text(sha256: str) -> Text:
    return Text("x.txt", "words", sha256, 10)


@pytest.mark.filterwarnings("ignore:.*was trained on x.txt")
def test_a_text_that_a_model_was_trained_on_is_called_so(tmp_path: Path) -> None:
    source = find_source(folder(tmp_path / "healed", FOUND))
    assert marked(text("bb"), [source]).name == f"x.txt, on which {source.given} was trained"
    assert marked(text("cc"), [source]).name == f"x.txt, on which {source.given} was not trained"


def test_a_training_is_read_from_the_folder(tmp_path: Path) -> None:
    found = training_of(find_source(folder(tmp_path / "healed", FOUND)))
    assert found is not None and (found.before, found.after) == (0.3, 0.2)
    assert [each.tokens for each in found.judged] == [0, 2048]


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        "text",
        {},
        {**FOUND, "judged": []},
        {**FOUND, "judged": "0.3"},
        {**FOUND, "judged": [{"tokens": "0", "loss": 0.3}]},
        {**FOUND, "after": "<script>"},
        {**FOUND, "training": [{"tokens": 1, "loss": math.inf}]},
    ],
)
def test_another_tools_record_is_left_alone(tmp_path: Path, found: Any) -> None:
    source = find_source(folder(tmp_path / "other", found))
    assert training_of(source) is None
