"""`neutralise`: words are followed alike, text hardly changes, and a failure changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import (
    ArgumentError,
    CheckpointError,
    Contrast,
    DataError,
    ModelOutputError,
    UnknownNameError,
    UnsupportedModelError,
    load_model,
    neutralise,
    neutralise_checkpoint,
)
from optipfair.arch.view import describe
from optipfair.bias.contrasts.contrast_prompts import prompts_of
from optipfair.bias.contrasts.tracing import behaviours
from optipfair.neutralising import neutralising, weight_changes
from optipfair.testing import byte_tokenizer, tiny_model

# So few words that the same ones change and judge: what is learned from them must show.
FEW = Contrast(
    "few",
    ("The {word} said", "I met the {word} when"),
    (("nurse", "maid"), ("pilot", "miner")),
    ((" she",), (" he",)),
)
OPTIONS: dict[str, Any] = {"calibration_samples": 4, "max_divergence": 1.0}
FAMILIES = ["llama", "gpt2", "gemma2", "phi3", "opt", "falcon"]


def values(model: Any) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", FAMILIES)
def test_words_are_followed_alike_and_only_the_named_projections_change(family: str) -> None:
    model = tiny_model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # so that differences are no rounding
    before = values(model)
    found = neutralise(model, byte_tokenizer(), FEW, **OPTIONS)
    (contrast,) = found.contrasts
    assert found.strength > 0
    assert contrast.spread_after < 0.3 * contrast.spread_before
    assert abs(contrast.after) < 0.5 * abs(contrast.before)
    assert found.divergence < 0.01 and found.perplexity_after < 1.01 * found.perplexity_before
    changed = {name for name, each in values(model).items() if not torch.equal(each, before[name])}
    assert len(changed) == len(found.layers) > 0


def test_a_change_that_costs_too_much_is_not_made() -> None:
    model = tiny_model("llama")
    before = values(model)
    found = neutralise(model, byte_tokenizer(), FEW, **OPTIONS | {"max_divergence": 1e-12})
    assert found.strength == 0.0 and same(values(model), before)
    assert found.contrasts[0].spread_after == found.contrasts[0].spread_before
    assert "as it came" in found.in_words()


def test_the_strength_that_is_asked_for_is_made() -> None:
    model = tiny_model("llama")
    found = neutralise(model, byte_tokenizer(), FEW, strength=0.5, **OPTIONS)
    assert found.strength == 0.5 and [each.strength for each in found.tried] == [0.5]
    half = found.contrasts[0].spread_after / found.contrasts[0].spread_before
    assert 0.4 < half < 0.6


def test_the_same_call_gives_the_same_bits() -> None:
    one, other = tiny_model("llama"), tiny_model("llama")
    for model in (one, other):
        neutralise(model, byte_tokenizer(), FEW, **OPTIONS)
    assert same(values(one), values(other))


def test_several_contrasts_are_taken_out_together() -> None:
    second = Contrast(
        "second", ("My {word} is",), (("cat", "dog"), ("sun", "sea")), ((" a",), (" b",))
    )
    model = tiny_model("llama")
    found = neutralise(model, byte_tokenizer(), [FEW, second], **OPTIONS)
    assert [each.name for each in found.contrasts] == ["few", "second"]
    for each in found.contrasts:
        assert each.spread_after < 0.5 * each.spread_before


def test_answers_to_kept_texts_stay_nearer_to_what_they_were() -> None:
    kept = ("A maid said", "The pilots said", "My miner said")
    moved = {}
    for contrast in (FEW, replace(FEW, kept=kept)):
        model = tiny_model("llama")
        view = describe(model)
        asked = prompts_of([replace(FEW, kept=kept)], model, byte_tokenizer(), kept=True)[8:]
        before = behaviours(view, asked)
        neutralise(model, byte_tokenizer(), contrast, strength=1.0, **OPTIONS)
        moved[contrast.kept] = float((behaviours(view, asked) - before).abs().mean())
    assert moved[kept] < 0.7 * moved[()]


def test_batches_of_ones_own_are_taken() -> None:
    ids = torch.arange(5 * 2 * 16).view(5, 2, 16) % 200
    model = tiny_model("llama")
    found = neutralise(
        model, byte_tokenizer(), FEW, [{"input_ids": each} for each in ids], **OPTIONS
    )
    assert found.tokens == 2 * 15  # one batch in five judges
    with pytest.raises(DataError, match="held back"):
        neutralise(model, byte_tokenizer(), FEW, [{"input_ids": ids[0]}], **OPTIONS)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_whatever_ends_it_the_model_is_as_it_was(
    after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")
    before, calls, find = values(model), [], weight_changes.least_change

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return find(*arguments)

    monkeypatch.setattr(weight_changes, "least_change", failing)
    with pytest.raises(KeyboardInterrupt):
        neutralise(model, byte_tokenizer(), FEW, **OPTIONS)
    assert same(values(model), before)


def test_a_failure_while_judging_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama")
    before, calls, judge = values(model), [], neutralising.cost_of

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise ModelOutputError("no number")
        return judge(*arguments)

    monkeypatch.setattr(neutralising, "cost_of", failing)
    with pytest.raises(ModelOutputError):
        neutralise(model, byte_tokenizer(), FEW, **OPTIONS)
    assert same(values(model), before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strength": 0}, "strength=0 is outside"),
        ({"strength": 3.5}, "strength=3.5 is outside"),
        ({"max_divergence": 0}, "max_divergence=0 is not above 0"),
        ({"calibration_samples": 0}, "calibration_samples"),
        ({"layers": [99]}, "names 99"),
        ({"layers": []}, "names no layer"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_changes(
    options: dict[str, Any], said: str
) -> None:
    model = tiny_model("llama")
    before = values(model)
    with pytest.raises(ArgumentError, match=said):
        neutralise(model, byte_tokenizer(), FEW, **OPTIONS | options)
    assert same(values(model), before)


def test_models_without_a_dense_mlp_and_unknown_contrasts_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="No layer"):
        neutralise(tiny_model("mixtral"), byte_tokenizer(), FEW, **OPTIONS)
    with pytest.raises(UnknownNameError, match="gender-occupation"):
        neutralise(tiny_model("llama"), byte_tokenizer(), "gender-ocupation", **OPTIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in bfloat16 with its tokenizer, and a contrast in a file."""
    folder = tmp_path_factory.mktemp("model") / "whole"
    tiny_model("llama").to(torch.bfloat16).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    contrast = {
        name: getattr(FEW, name) for name in ("name", "templates", "words", "continuations")
    }
    (folder.parent / "few.json").write_text(json.dumps(contrast), encoding="utf-8")
    return folder


def test_a_folder_is_written_that_holds_the_change_and_nothing_else_new(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    contrast = [str(folder.parent / "few.json")]
    result = neutralise_checkpoint(folder, out, contrast=contrast, **OPTIONS)
    assert {each.name for each in out.iterdir()} == {
        *(each.name for each in folder.iterdir()),
        ".optipfair.json",
        "README.md",
        "neutralisation.json",
    }
    assert (out / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    before, after = (load_model(each).state_dict() for each in (folder, out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = {each.layer for each in result.neutralisation.layers}
    assert changed == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in layers}
    assert after["model.layers.0.mlp.down_proj.weight"].dtype == torch.bfloat16
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "## Neutralised" in card and "few" in card
    record = json.loads((out / "neutralisation.json").read_text(encoding="utf-8"))
    assert record["strength"] == result.neutralisation.strength


def test_a_folder_without_tokenizer_or_a_full_output_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    tiny_model("llama").save_pretrained(bare)
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        neutralise_checkpoint(bare, tmp_path / "out")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(Exception, match="taken"):
        neutralise_checkpoint(folder, taken)
    assert [each.name for each in taken.iterdir()] == ["notes.txt"]
    assert not (tmp_path / "out").exists()
