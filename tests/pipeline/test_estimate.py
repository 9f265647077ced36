"""How long a calibration will take: said before it starts, and fewer sequences where it is long."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest

from optipfair import ArgumentError, PruningWarning, prune_checkpoint
from optipfair.loading.quiet import quiet_transformers
from optipfair.pipeline import estimate
from optipfair.pipeline.estimate import Estimate
from optipfair.progress import duration
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.testing import byte_tokenizer, tiny_model

ONE = Estimate(each=2.0, beside=10.0, sequences=100, tokens=512, memory=3 * 10**9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_fewer_sequences_take_less_time() -> None:
    assert ONE.seconds == 210
    assert ONE.within(110, 16).sequences == 50
    assert ONE.within(20, 16).sequences == 16
    assert ONE.within(10**6, 16).sequences == 100
    assert "about 4 minutes and 3 GB of memory: 51,200 tokens" in ONE.in_words()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 second"),
        (1.6, "2 seconds"),
        (80, "80 seconds"),
        (300, "5 minutes"),
        (3 * 3600, "3.0 hours"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def pruned(folder: Path, said: list[str], **options: Any) -> Any:
    return prune_checkpoint(
        folder,
        folder.parent / f"out{len(said)}",
        neuron_selection_method="AUTO",
        pruning_percentage=20,
        calibration="builtin",
        say=said.append,
        **{"calibration_length": 32} | options,
    )


def test_the_time_is_said_before_the_work(folder: Path) -> None:
    said: list[str] = []
    result = pruned(folder, said, calibration_samples=16)
    assert [line for line in said if "512 tokens of calibration text" in line] == said
    assert result.plan.request["calibration"]["samples"] == 16


def slow_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Whatever is timed takes so long for each batch that it ran."""
    counts = itertools.count(1)
    monkeypatch.setattr(estimate, "_time", lambda work: (seconds * next(counts), work()))


def test_less_text_is_taken_where_more_would_take_too_long(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_clock(monkeypatch, 10.0)
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PruningWarning)
        result = pruned(folder, said, time_budget=1, calibration_length=256)
    drawn = result.plan.request["calibration"]["samples"]
    assert drawn < 128
    recipe = (folder.parent / "out0" / "recipe.yaml").read_text(encoding="utf-8")
    assert f"calibration_samples: {drawn}" in recipe


def test_it_is_said_where_even_little_text_takes_too_long(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_clock(monkeypatch, 10**5)
    with pytest.warns(PruningWarning, match=r"Even .* tokens .* hours.*--calibration none.*GPU"):
        pruned(folder, [])


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), True, "5"])
def test_a_budget_that_is_no_time_is_refused(folder: Path, minutes: Any) -> None:
    with pytest.raises(ArgumentError, match="is no number of minutes above 0"):
        pruned(folder, [], time_budget=minutes)


@pytest.mark.parametrize(
    "asked",
    [
        {"pruning_type": "DEPTH", "num_layers_to_remove": 1, "compensate": True},
        {"pruning_type": "BOTH", "num_layers_to_remove": 1, "neuron_selection_method": "AUTO"},
    ],
    ids=str,
)
def test_it_is_said_where_data_choose_layers_too(folder: Path, asked: dict[str, Any]) -> None:
    said: list[str] = []
    options = PruneOptions(
        pruning_percentage=None if asked["pruning_type"] == "DEPTH" else 20,
        layer_selection_method="auto",
        calibration="builtin",
        calibration_samples=16,
        calibration_length=32,
        **asked,
    )
    prune_checkpoint(folder, folder.parent / "out", options=options, say=said.append)
    assert sum("512 tokens of calibration text" in line for line in said) == 1


def test_a_number_of_layers_that_a_model_has_not_is_refused_before_text_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optipfair.pipeline.data.load_tokenizer", None)
    options = PruneOptions("DEPTH", num_layers_to_remove=4, calibration="builtin", compensate=True)
    with pytest.raises(ArgumentError, match="num_layers_to_remove=4 is outside"):
        prune_checkpoint(folder, folder.parent / "out", options=options)


@pytest.mark.filterwarnings("ignore:The kept width of")
def test_a_model_whose_first_layer_is_of_another_kind_is_timed(tmp_path: Path) -> None:
    """A dense layer before those with experts: a layer is cut as the plan says of it."""
    with quiet_transformers():
        tiny_model("deepseek_v3").save_pretrained(tmp_path / "model")
        byte_tokenizer().save_pretrained(tmp_path / "model")
    prune_checkpoint(
        tmp_path / "model",
        tmp_path / "out",
        pruning_percentage=20,
        neuron_selection_method="AUTO",
        calibration="builtin",
        calibration_samples=16,
        calibration_length=32,
    )
