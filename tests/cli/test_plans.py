"""Budgets, dry runs and plans on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from transformers import AutoConfig

from optipfair import PruningPlan, plan_pruning
from optipfair.files.safetensors_reader import SINGLE_FILE, open_checkpoint
from optipfair.testing import tiny_model

Run = Callable[..., tuple[int, str, str]]
Refuses = Callable[..., None]
Untouched = Callable[[Path], AbstractContextManager[None]]

DEPTH, BOTH = ["--pruning-type", "DEPTH"], ["--pruning-type", "BOTH"]


# The toy Llama has 8720 + 4 * (800 + 48 * 40) = 19600 parameters (tests/pruning/test_solving.py).
@pytest.mark.parametrize(
    ("arguments", "width", "layers"),
    [
        (["--target-params", "14992"], 16, 4),  # 8720 + 4 * (800 + 48 * 16)
        (["--target-params", "14.991K"], 15, 4),
        (["--target-params", "16880", *DEPTH], 40, 3),
        (["--target-params", "14K", *BOTH], 20, 3),
        (["--target-params", "14K", *BOTH, "--num-layers-to-remove", "2"], 38, 2),
        (["--target-params", "14K", "--method", "VOW"], 10, 4),
    ],
    ids=str,
)
def test_a_budget_of_parameters_is_met(
    run: Run, llama_folder: Path, tmp_path: Path, arguments: list[str], width: int, layers: int
) -> None:
    output = tmp_path / "out"
    code, _, err = run("prune", "--model-path", llama_folder, "--output-path", output, *arguments)
    assert (code, err) == (0, "")
    config = AutoConfig.from_pretrained(output)
    assert (config.intermediate_size, config.num_hidden_layers) == (width, layers)


@pytest.mark.parametrize("arguments", [[], DEPTH, BOTH], ids=str)
def test_a_budget_of_bytes_is_met(
    run: Run, llama_folder: Path, tmp_path: Path, arguments: list[str]
) -> None:
    paths = ["--model-path", llama_folder, "--output-path", tmp_path / "out"]
    assert run("prune", *paths, "--target-size", "64KiB", *arguments)[0] == 0
    assert (tmp_path / "out" / SINGLE_FILE).stat().st_size <= 64 * 1024


def test_a_budget_that_is_met_is_a_warning(run: Run, llama_folder: Path, tmp_path: Path) -> None:
    paths = ["--model-path", llama_folder, "--output-path", tmp_path / "out"]
    code, out, err = run("prune", *paths, "--target-size", "1GB")
    assert code == 0
    assert "Nothing was removed" in out
    assert re.fullmatch(r"Warning: Nothing was removed.*\n", err)


WRONG = [
    (["--target-params", "lots"], r"target_params='lots' is no amount.*1\.0B"),
    (["--target-params", "0"], "target_params='0' is no amount"),
    (["--target-params", "-5"], "target_params='-5' is no amount"),
    (["--target-params", ""], "target_params='' is no amount"),
    (["--target-size", "2 apples"], "target_size='2 apples' is no amount.*2GB"),
    (["--max-shard-size", "0"], "max_shard_size='0' is no amount"),
    (["--target-params", "15K", "--target-size", "60KB"], "are mutually exclusive"),
    (["--target-params", "15K", "--pruning-percentage", "10"], "does not go with a budget"),
    (["--target-size", "60KB", "--expansion-rate", "140"], "does not go with a budget"),
    (["--target-size", "60KB", *DEPTH, "--layer-indices", "1"], "does not go with a budget"),
    (["--target-params", "100"], "cannot be reached.* 12,112 parameters would be left"),
    (["--target-params", "100", *DEPTH], "cannot be reached.* 11,440 parameters would be left"),
    (["--target-params", "100", *BOTH], "cannot be reached.* 9,568 parameters would be left"),
    (["--target-size", "100"], "cannot be reached.*bytes of weights would be left"),
    ([*BOTH, "--pruning-percentage", "20"], "how many neurons go. Say how many layers .*--num-lay"),
    ([*BOTH, "--num-layers-to-remove", "1"], "how much to prune"),
    (["--verify", "quick"], "Unknown verify 'quick'"),
]


@pytest.mark.parametrize(("arguments", "match"), WRONG, ids=str)
def test_requests_that_cannot_be_are_refused(
    refuses: Refuses, llama_copy: Path, arguments: list[str], match: str
) -> None:
    output = llama_copy.parent / "out"
    refuses(match, "prune", "--model-path", llama_copy, "--output-path", output, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pruning-percentage", "50"],
        ["--target-size", "60KB", "--max-shard-size", "10KB"],
        [*DEPTH, "--layer-indices", "0,2"],
        [*BOTH, "--target-params", "12K", "--dtype", "float16"],
    ],
    ids=str,
)
def test_a_dry_run_writes_nothing_and_says_the_exact_size(
    run: Run, llama_copy: Path, untouched: Untouched, arguments: list[str]
) -> None:
    model = ["prune", "--model-path", llama_copy, *arguments]
    with untouched(llama_copy.parent):
        code, out, err = run(*model, "--dry-run")
        as_json = json.loads(run(*model, "--dry-run", "--json")[1])
        assert run(*model, "--dry-run", "--quiet") == (0, "", "")
    assert (code, err) == (0, "")
    assert "Planned" in out
    assert as_json["output_path"] is as_json["plan"]["file"] is None
    output = llama_copy.parent / "out"
    assert run(*model, "--output-path", output)[0] == 0
    written = sum(file.stat().st_size for file in output.glob("*.safetensors"))
    assert f"The weight files would take {written:,} bytes." in out
    assert as_json["statistics"]["pruned_file_bytes"] == written
    assert as_json["plan"]["digest"] == PruningPlan.load(output / "pruning_plan.json").digest


def test_a_saved_plan_is_carried_out_as_it_was_decided(run: Run, llama_copy: Path) -> None:
    there = llama_copy.parent
    model = ["prune", "--model-path", llama_copy]
    request = [*BOTH, "--expansion-rate", "140", "--layer-indices", "1", "--method", "VOW"]
    code, out, err = run(*model, *request, "--save-plan", there / "plan.json")
    assert (code, err) == (0, "")
    assert "Planned" in out
    assert sorted(path.name for path in there.iterdir()) == ["model", "plan.json"]
    assert run(*model, "--plan", there / "plan.json", "--output-path", there / "planned")[0] == 0
    assert run(*model, *request, "--output-path", there / "direct")[0] == 0
    for name in (SINGLE_FILE, "config.json", "pruning_plan.json"):
        assert (there / "planned" / name).read_bytes() == (there / "direct" / name).read_bytes()
    assert len({tensor.shape for tensor in open_checkpoint(there / "planned").tensors.values()}) > 1


def test_a_plan_that_does_not_fit_or_is_none_is_refused(refuses: Refuses, llama_copy: Path) -> None:
    there = llama_copy.parent
    plan_pruning(tiny_model("gpt2"), pruning_percentage=20).save(there / "other.json")
    (there / "broken.json").write_text('{"version": 1}')
    (there / "text.json").write_text("not json")
    for name, match in {
        "other.json": r"The plan is for a 'gpt2' of 4 layers; this is a 'llama' of 4\.",
        "broken.json": r"broken\.json: This pruning plan cannot be read.* Give the file",
        "text.json": r"text\.json: This pruning plan cannot be read",
        "missing.json": r"missing\.json cannot be read: No such file",
        "model": "model cannot be read: it is no regular file",
    }.items():
        paths = ["--model-path", llama_copy, "--output-path", there / "out"]
        refuses(match, "prune", *paths, "--plan", there / name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pruning-percentage", "10"],
        ["--expansion-rate", "140"],
        ["--expansion-divisor", "32"],
        ["--num-layers-to-remove", "1"],
        ["--layer-indices", "1"],
        ["--target-params", "1B"],
        ["--target-size", "1GB"],
        DEPTH,
        ["--method", "L2"],
        ["--layer-selection-method", "first"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_plan_beside_another_target_is_refused(
    refuses: Refuses, llama_copy: Path, arguments: list[str]
) -> None:
    plan = llama_copy.parent / "plan.json"
    plan_pruning(tiny_model("llama"), pruning_percentage=20).save(plan)
    paths = ["--model-path", llama_copy, "--output-path", llama_copy.parent / "out"]
    refuses("does not go with a plan", "prune", *paths, "--plan", plan, *arguments)


@pytest.mark.parametrize(
    "options",
    [
        ("--pruning-type", "DEPTH", "--layer-indices", 1, "--no-compensate"),
        ("--method", "VOW"),
        ("--plan", "plan.json"),
    ],
    ids=lambda options: options[1],
)
def test_calibration_is_refused_by_the_name_it_was_given(
    llama_copy: Path, tmp_path: Path, refuses: Refuses, options: tuple[object, ...]
) -> None:
    text = tmp_path / "x.txt"
    text.write_text("words")
    refuses(
        f"^(?!.*dataloader).*calibration='{re.escape(str(text))}' does not go with",
        *("prune", "--model-path", llama_copy, "--output-path", tmp_path / "out"),
        *("--calibration", text, *options),
    )


@pytest.mark.parametrize("options", [("--method", "AUTO"), ("--preset", "quality")], ids=str)
def test_what_needs_calibration_names_the_option(
    llama_copy: Path, tmp_path: Path, refuses: Refuses, options: tuple[object, ...]
) -> None:
    command = ("prune", "--model-path", llama_copy, "--output-path", tmp_path / "out")
    refuses("needs calibration data.*--calibration", *command, *options)


def test_removed_layers_are_made_up_for(llama_folder: Path, tmp_path: Path, run: Run) -> None:
    text, output = tmp_path / "x.txt", tmp_path / "out"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 200)
    code, out, _ = run(
        *("prune", "--model-path", llama_folder, "--output-path", output, "--json"),
        *("--pruning-type", "DEPTH", "--num-layers-to-remove", 1, "--calibration", text),
        *("--layer-selection-method", "angular", "--compensate", "--calibration-length", 32),
    )
    assert code == 0
    (block,) = json.loads(out)["plan"]["request"]["replaced_blocks"]
    assert block["error"] < block["removed_error"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--pruning-percentage", 50), "by least squares, and were then trained."),
        (("--pruning-percentage", 50, "--no-reconstruct"), "for lost ones, by least squares."),
        (("--pruning-type", "ATTENTION", "--pruning-percentage", 50), "Kept heads make up for"),
        (("--pruning-type", "DEPTH", "--num-layers-to-remove", 1), "makes up for it, by least"),
    ],
    ids=str,
)
def test_what_makes_up_for_the_rest_is_said_where_it_does(
    llama_folder: Path, tmp_path: Path, run: Run, options: tuple[object, ...], sentence: str
) -> None:
    text, plan = tmp_path / "x.txt", tmp_path / "plan.json"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 200)
    command = ("prune", "--model-path", llama_folder)
    draw = ("--calibration", text, "--calibration-length", 32, "--compensate")
    draw += () if "DEPTH" in options else ("--method", "AUTO")
    assert sentence in run(*command, *options, *draw, "--save-plan", plan)[1]
    plan.write_text(plan.read_text().replace('"compensate": true', '"compensate": false'))
    code, out, _ = run(*command, "--plan", plan, "--dry-run")
    assert code == 0
    assert "least squares" not in out


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("MLP_GLU", {"neuron_selection_method": "AUTO", "compensate": True}),
        ("ATTENTION", {"neuron_selection_method": "AUTO", "compensate": True}),
        ("DEPTH", {"layer_selection_method": "auto", "compensate": True}),
        ("BOTH", {"layer_selection_method": "auto", "compensate": True}),
    ],
)
def test_the_preset_chooses_for_every_kind_of_pruning(
    llama_folder: Path, tmp_path: Path, run: Run, kind: str, expected: dict[str, object]
) -> None:
    text = tmp_path / "x.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 200)
    amount = ("--num-layers-to-remove", 1) if kind in ("DEPTH", "BOTH") else ()
    share = () if kind == "DEPTH" else ("--pruning-percentage", 50)
    code, out, _ = run(
        *("prune", "--model-path", llama_folder, "--output-path", tmp_path / "out", "--json"),
        *("--pruning-type", kind, *amount, *share, "--calibration", text, "--preset", "quality"),
        *("--calibration-length", 32, "--calibration-samples", 8),
    )
    assert code == 0
    result = json.loads(out)
    assert result["plan"]["request"].items() >= expected.items()
    assert result["cost"]["perplexity_ratio"] > 0


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("DEPTH", ["--layer-selection-method", "first"]),
        ("DEPTH", ["--layer-selection-method", "last"]),  # the default, but given
        ("DEPTH", ["--no-compensate"]),
        ("BOTH", ["--layer-selection-method", "last"]),
        ("BOTH", ["--method", "MAW"]),
        ("MLP_GLU", ["--method", "MAW"]),
        ("ATTENTION", ["--method", "OBS"]),
    ],
    ids=str,
)
def test_a_preset_leaves_nothing_to_choose(
    llama_copy: Path, tmp_path: Path, refuses: Refuses, kind: str, option: list[str]
) -> None:
    command = ("prune", "--model-path", llama_copy, "--output-path", tmp_path / "out")
    preset = ("--preset", "quality", "--pruning-type", kind, "--calibration", "x.txt")
    refuses("and the preset 'quality', .* are mutually exclusive. Give", *command, *preset, *option)


def test_what_a_preset_sets_may_be_given_too(
    llama_copy: Path, tmp_path: Path, refuses: Refuses
) -> None:
    command = ("prune", "--model-path", llama_copy, "--output-path", tmp_path / "out")
    same = ("--preset", "quality", "--method", "AUTO", "--calibration", tmp_path / "absent.txt")
    refuses("There is no calibration file", *command, *same)


def test_a_preset_does_not_go_with_a_plan(
    llama_copy: Path, tmp_path: Path, refuses: Refuses
) -> None:
    command = ("prune", "--model-path", llama_copy, "--output-path", tmp_path / "out")
    refuses("does not go with a plan", *command, "--preset", "quality", "--plan", "plan.json")


@pytest.mark.parametrize("size", [("--calibration-samples", 0), ("--calibration-length", 64)])
@pytest.mark.parametrize("other", [(), ("--plan", "plan.json")])
def test_how_text_is_drawn_needs_a_text(
    llama_copy: Path,
    tmp_path: Path,
    refuses: Refuses,
    size: tuple[object, ...],
    other: tuple[str, ...],
) -> None:
    command = ("prune", "--model-path", llama_copy, "--output-path", tmp_path / "out")
    name = str(size[0])[2:].replace("-", "_")
    refuses(f"{name}={size[1]} says how .* there is none. Give .*--calib", *command, *size, *other)


@pytest.mark.parametrize("name", ["x" * 250, "file/plan.json", "/proc/plan.json"])
def test_a_plan_file_that_cannot_be_written_is_refused_before_the_work(
    llama_copy: Path, tmp_path: Path, refuses: Refuses, name: str
) -> None:
    (tmp_path / "file").touch()
    refuses(
        "The plan file .* cannot be written: .*Give",
        *("prune", "--model-path", llama_copy, "--save-plan", tmp_path / name),
    )


def test_a_text_too_short_to_measure_on_is_mentioned(
    llama_folder: Path, tmp_path: Path, run: Run
) -> None:
    text = tmp_path / "x.txt"
    text.write_text("Some words. " * 20)  # 240 tokens, less than ten sequences
    command = ("prune", "--model-path", llama_folder, "--calibration", text, "--calibration-length")
    for number, (length, found) in enumerate(((32, "Not measured: the cal"), (16, "Measured: "))):
        code, out, _ = run(*command, length, "--output-path", tmp_path / str(number))
        assert code == 0
        assert f"\n{found}" in out
        assert out.count("easured: ") == 1
    code, out, _ = run(*command, 32, "--no-evaluate", "--output-path", tmp_path / "out")
    assert code == 0
    assert "easured: " not in out
