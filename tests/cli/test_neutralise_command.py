"""`neutralise`, `prune --neutralise`, `bias --attribute`: what they print and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from optipfair import load_model
from optipfair.testing import byte_tokenizer, tiny_model

Run = Callable[..., tuple[int, str, str]]
FEW = {
    "name": "few",
    "templates": ["The {word} said", "I met the {word} when"],
    "words": [["nurse", "maid"], ["pilot", "miner"]],
    "continuations": [[" she"], [" he"]],
}
SHORT = ("--calibration-samples", "4", "--max-divergence", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, one without a tokenizer, and a contrast."""
    folder = tmp_path_factory.mktemp("models")
    tiny_model("llama").save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    tiny_model("llama").save_pretrained(folder / "bare")
    (folder / "few.json").write_text(json.dumps(FEW), encoding="utf-8")
    return folder


def test_a_contrast_is_taken_out_and_the_table_says_so(
    run_as_given: Run, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    contrast = str(folder / "few.json")
    code, printed, _ = run_as_given(
        "neutralise", "--model-path", folder / "model", "--output-path", out,
        "--contrast", contrast, *SHORT,
    )  # fmt: skip
    assert code == 0
    assert "Neutralised" in printed and "few" in printed and f"Written to {out}" in printed
    code, printed, _ = run_as_given(
        "neutralise", "--model-path", folder / "model", "--output-path", tmp_path / "again",
        "--contrast", contrast, "--json", *SHORT,
    )  # fmt: skip
    found = json.loads(printed)["neutralisation"]
    assert found["contrasts"][0]["spread_after"] < found["contrasts"][0]["spread_before"]
    one, other = (load_model(each).state_dict() for each in (out, tmp_path / "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--contrast", "gender-ocupation"), "Did you mean 'gender-occupation'"),
        (("--contrast", "nothing.json"), "nothing.json cannot be read"),
        (("--strength", "4"), "strength=4.0 is outside"),
        (("--max-divergence", "0"), "max_divergence=0.0 is not above 0"),
        (("--calibration-samples", "0"), "calibration_samples"),
        (("--layers", "99"), "names 99"),
        (("--device", "cuda:99"), "is not available"),
        (("--calibration", "nothing.txt"), "nothing.txt"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    run_as_given: Run, folder: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    own = () if "--contrast" in arguments else ("--contrast", str(folder / "few.json"))
    code, _, told = run_as_given(
        "neutralise", "--model-path", folder / "model", "--output-path", tmp_path / "out", *own,
        *arguments,
    )  # fmt: skip
    assert code == 2 and said in told and "Traceback" not in told
    assert not (tmp_path / "out").exists() and not any(tmp_path.iterdir())


def test_models_that_cannot_be_asked_are_refused(
    run_as_given: Run, folder: Path, tmp_path: Path
) -> None:
    out = ("--output-path", tmp_path / "out")
    for model, said in ((folder / "bare", "has no tokenizer"), (tmp_path / "none", "none")):
        code, _, told = run_as_given("neutralise", "--model-path", model, *out)
        assert code == 2 and said in told
    code, _, told = run_as_given(
        "neutralise", "--model-path", folder / "model", "--output-path", folder / "model"
    )
    assert code == 2 and "model" in told
    assert (folder / "model" / "model.safetensors").is_file()
    assert not any(tmp_path.iterdir())


def test_pruning_and_taking_out_are_one_command_and_two_give_the_same(
    run_as_given: Run, folder: Path, tmp_path: Path
) -> None:
    contrast = str(folder / "few.json")
    prune = ("prune", "--model-path", folder / "model", "--calibration", "none")
    code, printed, told = run_as_given(
        *prune, "--output-path", tmp_path / "one", "--neutralise", contrast
    )
    assert code == 0, told
    assert "held-back words" in printed and f"Written to {tmp_path / 'one'}" in printed
    assert run_as_given(*prune, "--output-path", tmp_path / "pruned")[0] == 0
    assert run_as_given(
        "neutralise", "--model-path", tmp_path / "pruned", "--output-path", tmp_path / "two",
        "--contrast", contrast,
    )[0] == 0  # fmt: skip
    one, two = (load_model(tmp_path / each).state_dict() for each in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert "neutralise" in (tmp_path / "one" / "recipe.yaml").read_text(encoding="utf-8")
    assert {each.name for each in tmp_path.iterdir()} == {"one", "pruned", "two"}


def test_a_contrast_that_cannot_be_read_is_refused_before_pruning(
    run_as_given: Run, folder: Path, tmp_path: Path
) -> None:
    prune = ("prune", "--calibration", "none", "--output-path", tmp_path / "out")
    code, _, told = run_as_given(*prune, "--model-path", folder / "model", "--neutralise", "x.json")
    assert code == 2 and "x.json cannot be read" in told
    code, _, told = run_as_given(
        *prune, "--model-path", folder / "bare", "--neutralise", "race-blame"
    )
    assert code == 2 and "has no tokenizer" in told
    assert not any(tmp_path.iterdir())


def test_attribution_prints_predicted_beside_patched_and_writes_what_it_found(
    run_as_given: Run, folder: Path, tmp_path: Path
) -> None:
    contrast, out = str(folder / "few.json"), tmp_path / "found"
    code, printed, told = run_as_given(
        "bias", "--model-path", folder / "model", "--attribute", contrast, "--output-dir", out
    )
    assert code == 0, told
    assert "predicted" in printed and "patched" in printed and "no interval" in printed
    numbers = json.loads((out / "attribution.json").read_text(encoding="utf-8"))
    ((found,),) = (each["contrasts"] for each in numbers["models"])
    assert found["contrast"] == "few" and found["checks"]
    assert (out / "attribution_few.png").is_file()


def test_attribution_of_two_models_shows_both(run_as_given: Run, folder: Path) -> None:
    code, printed, _ = run_as_given(
        "bias", "--model-path", folder / "model", "--compare-with", folder / "bare",
        "--attribute", str(folder / "few.json"),
    )  # fmt: skip
    assert code == 2  # the second has no tokenizer
    code, printed, _ = run_as_given(
        "bias", "--model-path", folder / "model", "--compare-with", folder / "model",
        "--attribute", str(folder / "few.json"), "--json",
    )  # fmt: skip
    assert code == 0 and len(json.loads(printed)["models"]) == 2


def test_attribution_and_pairs_are_two_questions(run_as_given: Run, folder: Path) -> None:
    code, _, told = run_as_given(
        "bias", "--model-path", folder / "model", "--attribute", "race-blame", "--category", "race"
    )
    assert code == 2 and "two runs" in told
