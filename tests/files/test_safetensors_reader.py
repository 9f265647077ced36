"""What a checkpoint's headers say, and every way in which they can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from optipfair import CheckpointError
from optipfair.files.safetensors_reader import (
    INDEX_FILE,
    SINGLE_FILE,
    open_checkpoint,
    read_config,
    read_header,
)
from optipfair.testing import tiny_model

WHOLE = safetensors.torch.save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)})


def with_header(header: str | dict[str, Any], data: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    tiny_model("llama").save_pretrained(folder, max_shard_size="20KB")
    return folder


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    change(index["weight_map"])
    (folder / INDEX_FILE).write_text(json.dumps(index))


def test_headers_say_what_the_tensors_are(llama_folder: Path) -> None:
    found = open_checkpoint(llama_folder).tensors
    with safetensors.safe_open(llama_folder / SINGLE_FILE, "pt") as file:
        assert set(found) == set(file.keys())
        for name, info in found.items():
            tensor = file.get_tensor(name)
            assert (info.name, info.dtype, info.shape) == (name, "F32", tuple(tensor.shape))
            assert (info.numel, info.nbytes) == (tensor.numel(), 4 * tensor.numel())


def test_offsets_lead_to_the_tensors_bytes(llama_folder: Path) -> None:
    tensors = safetensors.torch.load_file(llama_folder / SINGLE_FILE)
    for name, info in open_checkpoint(llama_folder).tensors.items():
        assert info.file.read_bytes()[info.start : info.end] == tensors[name].numpy().tobytes()


def test_the_bytes_are_those_of_all_tensors(llama_folder: Path) -> None:
    tensors = safetensors.torch.load_file(llama_folder / SINGLE_FILE)
    assert open_checkpoint(llama_folder).nbytes == 4 * sum(t.numel() for t in tensors.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8, torch.bool, None])
def test_every_dtype_and_shape_is_read(tmp_path: Path, dtype: torch.dtype | None) -> None:
    shapes = [(), (0, 3), (5,), (2, 1, 3)]
    tensors = {str(shape): torch.zeros(shape, dtype=dtype) for shape in shapes}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    found = read_header(tmp_path / "x.safetensors")
    assert {name: info.shape for name, info in found.items()} == {str(s): s for s in shapes}


def test_shards_are_read_as_one(sharded: Path, llama_folder: Path) -> None:
    whole, parts = open_checkpoint(llama_folder), open_checkpoint(sharded)
    assert len({info.file for info in parts.tensors.values()}) > 1
    assert parts.nbytes == whole.nbytes
    assert {n: t.shape for n, t in parts.tensors.items()} == {
        n: t.shape for n, t in whole.tensors.items()
    }


@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_off_anywhere_is_refused(tmp_path_factory: Any, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors is damaged"):
        read_header(path)


def test_bytes_after_the_last_tensor_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(WHOLE + b"\0")
    with pytest.raises(CheckpointError, match="tensors end at byte"):
        read_header(tmp_path / "x")


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADERS = {
    "no JSON": "{",
    "not text": '{"a\udc80": 1}'.encode(errors="surrogateescape").decode("latin-1"),
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "an entry that is no object": {"a": 3},
    "no dtype": {"a": {"shape": [1], "data_offsets": [0, 4]}},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 4]}},
    "no offsets": {"a": {"dtype": "F32", "shape": [1]}},
    "three offsets": {"a": {**ONE, "data_offsets": [0, 2, 4]}},
    "offsets in words": {"a": {**ONE, "data_offsets": ["0", "4"]}},
    "a shape in words": {"a": {**ONE, "shape": ["x"]}},
    "a dtype that is a list": {"a": {**ONE, "dtype": ["F32"]}},
    "a larger shape": {"a": {**ONE, "shape": [2]}},
    "a negative shape": {"a": {**ONE, "shape": [-1]}},
    "a hole": {"a": {**ONE, "shape": [0], "data_offsets": [0, 0]}},
    "an overlap": {"a": ONE, "b": ONE},
    "an end before the start": {"a": {**ONE, "data_offsets": [4, 0]}},
    "a name twice": f'{{"a": {json.dumps(ONE)}, "a": {json.dumps(ONE)}}}',
    "nested without end": "[" * 100_000,
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_a_wrong_header_is_refused(tmp_path: Path, header: str | dict[str, Any]) -> None:
    (tmp_path / "x.safetensors").write_bytes(with_header(header, b"\0\0\0\0"))
    with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged.*again\.$"):
        read_header(tmp_path / "x.safetensors")


def test_a_header_longer_than_the_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="cut off"):
        read_header(tmp_path / "x")


def test_a_repeated_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(with_header(HEADERS["a name twice"], b"\0\0\0\0"))
    with pytest.raises(CheckpointError, match="a is there twice"):
        read_header(tmp_path / "x")


def test_a_missing_shard_is_named(sharded: Path) -> None:
    gone = sorted(sharded.glob("model-*"))[1]
    gone.unlink()
    with pytest.raises(CheckpointError, match=f"lacks the shard {gone.name}"):
        open_checkpoint(sharded)


def test_a_truncated_shard_is_named(sharded: Path) -> None:
    cut = sorted(sharded.glob("model-*"))[1]
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{cut.name} is damaged"):
        open_checkpoint(sharded)


def test_a_tensor_that_its_shard_lacks_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*"))[0].name
    edit_index(sharded, lambda weights: weights.update(ghost=shard))
    with pytest.raises(CheckpointError, match=f"ghost is not in {shard}"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("place", ["../{}", "/{}", "sub/{}", "..", ".", "a" * 300])
def test_an_index_cannot_point_outside_the_folder(sharded: Path, place: str) -> None:
    outside = sharded.parent / "x.safetensors"
    outside.write_bytes(WHOLE)
    edit_index(sharded, lambda weights: weights.update(a=place.format(outside.name)))
    with pytest.raises(CheckpointError, match=r"outside the folder|lacks the shard"):
        open_checkpoint(sharded)


INDEXES = {
    "no JSON": "{",
    "empty": "",
    "a list": "[]",
    "no weight map": "{}",
    "a list of weights": '{"weight_map": ["a"]}',
    "null weights": '{"weight_map": null}',
    "a number as file": '{"weight_map": {"a": 3}}',
    "no weights at all": '{"weight_map": {}}',
}


@pytest.mark.parametrize("text", INDEXES.values(), ids=INDEXES.keys())
def test_a_wrong_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json is damaged"):
        open_checkpoint(tmp_path)


def test_with_both_forms_there_the_one_that_transformers_loads_counts(llama_copy: Path) -> None:
    from transformers import AutoModelForCausalLM

    other = tiny_model("llama", num_hidden_layers=2)
    other.save_pretrained(llama_copy / "other", max_shard_size="20KB")
    for path in (llama_copy / "other").glob("model*"):
        path.rename(llama_copy / path.name)
    _, info = AutoModelForCausalLM.from_pretrained(llama_copy, output_loading_info=True)
    four_layers_loaded = not info["missing_keys"]
    four_layers_read = "model.layers.3.mlp.up_proj.weight" in open_checkpoint(llama_copy).tensors
    assert four_layers_read == four_layers_loaded


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80")
    with pytest.raises(CheckpointError, match=f"pickled.*{name}.*save_pretrained"):
        open_checkpoint(tmp_path)


def test_a_folder_without_weights_says_which_files_are_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no weights.*{SINGLE_FILE}.*{INDEX_FILE}"):
        open_checkpoint(tmp_path)


def test_a_config_is_read_as_it_is(llama_folder: Path) -> None:
    assert read_config(llama_folder)["model_type"] == "llama"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "config.json cannot be read"),
        (b'{"model_type": "llama"', "config.json cannot be read"),
        (b'\xff\xfe{"model_type": "llama"}', "config.json cannot be read"),
        (b"[]", "names no model_type"),
        (b"{}", "names no model_type"),
        (b'{"model_type": 3}', "names no model_type"),
    ],
)
def test_a_corrupt_config_is_refused(tmp_path: Path, text: bytes, match: str) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=match):
        read_config(tmp_path)


def test_an_empty_folder_and_one_without_config_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is empty"):
        read_config(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("F32", [-2, -2], 16),
        ("F32", [2.0, 2], 16),
        ("F32", ["2", 2], 16),
        ("F32", [True, 4], 16),
        ("F4", [3], 2),
    ],
)
def test_what_safetensors_itself_refuses_is_refused(
    tmp_path: Path, dtype: str, shape: list[Any], size: int
) -> None:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header({"a": entry}, bytes(size)))
    with pytest.raises(CheckpointError, match="damaged"):
        read_header(path)


def test_a_name_with_half_a_character_is_refused(tmp_path: Path) -> None:
    text = '{"a\\ud800": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}'
    (tmp_path / "x.safetensors").write_bytes(with_header(text, b"1"))
    with pytest.raises(CheckpointError, match="damaged"):
        read_header(tmp_path / "x.safetensors")


def test_a_tensor_that_the_index_leaves_out_is_there(sharded: Path) -> None:
    whole = open_checkpoint(sharded).tensors
    edit_index(sharded, lambda weight_map: weight_map.pop("model.norm.weight"))
    assert open_checkpoint(sharded).tensors == whole


@pytest.mark.parametrize("what", ["written", "replaced", "gone"])
@pytest.mark.parametrize("name", ["config.json", SINGLE_FILE])
def test_files_that_change_after_they_were_opened_are_named(
    llama_copy: Path, name: str, what: str
) -> None:
    checkpoint = open_checkpoint(llama_copy)
    checkpoint.check_unchanged()
    content = (llama_copy / name).read_bytes()
    if what == "written":
        (llama_copy / name).write_bytes(content + b" ")
    else:
        (llama_copy / name).rename(llama_copy.parent / name)
    if what == "replaced":
        (llama_copy / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"changed during the run .*{name}"):
        checkpoint.check_unchanged()


@pytest.mark.parametrize("dtype", ["F72", "f32", "../../x", "", 5, None, ["F32"]], ids=repr)
def test_a_dtype_that_the_format_has_not_is_damage(tmp_path: Path, dtype: Any) -> None:
    text = json.dumps({"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, 4]}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(CheckpointError, match=r"a has the dtype .*, which safetensors has not"):
        read_header(file)


@pytest.mark.parametrize("beside", ["x", 5, ["a"], {"format": 5}, {"format": {}}], ids=repr)
def test_metadata_that_safetensors_refuses_is_damage(tmp_path: Path, beside: Any) -> None:
    text = json.dumps({"__metadata__": beside, "a": ONE}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(safetensors.SafetensorError):
        safetensors.torch.load_file(file)
    with pytest.raises(CheckpointError, match="__metadata__ is no table of texts"):
        read_header(file)
