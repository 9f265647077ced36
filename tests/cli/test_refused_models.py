"""Models and output folders that the command line refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optipfair.files.safetensors_reader import INDEX_FILE, SINGLE_FILE
from optipfair.testing import tiny_model

Refuses = Callable[..., None]


@pytest.fixture
def refuses_model(refuses: Refuses, llama_copy: Path) -> Refuses:
    """The damaged copy of the model is refused by `prune` and by `analyze`."""

    def check(match: str) -> None:
        output = llama_copy.parent / "out"
        refuses(match, "prune", "--model-path", llama_copy, "--output-path", output)
        refuses(match, "analyze", "--model-path", llama_copy)

    return check


def test_a_config_without_experts_is_refused(refuses_model: Refuses, llama_copy: Path) -> None:
    tiny_model("mixtral").save_pretrained(llama_copy)
    config = json.loads((llama_copy / "config.json").read_text())
    (llama_copy / "config.json").write_text(json.dumps({**config, "num_local_experts": 0}))
    refuses_model("has 0 experts .*; at least one is needed. Restore the config")


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
    refuses_model(r"config\.json (cannot be read|names no model_type)")


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


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("pytorch_model.bin", r"model\.bin( is damaged, or|\), which are).*save_pretrained"),
        ("model.pt", r"pickled weights only \(model\.pt\).*save_pretrained"),
    ],
)
def test_pickled_weights_that_are_not_read_are_refused(
    refuses_model: Refuses, llama_copy: Path, name: str, match: str
) -> None:
    (llama_copy / SINGLE_FILE).rename(llama_copy / name)
    refuses_model(match)


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


@pytest.mark.parametrize("name", ["a\nb.safetensors", "x" * 100_000, "é" * 200, "../x", "\x1b[2J"])
def test_an_index_of_odd_names_is_one_short_sentence(
    refuses: Refuses, llama_copy: Path, name: str
) -> None:
    index = {"weight_map": {"model.norm.weight": name}}
    (llama_copy / "model.safetensors").unlink()
    (llama_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    refuses("^Error: .{1,2010}$", "analyze", "--model-path", llama_copy)
