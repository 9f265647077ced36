"""The command line in this process: what it prints, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, MixtralForCausalLM

from optipfair import __version__
from optipfair.files import safetensors_writer as writer
from optipfair.files.safetensors_reader import INDEX_FILE, SINGLE_FILE, open_checkpoint
from optipfair.loading import available_devices
from optipfair.pipeline import stored_run as stored
from optipfair.testing import tiny_model
from support.interrupts import interrupt

Run = Callable[..., tuple[int, str, str]]
Refuses = Callable[..., None]
Untouched = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture
def refuses_model(refuses: Refuses, llama_copy: Path) -> Refuses:
    """The damaged copy of the model is refused by `prune` and by `analyze`."""

    def check(match: str) -> None:
        output = llama_copy.parent / "out"
        refuses(match, "prune", "--model-path", llama_copy, "--output-path", output)
        refuses(match, "analyze", "--model-path", llama_copy)

    return check


BOTH = ["--pruning-type", "BOTH"]
WIDTH = [
    (["--method", "PPN"], r"Unknown .*'PPN'\. Did you mean 'PP?O?[NM]'.*Available: L2, MAW, PON"),
    (["--method", ""], "Available: L2, MAW, PON, PPM, VOW"),
    (["--pruning-type", "DEPHT"], r"'DEPHT'.* mean 'DEPTH'\? Available: ATTENTION, BOTH, "),
    (["--pruning-type", "mlp_glu"], "Did you mean 'MLP_GLU'"),
    (["--attention-unit", "head"], "attention_unit='head' does not go with.*'ATTENTION'"),
    (["--pruning-type", "ATTENTION", "--attention-unit", "heads"], "Did you mean 'head'"),
    (["--pruning-percentage", "-5"], r"pruning_percentage=-5.* outside \[0, 100\)"),
    (["--pruning-percentage", "100"], r"pruning_percentage=100.* outside \[0, 100\)"),
    (["--pruning-percentage", "120"], r"pruning_percentage=120.* outside \[0, 100\)"),
    (["--pruning-percentage", "nan"], "nan is no finite number"),
    (["--pruning-percentage", "inf"], "inf is no finite number"),
    (["--pruning-percentage", "text"], "--pruning-percentage.*'text' is not a valid float"),
    (["--pruning-percentage", "20%"], "'20%' is not a valid float"),
    (["--pruning-percentage", "20", "--expansion-rate", "140"], "exclude each other"),
    (["--pruning-percentage", "10", "--expansion-rate", "140"], "exclude each other"),
    (["--expansion-rate", "260"], "expansion_rate=260 is above the current 250"),
    (["--expansion-rate", "0"], "not above 0"),
    (["--expansion-rate", "-140"], "not above 0"),
    (["--expansion-rate", "nan"], "no finite number"),
    (["--expansion-rate", "wide"], "not a valid float"),
    (["--expansion-divisor", "7"], "expansion_divisor=7.*32, 64, 128, 256"),
    (["--expansion-divisor", "64"], "multiple of 64"),
    (["--num-layers-to-remove", "1"], "num_layers_to_remove=1 does not go with.*DEPTH"),
    (["--layer-selection-method", "first"], "layer_selection_method.*does not go with.*DEPTH"),
    (["--device", "tpu9000"], "'tpu9000' is not available.*cpu"),
    (["--device", "cuda:99"], "'cuda:99' is not available.*cpu"),
    (["--dtype", "bfloat"], "Unknown dtype 'bfloat'. Did you mean 'bfloat16'"),
    (["--percentage", "10"], "No such option.*--percentage"),
    (["stray"], "unexpected extra argument"),
]


@pytest.mark.parametrize(("arguments", "match"), WIDTH, ids=str)
def test_bad_width_requests_are_refused(
    refuses: Refuses, llama_copy: Path, arguments: list[str], match: str
) -> None:
    output = llama_copy.parent / "out"
    refuses(match, "prune", "--model-path", llama_copy, "--output-path", output, *arguments)


ONE_LAYER = ["--pruning-type", "DEPTH", "--num-layers-to-remove", "1"]
DEPTH = [
    ([], "No depth target"),
    (["--num-layers-to-remove", "0"], "num_layers_to_remove=0"),
    (["--num-layers-to-remove", "-1"], "num_layers_to_remove=-1"),
    (["--num-layers-to-remove", "4"], "1 to 3"),
    (["--num-layers-to-remove", "two"], "not a valid integer"),
    (["--num-layers-to-remove", "1.5"], "not a valid integer"),
    (["--layer-indices", "4"], r"\[4\].*4 layers.*from 0 to 3"),
    (["--layer-indices", "-1"], r"\[-1\].*distinct indices"),
    (["--layer-indices", "1,1"], r"\[1\] more than once"),
    (["--layer-indices", "0,1,2,3"], "at least one must stay"),
    (["--layer-indices", ""], "'' is no list of layer numbers.*2,5,8"),
    (["--layer-indices", "1,,2"], "no list of layer numbers"),
    (["--layer-indices", "1;2"], "no list of layer numbers"),
    (["--layer-indices", "1", "--num-layers-to-remove", "1"], "exclude each other"),
    (["--layer-indices", "1", "--pruning-percentage", "30"], "exclude each other"),
    (["--num-layers-to-remove", "1", "--pruning-percentage", "10"], "exclude each other"),
    (["--layer-indices", "1", "--layer-selection-method", "first"], "first"),
    (["--num-layers-to-remove", "1", "--layer-selection-method", "custom"], "layer_indices"),
    (["--num-layers-to-remove", "1", "--layer-selection-method", "frist"], "mean 'first'"),
    (["--num-layers-to-remove", "1", "--layer-selection-method", "angular"], "calibration data"),
    (["--num-layers-to-remove", "1", "--layer-selection-method", "perplexity"], "calibration data"),
    (["--num-layers-to-remove", "1", "--compensate"], "compensate=True needs calibration data"),
    (["--pruning-percentage", "24"], "smallest that removes one is 25"),
    (["--pruning-percentage", "10"], "10 of 4 layers is no whole layer.*removes one is 25"),
    (["--pruning-percentage", "100"], r"outside \[0, 100\)"),
    (["--num-layers-to-remove", "1", "--expansion-rate", "140"], "does not go with.*MLP_GLU"),
    (["--num-layers-to-remove", "1", "--expansion-divisor", "32"], "does not go with.*MLP_GLU"),
    (["--num-layers-to-remove", "1", "--method", "VOW"], "does not go with.*MLP_GLU"),
]


@pytest.mark.parametrize(("arguments", "match"), DEPTH, ids=str)
def test_bad_depth_requests_are_refused(
    refuses: Refuses, llama_copy: Path, arguments: list[str], match: str
) -> None:
    command = ["prune", "--pruning-type", "DEPTH", "--output-path", llama_copy.parent / "out"]
    refuses(match, *command, "--model-path", llama_copy, *arguments)


CALIBRATED = [
    (
        ONE_LAYER,
        r"does not go with layer_selection_method='last', which needs no data. Choose .*'angu",
    ),
    ([*ONE_LAYER, "--no-compensate"], "does not go with layer_selection_method='last'"),
    ([*ONE_LAYER, "--layer-selection-method", "anglar"], "Did you mean 'angular'"),
    ([*ONE_LAYER, "--method", "AUTO"], "neuron_selection_method='AUTO' does not go with.*'DEPTH'"),
    (["--calibration-samples", "0"], "calibration_samples=0 .* 1 or more"),
    (["--calibration-samples", "9" * 20], "is more than the .* places .* Give fewer, or a longer"),
    (["--calibration-length", "1"], "calibration_length=1 is no whole number of 2 or more"),
    (["--calibration-length", "9" * 20], "Give a longer text, or a smaller calibration_length"),
    (["--seed", "9" * 20], r"is no whole number from 0 to 2\*\*64 - 1"),
    (["--layer-widths", "by_loss"], "by_loss'.*Use 'AUTO' or give compensate=True.$"),
]


@pytest.mark.parametrize(("arguments", "match"), CALIBRATED, ids=str)
def test_bad_calibrated_requests_are_refused(
    refuses: Refuses, llama_copy: Path, arguments: list[str], match: str
) -> None:
    text = llama_copy.parent / "x.txt"
    text.write_text("Some words, and some more of them. " * 40)
    command = ["prune", "--output-path", llama_copy.parent / "out", "--calibration-length", "32"]
    refuses(match, *command, "--model-path", llama_copy, "--calibration", text, *arguments)


def test_widths_by_loss_ask_for_data(refuses: Refuses, llama_copy: Path) -> None:
    command = ["prune", "--model-path", llama_copy, "--output-path", llama_copy.parent / "out"]
    refuses("Use 'AUTO' or .*: --calibration", *command, "--layer-widths", "by_loss")


def test_a_config_without_experts_is_refused(refuses_model: Refuses, llama_copy: Path) -> None:
    tiny_model("mixtral").save_pretrained(llama_copy)
    config = json.loads((llama_copy / "config.json").read_text())
    (llama_copy / "config.json").write_text(json.dumps({**config, "num_local_experts": 0}))
    refuses_model("has 0 experts .*; at least one is needed. Restore the config")


def test_required_options_are_asked_for(refuses: Refuses, llama_copy: Path) -> None:
    refuses("Missing option '--model-path'", "prune", "--output-path", "x")
    refuses("output_path is missing. Give the folder", "prune", "--model-path", llama_copy)
    refuses("Missing option '--model-path'", "analyze")
    refuses("No such command 'prunes'", "prunes")


def test_an_unknown_path_is_refused(refuses_model: Refuses, llama_copy: Path) -> None:
    shutil.rmtree(llama_copy)
    refuses_model("no model at .*folder, a .gguf file, a hub id")


def test_a_file_is_no_model(refuses_model: Refuses, llama_copy: Path) -> None:
    shutil.rmtree(llama_copy)
    llama_copy.write_text("not a model")
    refuses_model("is a file, but neither")


def test_an_empty_folder_is_refused(refuses_model: Refuses, llama_copy: Path) -> None:
    shutil.rmtree(llama_copy)
    llama_copy.mkdir()
    refuses_model("is empty")


def test_a_config_without_weights_is_refused(refuses_model: Refuses, llama_copy: Path) -> None:
    (llama_copy / SINGLE_FILE).unlink()
    refuses_model("holds no weights")


@pytest.mark.parametrize("text", ['{"model_type": "llama",', "", "[]", '{"hidden_size": 16}'])
def test_a_corrupt_config_is_refused(refuses_model: Refuses, llama_copy: Path, text: str) -> None:
    (llama_copy / "config.json").write_text(text)
    refuses_model(r"config\.json (is not valid JSON|names no model_type)")


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "nonsense"},
        {"hidden_size": "wide"},
        {"num_attention_heads": 3},
        {"num_hidden_layers": 0},
        {"hidden_act": "nonsense"},
        {"dtype": "nonsense"},
    ],
    ids=str,
)
def test_a_config_with_wrong_values_is_refused(
    refuses_model: Refuses, llama_copy: Path, fields: dict[str, Any]
) -> None:
    config = json.loads((llama_copy / "config.json").read_text())
    (llama_copy / "config.json").write_text(json.dumps({**config, **fields}))
    refuses_model("")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"intermediate_size": 48}, r"proj.weight has shape .*40.*, its config\.json says .*48"),
        ({"num_hidden_layers": 5}, r"lacks 9 tensors of its model \(model\.layers\.4\."),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_the_config_are_refused(
    refuses: Refuses, llama_copy: Path, fields: dict[str, Any], match: str
) -> None:
    config = json.loads((llama_copy / "config.json").read_text())
    (llama_copy / "config.json").write_text(json.dumps({**config, **fields}))
    output = llama_copy.parent / "out"
    refuses(match, "prune", "--model-path", llama_copy, "--output-path", output)


@pytest.mark.parametrize("length", [0, 4, 100, 20_000, -1])
def test_truncated_weights_are_refused(
    refuses_model: Refuses, llama_copy: Path, length: int
) -> None:
    file = llama_copy / SINGLE_FILE
    file.write_bytes(file.read_bytes()[:length])
    refuses_model(r"model\.safetensors is damaged")


def test_pickled_weights_are_refused(refuses_model: Refuses, llama_copy: Path) -> None:
    (llama_copy / SINGLE_FILE).rename(llama_copy / "pytorch_model.bin")
    refuses_model(r"pickled weights only \(pytorch_model\.bin\).*save_pretrained")


def test_repeated_names_in_a_header_are_refused(refuses_model: Refuses, llama_copy: Path) -> None:
    entry = '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    header = f"{{{entry}, {entry}}}".encode()
    data = len(header).to_bytes(8, "little") + header + b"\0\0\0\0"
    (llama_copy / SINGLE_FILE).write_bytes(data)
    refuses_model("a is there twice")


@pytest.fixture
def sharded(llama_copy: Path) -> Path:
    """The copy of the model, in several files."""
    (llama_copy / SINGLE_FILE).unlink()
    tiny_model("llama").save_pretrained(llama_copy, max_shard_size="20KB")
    return llama_copy


def test_a_missing_shard_is_refused(refuses_model: Refuses, sharded: Path) -> None:
    next(iter(sharded.glob("model-00002*"))).unlink()
    refuses_model("lacks the shard model-00002")


@pytest.mark.parametrize(
    ("name", "file", "match"),
    [
        ("ghost", "model-00001", "ghost is not in model-00001"),
        ("lm_head.weight", "../elsewhere.safetensors", "points outside the folder"),
        ("lm_head.weight", "/etc/passwd", "points outside the folder"),
        ("lm_head.weight", 3, "is damaged"),
    ],
)
def test_a_wrong_index_is_refused(
    refuses_model: Refuses, sharded: Path, name: str, file: object, match: str
) -> None:
    index = json.loads((sharded / INDEX_FILE).read_text())
    shards = set(index["weight_map"].values())
    index["weight_map"][name] = next((s for s in shards if s.startswith(str(file))), file)
    (sharded / INDEX_FILE).write_text(json.dumps(index))
    refuses_model(match)


def test_a_width_that_the_family_cannot_express_is_refused(
    refuses: Refuses, tmp_path: Path
) -> None:
    tiny_model("bloom").save_pretrained(tmp_path / "bloom")
    command = ["prune", "--model-path", tmp_path / "bloom", "--output-path", tmp_path / "out"]
    refuses("no intermediate size.*Depth pruning works", *command)


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_an_output_that_must_not_be_written_is_refused(
    refuses: Refuses, llama_copy: Path, overwrite: list[str]
) -> None:
    there = llama_copy.parent
    (there / "file").write_text("mine")
    (there / "link").symlink_to(llama_copy)
    (there / "thesis").mkdir()
    (there / "thesis" / "chapter.tex").touch()
    for output, match in {
        "file": "file is a file",
        "file/below": "file is a file",
        "model": "is or holds the input",
        "link": "is or holds the input",
        "model/../model": "is or holds the input",
        ".": "is or holds the input",
        "thesis": r"no config\.json.*never overwritten",
        "n" * 256: "cannot be written|too long",
    }.items():
        command = ["prune", "--model-path", llama_copy, "--output-path", there / output]
        refuses(match, *command, *overwrite)


def test_a_place_where_nobody_can_write_is_refused(refuses: Refuses, llama_copy: Path) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("no /proc on this system")
    command = ["prune", "--model-path", llama_copy, "--output-path", "/proc/pruned"]
    refuses("/proc/pruned cannot be written", *command)


def test_the_output_is_checked_before_the_model_is_loaded(
    refuses: Refuses, llama_copy: Path
) -> None:
    (llama_copy.parent / "file").touch()
    (llama_copy / SINGLE_FILE).write_bytes(b"damaged")
    command = ["prune", "--model-path", llama_copy, "--output-path", llama_copy.parent / "file"]
    refuses("is a file", *command)


def test_a_model_is_overwritten_only_on_request(
    refuses: Refuses, run: Run, llama_copy: Path
) -> None:
    output = llama_copy.parent / "out"
    command = ["prune", "--model-path", llama_copy, "--output-path", output]
    assert run(*command)[0] == 0
    (output / "old").touch()
    refuses("holds a model.*--overwrite", *command)
    assert run(*command, "--overwrite", "--pruning-percentage", "50")[0] == 0
    assert AutoConfig.from_pretrained(output).intermediate_size == 20
    assert not (output / "old").exists()
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


def failing_with(error: BaseException) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize(
    ("fail", "code", "match"),
    [
        (interrupt, 130, "Interrupted"),
        (failing_with(OSError(28, "No space left on device")), 1, "No space left on device"),
        (failing_with(MemoryError()), 1, "Out of memory"),
        (failing_with(RuntimeError("a\nb")), 1, "RuntimeError: a b"),
    ],
)
@pytest.mark.parametrize("place", ["_write_shard", "_check_and_flush"])  # the latter in a thread
def test_a_failure_is_one_line_with_its_exit_code_and_leaves_nothing(
    run: Run,
    llama_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    untouched: Untouched,
    fail: Callable[..., None],
    code: int,
    match: str,
    place: str,
) -> None:
    monkeypatch.setattr(writer, place, fail)
    output = llama_copy.parent / "new" / "out"
    with untouched(llama_copy.parent):
        found, out, err = run("prune", "--model-path", llama_copy, "--output-path", output)
    assert (found, out) == (code, "")
    assert re.fullmatch(rf"\n?Error: .*{match}.*\n", err)


def test_a_failed_verification_is_exit_code_1_and_leaves_nothing(
    run: Run, llama_copy: Path, monkeypatch: pytest.MonkeyPatch, untouched: Untouched
) -> None:
    write = stored.write_checkpoint

    def write_and_damage(stored: Any, new: Any, folder: Path, **options: Any) -> None:
        write(stored, new, folder, **options)
        for info in open_checkpoint(folder).tensors.values():
            content = info.file.read_bytes()
            info.file.write_bytes(content[: info.start] + b"\0" * (len(content) - info.start))

    monkeypatch.setattr(stored, "write_checkpoint", write_and_damage)
    output = llama_copy.parent / "out"
    with untouched(llama_copy.parent):
        code, out, err = run("prune", "--model-path", llama_copy, "--output-path", output)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Error: .*is not as planned: model\.layers.*Nothing was kept.*\n", err)


@pytest.fixture
def fused(tmp_path: Path) -> Path:
    """A model whose tensors are named as in memory, so that it must be loaded.

    To be asked for before `run`, which records what is printed from then on.
    """
    model = tiny_model("mixtral")
    model.save_pretrained(tmp_path / "fused")
    save_file(model.state_dict(), tmp_path / "fused" / SINGLE_FILE, metadata={"format": "pt"})
    return tmp_path / "fused"


def test_that_a_model_must_be_loaded_is_said_on_standard_error(fused: Path, run: Run) -> None:
    command = ["prune", "--model-path", fused, "--pruning-percentage", "20", "--output-path"]
    code, out, err = run(*command, fused.parent / "out")
    assert code == 0
    assert re.fullmatch(r"The model is loaded into memory: .* under this name\.\n", err)
    assert "Reloaded: logits differ by 0 at most." in out
    assert run(*command, fused.parent / "quiet", "--quiet") == (0, "", "")


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize(
    ("fail", "code", "match"),
    [
        (interrupt, 130, "Interrupted"),
        (failing_with(OSError(28, "No space left on device")), 1, "No space left on device"),
    ],
)
def test_a_failure_after_loading_is_one_line_too(
    fused: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    untouched: Untouched,
    fail: Callable[..., None],
    code: int,
    match: str,
) -> None:
    monkeypatch.setattr(MixtralForCausalLM, "save_pretrained", fail)
    command = ["prune", "--model-path", fused, "--pruning-percentage", "20", "--output-path"]
    with untouched(fused.parent):
        found, out, err = run(*command, fused.parent / "new" / "out")
    assert (found, out) == (code, "")
    assert re.fullmatch(rf"The model is loaded.*\n\n?Error: .*{match}.*\n", err)


def test_a_loaded_model_that_reloads_differently_is_exit_code_1_and_leaves_nothing(
    fused: Path, run: Run, monkeypatch: pytest.MonkeyPatch, untouched: Untouched
) -> None:
    save = MixtralForCausalLM.save_pretrained

    def save_and_drift(model: Any, folder: Path, **options: Any) -> None:
        save(model, folder, **options)
        model.lm_head.weight.data += 1

    monkeypatch.setattr(MixtralForCausalLM, "save_pretrained", save_and_drift)
    command = ["prune", "--model-path", fused, "--pruning-percentage", "20", "--output-path"]
    with untouched(fused.parent):
        code, out, err = run(*command, fused.parent / "out")
    assert (code, out) == (1, "")
    assert re.search(r"\nError: .*logits differ.*Nothing was written.*\n$", err)


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version") == (0, f"optipfair, version {__version__}\n", "")


@pytest.mark.parametrize("command", [[], ["prune"], ["analyze"], ["demo"]])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_there_for_every_command(run: Run, command: list[str], option: str) -> None:
    code, out, err = run(*command, option)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: optipfair")
