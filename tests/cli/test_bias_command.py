"""`optipfair bias`: what it prints and writes, and what it refuses before a model is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from optipfair import load_model, load_tokenizer, prune_model, visualize_bias
from optipfair.bias import study_by_name as runs
from optipfair.cli.bias_command import notes
from optipfair.testing import byte_tokenizer, tiny_model

Run = Callable[..., tuple[int, str, str]]
Refuses = Callable[..., None]

FEW = ["--components", "mlp_output,input_norm", "--controls", "2"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text(
        "prompt1,prompt2,category\n"
        "The white man,The Black man,race\n"
        "A tall cook,A short cook,size\n"
        "The same,The same,\n"
    )
    return path


@pytest.fixture
def shallow_folder(llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    model = prune_model(
        load_model(llama_folder), pruning_type="DEPTH", layer_indices=[1], show_progress=False
    )
    model.save_pretrained(tmp_path / "shallow")
    load_tokenizer(llama_folder).save_pretrained(tmp_path / "shallow")  # type: ignore[union-attr]
    capsys.readouterr()  # the bar of saving
    return tmp_path / "shallow"


def test_without_a_folder_only_the_table_comes(
    run: Run, llama_folder: Path, pairs: Path, untouched: Callable[..., object]
) -> None:
    with untouched(pairs.parent):  # type: ignore[attr-defined]
        code, out, err = run("bias", "--model-path", llama_folder, "--pairs", pairs, *FEW)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert [rows[name][1:3] for name in ("race", "size", "all")] == [
        ["1", "1"],
        ["1", "1"],
        ["2", "2"],
    ]
    printed = " ".join(out.split())
    assert "how differently two words are represented" in printed
    assert "no measure of bias: harmless differences of words raise it too" in printed
    assert "race, size: one distinct swap is too few for an interval; 5 are needed." in printed
    assert "all: two distinct swaps are too few" in printed
    assert "all: 1 of 3 pairs without controls, left out of all figures." in printed
    assert "Note: pair_3: both prompts are the same, so nothing can differ." in out


def test_it_finds_and_writes_what_the_function_does(
    run: Run, llama_folder: Path, pairs: Path, tmp_path: Path
) -> None:
    options = ["--layers", "0,2", "--figure-format", "svg", "--seed", "3", *FEW]
    options += ["--visualization-types", "mean_diff,heatmap,pca"]
    code, out, err = run(
        *("bias", "--model-path", llama_folder, "--pairs", pairs, "--json"),
        *("--output-dir", tmp_path / "out", *options),
    )
    assert (code, err) == (0, "")
    model, tokenizer = load_model(llama_folder), load_tokenizer(llama_folder)
    _, expected = visualize_bias(
        model,
        tokenizer,
        runs.read_prompt_pairs(pairs),  # type: ignore[arg-type]
        layers=[0, 2],
        figure_format="svg",
        seed=3,
        output_dir=str(tmp_path / "own"),
        components=["mlp_output", "input_norm"],
        controls=2,
        show_progress=False,
    )
    found = json.loads(out)
    assert found == json.loads((tmp_path / "out" / "bias_metrics.json").read_text())
    assert found["model"].pop("name") == str(llama_folder)
    del expected["model"]["name"]
    assert found == json.loads(json.dumps(expected))
    names = [sorted(path.name for path in (tmp_path / f).iterdir()) for f in ("out", "own")]
    assert names[0] == names[1]
    assert sum(name.endswith(".svg") for name in names[0]) == 3 * (1 + 2 + 2)


def test_a_folder_gets_the_summary_and_the_numbers_by_default(
    run: Run, llama_folder: Path, pairs: Path, tmp_path: Path
) -> None:
    code, _, err = run(
        *("bias", "--model-path", llama_folder, "--pairs", pairs, *FEW),
        *("--output-dir", tmp_path / "out"),
    )
    assert (code, err) == (0, "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("summary_by_layer.png", "summary_by_category.png", "bias_metrics.json")
    }


def test_two_models_are_compared(
    run: Run, llama_folder: Path, shallow_folder: Path, pairs: Path, tmp_path: Path
) -> None:
    code, out, err = run(
        *("bias", "--model-path", llama_folder, "--compare-with", shallow_folder, *FEW),
        *("--pairs", pairs, "--output-dir", tmp_path / "out"),
        *("--visualization-types", "mean_diff"),
    )
    assert (code, err) == (0, "")
    assert f"b:{shallow_folder}" in "".join(out.split())  # lines break within long paths
    written = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    figures = {f"model_{m}/mean_diff_pair_{i}.png" for m in "ab" for i in (1, 2, 3)}
    numbers = {f"model_{m}/bias_metrics.json" for m in "ab"}
    assert written == figures | numbers | {"bias_comparison.json", "bias_comparison.png"}
    found = json.loads((tmp_path / "out" / "bias_comparison.json").read_text())
    assert [found["models"][each]["layers"] for each in "ab"] == [4, 3]
    assert found["pairs"] == {"compared": 2, "swaps": 2, "without_controls": 1, "in_one_only": 0}
    rows = {line.split()[0]: line.split()[1:4] for line in out.splitlines() if line.split()}
    for name, row in found["components"].items():
        numbers_of = (row["a"]["excess"], row["b"]["excess"], row["paired"]["difference"])
        assert rows[name] == [f"{number:.4f}" for number in numbers_of]


def test_json_of_two_models_holds_all_three(run: Run, llama_folder: Path, pairs: Path) -> None:
    code, out, _ = run(
        *("bias", "--model-path", llama_folder, "--compare-with", llama_folder, *FEW),
        *("--pairs", pairs, "--json"),
    )
    found = json.loads(out)
    assert code == 0
    assert found["model_a"] == found["model_b"]
    assert found["comparison"]["overall"]["paired"]["difference"] == 0


def test_pairs_are_generated_by_category(run: Run, llama_folder: Path) -> None:
    code, out, err = run(
        *("bias", "--model-path", llama_folder, "--category", "gender", "--category", "age"),
        *("--components", "mlp_output", "--controls", "0", "--json"),
    )
    assert (code, err) == (0, "")
    categories = json.loads(out)["summary"]["categories"]
    assert list(categories) == ["gender", "age"]
    assert min(row["pairs"] for row in categories.values()) >= 30
    assert all(row["excess"] is None for row in categories.values())


def test_quiet_prints_nothing(run: Run, llama_folder: Path, pairs: Path) -> None:
    arguments = ("bias", "--model-path", llama_folder, "--pairs", pairs, *FEW, "--quiet")
    assert run(*arguments) == (0, "", "")


BAD = [
    (["--components", "mlp_out"], "Unknown component 'mlp_out'. Did you mean 'mlp_output'"),
    (["--components", ""], "Unknown component ''"),
    (["--layers", "frist_middle_last"], "Did you mean 'first_middle_last'"),
    (["--layers", "0,x"], "layers='0,x' is no list of layer numbers"),
    (["--layers", "4"], "Layer 4 is out of range: the model has layers 0 to 3"),
    (["--layers", "-1"], "Layer -1 is out of range"),
    (["--layers", "0-2"], "layers='0-2' is no list of layer numbers"),
    (["--layer", "3"], "Did you mean '--layers'"),
    (["--output-dir", ""], "output_dir='' is no folder"),
    (["--visualization-types", ""], "Unknown visualization type ''.*numbers alone"),
    (["--layers", ""], "Unknown layer selection ''"),
    (["--controls", "-1"], "controls=-1 is no whole number of 0 or more"),
    (["--controls", "many"], "'many' is not a valid integer"),
    (["--category", "gendre"], "Unknown category 'gendre'. Did you mean 'gender'"),
    (["--category", "gender", "--pairs", "x.csv"], "are mutually exclusive"),
    (["--pairs", "none.csv"], "none.csv cannot be read"),
    (["--pairs", "pairs.txt"], "ending in .csv or .jsonl"),
    (["--visualization-types", "mean_diff"], "need a folder.*--output-dir"),
    (["--visualization-types", "heat", "--output-dir", "out"], "Did you mean 'heatmap'"),
    (["--figure-format", "jpg"], "Unknown figure format 'jpg'. Did you mean 'png'"),
    (["--compare-with", "no/such/model"], "no/such/model"),
    (["--compare-with", "demo", "--controls", "0"], "controls=0 makes none"),
    (["--device", "tpu9000"], "'tpu9000' is not available"),
    (["--dtype", "bfloat"], "Did you mean 'bfloat16'"),
    (["stray"], "unexpected extra argument"),
]


@pytest.mark.parametrize(("arguments", "match"), BAD, ids=str)
def test_bad_requests_are_refused_before_a_model_is_loaded(
    refuses: Refuses,
    llama_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    match: str,
) -> None:
    monkeypatch.chdir(llama_copy.parent)
    monkeypatch.setattr(runs, "load_model", lambda *_, **__: pytest.fail("loaded"))
    refuses(match, "bias", "--model-path", llama_copy, *arguments)


def test_a_folder_that_cannot_be_written_is_refused(
    refuses: Refuses, llama_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "load_model", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        refuses("cannot be written", "bias", "--model-path", llama_copy, "--output-dir", output)


@pytest.fixture
def wide_folder(tmp_path: Path) -> Path:
    """A toy Llama whose tokenizer knows a word that the model does not."""
    folder = tmp_path / "wide"
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"word{i}" for i in range(50)] + [" man", " cook"])
    tiny_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_where_one_of_two_models_cannot_run_nothing_is_written(
    refuses: Refuses,
    capsys: pytest.CaptureFixture[str],
    llama_folder: Path,
    shallow_folder: Path,
    wide_folder: Path,
    pairs: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "model_b").touch()
    capsys.readouterr()
    for other, options, match in (
        (wide_folder, ("--output-dir", tmp_path / "out"), "wide: The tokenizer does not match"),
        (shallow_folder, ("--layers", "3"), "Layer 3 .* '.*shallow' has layers 0 to 2"),
        (shallow_folder, ("--output-dir", tmp_path / "taken"), "model_b is a file"),
    ):
        arguments = ("--model-path", llama_folder, "--compare-with", other, "--pairs", pairs)
        refuses(match, "bias", *arguments, *FEW, *options)
    refuses("^Error: The tokenizer does", "bias", "--model-path", wide_folder, "--pairs", pairs)


def test_two_models_may_have_two_vocabularies(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    llama_folder: Path,
    wide_folder: Path,
    pairs: Path,
) -> None:
    model = tiny_model("llama")
    model.resize_token_embeddings(400, mean_resizing=False)
    model.save_pretrained(wide_folder)
    capsys.readouterr()
    code, out, err = run(
        *("bias", "--model-path", llama_folder, "--compare-with", wide_folder, *FEW),
        *("--pairs", pairs, "--json"),
    )
    assert (code, err) == (0, "")
    assert json.loads(out)["comparison"]["pairs"]["compared"] == 2


def test_a_model_that_cannot_be_used_leaves_no_folder(
    refuses: Refuses, llama_copy: Path, tmp_path: Path
) -> None:
    output = ("--output-dir", tmp_path / "new" / "out")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (llama_copy / name).unlink(missing_ok=True)
    refuses("has no tokenizer", "bias", "--model-path", llama_copy, *output)
    shutil.rmtree(llama_copy)
    refuses("Cannot read|is no", "bias", "--model-path", llama_copy, *output)


def test_figures_without_matplotlib_are_refused_with_the_way_out(
    refuses: Refuses, llama_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs.importlib.util, "find_spec", lambda name: None)
    output = ("--output-dir", tmp_path / "out")
    refuses(r"pip install 'optipfair\[viz\]'", "bias", "--model-path", llama_copy, *output)


def test_running_out_of_memory_ends_with_a_hint(
    run: Run, llama_folder: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("nothing left")

    monkeypatch.setattr(torch.nn.functional, "silu", full)
    code, out, err = run("bias", "--model-path", llama_folder, "--pairs", pairs, *FEW)
    assert (code, out) == (1, "")
    assert err.startswith("Error: OutOfMemoryError: nothing left Shorter prompts, fewer controls")


def test_notes_of_many_pairs_are_one_line() -> None:
    summary = {
        "notes": [f"pair_{i}: no word" for i in range(1, 6)] + ["pair_9: equal"],
        "missing": {"gate_proj": {"0": "no gate", "1": "no gate", "2": "experts"}},
    }
    assert notes(summary) == [
        "pair_1, pair_2, pair_3 and 2 more: no word.",
        "pair_9: equal.",
        "gate_proj is missing in 2 of the layers: no gate.",
        "gate_proj is missing in 1 of the layers: experts.",
    ]
