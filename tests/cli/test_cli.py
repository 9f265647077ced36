"""The command line in this process: what it does, and what it prints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from optipfair import __version__
from optipfair.devices import available_devices
from optipfair.files.safetensors_reader import open_checkpoint
from optipfair.testing import tiny_model

Run = Callable[..., tuple[int, str, str]]
Refuses = Callable[..., None]

BOTH = ["--pruning-type", "BOTH"]


def test_a_model_is_overwritten_only_on_request(
    refuses: Refuses, run: Run, llama_copy: Path
) -> None:
    output = llama_copy.parent / "out"
    command = ["prune", "--model-path", llama_copy, "--output-path", output]
    assert run(*command)[0] == 0
    refuses("holds a model.*--overwrite", *command)
    (output / "notes").touch()
    refuses("no run has written.*notes", *command, "--overwrite")
    (output / "notes").unlink()
    assert run(*command, "--overwrite", "--pruning-percentage", "50")[0] == 0
    assert AutoConfig.from_pretrained(output).intermediate_size == 20
    assert sorted(path.name for path in output.parent.iterdir()) == ["model", "out"]


def test_pruning_prints_before_and_after_and_where_it_lies(
    run: Run, llama_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    code, out, err = run(
        "prune", "--model-path", llama_folder, "--output-path", output, "--pruning-percentage", "50"
    )
    assert (code, err) == (0, "")
    after = open_checkpoint(output)
    for fact in ("before", "after", f"{sum(t.numel for t in after.tensors.values()):,}"):
        assert fact in out
    assert "Verified: headers, copied bytes" in out
    assert str(output) in out
    assert "tokenizer" not in out


def test_full_verification_says_how_far_the_logits_are(
    run: Run, llama_folder: Path, tmp_path: Path
) -> None:
    paths = ["--model-path", llama_folder, "--output-path", tmp_path / "out"]
    code, out, err = run("prune", *paths, "--verify", "full")
    assert (code, err) == (0, "")
    assert "Reloaded: logits differ by 0 at most." in out


@pytest.mark.parametrize(
    ("arguments", "width", "layers"),
    [
        ([], 36, 4),
        (["--method", "PPM", "--pruning-percentage", "25"], 30, 4),
        (["--method", "L2", "--expansion-rate", "200"], 32, 4),
        (["--pruning-percentage", "10", "--expansion-divisor", "32"], 32, 4),
        (["--pruning-type", "DEPTH", "--num-layers-to-remove", "1"], 40, 3),
        (["--pruning-type", "DEPTH", "--layer-indices", "0, 2"], 40, 2),
        (["--pruning-type", "DEPTH", "--pruning-percentage", "50"], 40, 2),
        ([*BOTH, "--pruning-percentage", "50", "--layer-indices", "1"], 20, 3),
        ([*BOTH, "--expansion-rate", "200", "--num-layers-to-remove", "2"], 32, 2),
    ],
    ids=str,
)
def test_every_kind_of_request_works(
    run: Run, llama_folder: Path, tmp_path: Path, arguments: list[str], width: int, layers: int
) -> None:
    output = tmp_path / "out"
    assert run("prune", "--model-path", llama_folder, "--output-path", output, *arguments)[0] == 0
    config = AutoConfig.from_pretrained(output)
    assert (config.intermediate_size, config.num_hidden_layers) == (width, layers)


@pytest.mark.parametrize(
    ("arguments", "heads", "groups"),
    [([], 2, 1), (["--attention-unit", "group"], 2, 1), (["--attention-unit", "head"], 2, 2)],
    ids=str,
)
def test_attention_is_pruned(
    run: Run, llama_folder: Path, tmp_path: Path, arguments: list[str], heads: int, groups: int
) -> None:
    asked = ["--pruning-type", "ATTENTION", "--pruning-percentage", "50", *arguments]
    paths = ["--model-path", llama_folder, "--output-path", tmp_path / "out"]
    code, out, err = run("prune", *paths, *asked, "--verify", "full")
    assert (code, err) == (0, "")
    assert "in each layer's attention" in out
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.num_attention_heads, config.num_key_value_heads) == (heads, groups)
    assert config.head_dim == 4


def test_ten_percent_of_ten_layers_is_one_layer(run: Run, tmp_path: Path) -> None:
    tiny_model("llama", num_hidden_layers=10).save_pretrained(tmp_path / "model")
    depth = ["--pruning-type", "DEPTH", "--pruning-percentage", "10"]
    paths = ["--model-path", tmp_path / "model", "--output-path", tmp_path / "out"]
    assert run("prune", *paths, *depth)[0] == 0
    assert AutoConfig.from_pretrained(tmp_path / "out").num_hidden_layers == 9


def test_a_missing_tokenizer_is_said(run: Run, tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    command = ["prune", "--model-path", tmp_path / "model", "--output-path", tmp_path / "out"]
    code, out, _ = run(*command)
    assert code == 0
    assert "no tokenizer" in out


@pytest.mark.parametrize(("dtype", "written"), [("auto", "BF16"), ("float16", "F16")])
def test_the_dtype_is_kept_or_as_asked(run: Run, tmp_path: Path, dtype: str, written: str) -> None:
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path / "model")
    paths = ["--model-path", tmp_path / "model", "--output-path", tmp_path / "out"]
    assert run("prune", *paths, "--dtype", dtype)[0] == 0
    tensors = open_checkpoint(tmp_path / "out").tensors.values()
    assert {tensor.dtype for tensor in tensors} == {written}


def test_verification_can_be_left_out_and_then_it_says_so(
    run: Run, llama_folder: Path, tmp_path: Path
) -> None:
    paths = ["--model-path", llama_folder, "--output-path", tmp_path / "out"]
    code, out, _ = run("prune", *paths, "--no-verify")
    assert code == 0
    assert "Not verified" in out
    assert not re.search("Reloaded|Verified", out)


def test_a_warning_is_one_line_on_standard_error(
    run: Run, llama_folder: Path, tmp_path: Path
) -> None:
    paths = ["--model-path", llama_folder, "--output-path", tmp_path / "out"]
    code, _, err = run("prune", *paths, "--pruning-percentage", "0")
    assert code == 0
    assert re.fullmatch(r"Warning: .*\n", err)


def test_quiet_silences_results_and_warnings(run: Run, llama_folder: Path, tmp_path: Path) -> None:
    paths = ["--model-path", llama_folder, "--output-path", tmp_path / "out"]
    assert run("prune", *paths, "--pruning-percentage", "0", "--quiet") == (0, "", "")
    assert (tmp_path / "out" / "config.json").is_file()


def test_pruning_as_json_gives_the_figures(run: Run, llama_folder: Path, tmp_path: Path) -> None:
    paths = ["--model-path", llama_folder, "--output-path", tmp_path / "out"]
    code, out, err = run("prune", *paths, "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    tensors = open_checkpoint(tmp_path / "out").tensors.values()
    assert result["statistics"]["pruned_parameters"] == sum(tensor.numel for tensor in tensors)
    assert result["output_path"] == str(tmp_path / "out")
    assert Path(result["plan"]["file"]).is_file()


def test_analyzing_prints_facts_and_savings(run: Run, llama_folder: Path) -> None:
    code, out, err = run("analyze", "--model-path", llama_folder)
    assert (code, err) == (0, "")
    for fact in ("llama", "LlamaForCausalLM", "4 (2 for keys and values) of 4", "250.0 %"):
        assert fact in out
    for fact in ("attention", "10 %", "50 %", "mlp 36", "2 layers"):
        assert fact in out


def test_analyzing_as_json_gives_the_same_facts(run: Run, llama_folder: Path) -> None:
    from optipfair import analyze_model

    code, out, err = run("analyze", "--model-path", llama_folder, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == analyze_model(llama_folder).to_dict()


def test_analyzing_says_what_is_not_possible_and_why(run: Run, tmp_path: Path) -> None:
    tiny_model("bloom").save_pretrained(tmp_path)
    _, out, _ = run("analyze", "--model-path", tmp_path)
    assert "Width (MLP_GLU): not possible." in out
    assert "fixed at 4 x hidden" in " ".join(out.split())


def test_analyzing_refuses_an_unknown_device(refuses: Refuses, llama_copy: Path) -> None:
    listed = re.escape(", ".join(available_devices()))
    arguments = ["analyze", "--model-path", llama_copy, "--device", "tpu9000"]
    refuses(f"'tpu9000' is not available.*{listed}", *arguments)


@pytest.mark.parametrize("name", ["a [bold] model", "a [red] one [/]", "[/bold]", "wide 模型"])
def test_a_name_is_printed_as_it_is(
    run: Run, llama_copy: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "/" in name:
        (llama_copy.parent / name).parent.mkdir(exist_ok=True)
    llama_copy.rename(llama_copy.parent / name)
    monkeypatch.chdir(llama_copy.parent)
    code, out, _ = run("analyze", "--model-path", f"./{name}")
    assert code == 0
    assert f"./{name}" in out


def test_the_demo_refuses_an_output_that_is_a_file(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuses("is a file", "demo", "--output-path", tmp_path / "file")


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version") == (0, f"optipfair, version {__version__}\n", "")


@pytest.mark.parametrize("command", [[], ["prune"], ["analyze"], ["demo"]])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_there_for_every_command(run: Run, command: list[str], option: str) -> None:
    code, out, err = run(*command, option)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: optipfair")
