"""What is refused before a model runs."""

from __future__ import annotations

from typing import Any

import pytest

from optipfair import ArgumentError, DataError, OutputError, compare_models, evaluate_model
from optipfair.testing import byte_tokenizer
from support.compared import read
from support.comparing_processes import models

REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"tasks": "piqa"}, ArgumentError, r"\['piqa'\]"),
    ({"tasks": ["pika"]}, ArgumentError, "Did you mean 'piqa'"),
    ({"tasks": ["piqa"]}, DataError, "task piqa cannot be measured: no data folder"),
    ({"data": "no/such"}, DataError, "'no/such' does not exist"),
    ({"data": ""}, DataError, "'' does not exist"),
    ({"data": __file__}, DataError, "is no folder"),
    ({"data": "a" * 300}, DataError, "does not exist"),
    ({"text": "no/such.txt"}, DataError, "no/such.txt cannot be read: .*No such file"),
    ({"text_field": "story"}, ArgumentError, "text_field='story' names .* no text is given"),
    ({"limit": 0}, ArgumentError, "limit=0 is no whole number of 1 or more"),
    ({"limit": True}, ArgumentError, "limit=True"),
    ({"seed": -1}, ArgumentError, "seed=-1"),
    ({"seed": 1.5}, ArgumentError, r"seed=1\.5"),
    ({"preset": "fast"}, ArgumentError, "'fast'.*full, quick"),
    ({"context": 129}, ArgumentError, "128 positions"),
    ({"context": 8, "stride": 9}, ArgumentError, "stride from 1 to the context"),
    ({"batch_tokens": 0}, ArgumentError, "batch_tokens=0"),
]
REFUSED_OF_TWO: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"prompts": "one"}, ArgumentError, "must be a list of texts"),
    ({"prompts": []}, ArgumentError, "must be a list of texts"),
    ({"prompts": [""]}, ArgumentError, "not empty"),
    ({"num_runs": 0}, ArgumentError, "num_runs=0"),
    ({"max_new_tokens": 1}, ArgumentError, "max_new_tokens=1"),
    ({"max_new_tokens": 200}, ArgumentError, "max_new_tokens=104 or less"),
    ({"max_new_tokens": "9"}, ArgumentError, "max_new_tokens='9'"),
    ({"output_dir": __file__}, OutputError, "is a file"),
    ({"output_dir": ""}, OutputError, "empty name"),
]


@pytest.mark.parametrize(("options", "kind", "match"), REFUSED + REFUSED_OF_TWO)
def test_wrong_arguments_are_refused_before_a_model_runs(
    options: dict[str, Any], kind: type[Exception], match: str
) -> None:
    original, pruned = models()
    with read(original) as first, read(pruned) as second:
        with pytest.raises(kind, match=match):
            compare_models(original, pruned, byte_tokenizer(), **options)
        if (options, kind, match) in REFUSED:
            with pytest.raises(kind, match=match):
                evaluate_model(original, byte_tokenizer(), **options)
    assert first == second == []
