"""`visualize_bias` and its kin: files, and refusals before anything runs."""

from __future__ import annotations

import json
import struct
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from jsonschema import Draft202012Validator

from optipfair import (
    PruningWarning,
    visualize_bias,
    visualize_heatmap,
    visualize_mean_differences,
    visualize_pca,
)
from optipfair.errors import ArgumentError, DataError, OutputError, UnknownNameError
from optipfair.testing import byte_tokenizer, tiny_model

PAIR = ("The tall man slept.", "The small woman slept.")
TWO = [PAIR, ("A dog ran", "A dog ran")]
SCHEMA = json.loads(files("optipfair.bias").joinpath("bias_metrics.schema.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
QUICK = {"components": ["mlp_output", "up_proj"], "controls": 0, "show_progress": False}
Function = Callable[..., Any]
# Each function with what it needs, and the names of the files it makes.
SINGLE: list[tuple[Function, dict[str, Any], str]] = [
    (visualize_mean_differences, {"layer_type": "up_proj"}, "mean_diff_up_proj_pair_1"),
    (visualize_heatmap, {"layer_key": "up_proj_layer_1"}, "heatmap_up_proj_layer_1_pair_1"),
    (visualize_pca, {"layer_key": "up_proj_layer_1"}, "pca_up_proj_layer_1_pair_1"),
]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama")


@pytest.fixture(autouse=True)
def no_pyplot(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No figure is registered, no window opens."""
    monkeypatch.setattr(plt, "show", lambda *_: pytest.fail("a window opens"))
    before = plt.get_fignums()
    yield
    assert plt.get_fignums() == before


@contextmanager
def never_running(model: Any) -> Iterator[None]:
    handle = model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    base = model.base_model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    yield
    handle.remove()
    base.remove()


def run(model: Any, pairs: Any = None, **keywords: Any) -> dict[str, Any]:
    nothing, found = visualize_bias(model, byte_tokenizer(), pairs, **{**QUICK, **keywords})
    assert nothing is None
    return found


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in the header of a PNG."""
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    return width, height


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_files_have_predictable_names(model: Any, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "new" / "folder"
    found = run(model, TWO, output_dir=folder, figure_format=kind, layers=[0], dpi=30)
    made = [
        f"{name}_pair_{i}.{kind}"
        for i in (1, 2)
        for name in (
            *("mean_diff", "heatmap_mlp_output", "heatmap_up_proj"),
            *("pca_mlp_output", "pca_up_proj"),
        )
    ]
    assert sorted(path.name for path in folder.iterdir()) == sorted(["bias_metrics.json", *made])
    begins = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[kind]
    assert all((folder / name).read_bytes().startswith(begins) for name in made)
    text = (folder / "bias_metrics.json").read_text("utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == found


def test_what_is_drawn_is_chosen(model: Any, tmp_path: Path) -> None:
    run(model, [PAIR], output_dir=tmp_path, visualization_types=["heatmap"], layers=[1])
    assert {path.name for path in tmp_path.glob("*.png")} == {
        *("heatmap_mlp_output_pair_1.png", "heatmap_up_proj_pair_1.png")
    }
    some = run(model, [PAIR], visualization_types=[], layers=[1])
    assert some == run(model, [PAIR], visualization_types=[], layers="all")  # all layers measured


def test_the_summary_is_two_figures_of_all_pairs(model: Any, tmp_path: Path) -> None:
    run(model, None, output_dir=tmp_path, visualization_types=["summary"], controls=2)
    names = {"summary_by_layer.png", "summary_by_category.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == names
    both = ["mean_diff", "summary", "mean_diff"]
    run(model, [PAIR], output_dir=tmp_path, visualization_types=both, controls=2)
    assert {path.name for path in tmp_path.glob("*.png")} == names | {"mean_diff_pair_1.png"}


def test_without_controls_there_is_no_summary_to_draw(model: Any, tmp_path: Path) -> None:
    run(model, [PAIR], output_dir=tmp_path, visualization_types=["summary"], controls=0)
    assert [path.name for path in tmp_path.iterdir()] == ["bias_metrics.json"]


@pytest.mark.parametrize(("function", "needs", "name"), SINGLE)
def test_single_figures_are_saved(
    model: Any, tmp_path: Path, function: Function, needs: dict[str, Any], name: str
) -> None:
    common: dict[str, Any] = {**needs, "output_dir": str(tmp_path), "controls": 2}
    assert function(model, byte_tokenizer(), PAIR, **common) is None
    function(model, byte_tokenizer(), PAIR, pair_index=4, figure_format="svg", **common)
    names = {f"{name}.png", f"{name.removesuffix('1')}5.svg"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_style_reaches_the_files(model: Any, tmp_path: Path) -> None:
    style: dict[str, Any] = {"figsize": (6, 5), "dpi": 40, "cmap": "PuOr", "title": "Just mine"}
    run(model, [PAIR], output_dir=tmp_path, layers=[0], **style)
    for function, needs, _ in SINGLE:
        function(model, byte_tokenizer(), PAIR, output_dir=tmp_path, controls=0, **needs, **style)
    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == 8
    assert {size_of(path) for path in pictures} == {(240, 200)}
    with plt.rc_context({"svg.fonttype": "none"}):
        run(model, [PAIR], output_dir=tmp_path, layers=[0], figure_format="svg", **style)
    assert all("Just mine" in path.read_text("utf-8") for path in tmp_path.glob("*.svg"))


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"colour": "red"}, UnknownNameError, "Unknown keyword 'colour'"),
    ({"visualization_types": ["heatmaps"]}, UnknownNameError, "Did you mean 'heatmap'"),
    ({"visualization_types": "pca"}, ArgumentError, "no list"),
    ({"visualization_types": 3}, ArgumentError, "no list"),
    ({"components": ["mlp_outputs"]}, UnknownNameError, "Did you mean 'mlp_output'"),
    ({"components": []}, ArgumentError, "no list of components"),
    ({"components": "mlp_output"}, ArgumentError, "no list of components"),
    ({"components": 5}, ArgumentError, "no list of components"),
    ({"layers": "firsts"}, UnknownNameError, "layer selection"),
    ({"layers": "0,1"}, UnknownNameError, "Or give a list of layer numbers"),
    ({"layer": [0]}, UnknownNameError, "Did you mean 'layers'"),
    ({"seed": 1.5}, ArgumentError, "seed=1.5 is no whole number"),
    ({"seed": "x"}, ArgumentError, "seed='x' is no whole number"),
    ({"output_dir": ""}, ArgumentError, "output_dir='' is no folder"),
    ({"output_dir": 3}, ArgumentError, "output_dir=3 is no folder"),
    ({"layers": [0, 4]}, ArgumentError, "layers 0 to 3"),
    ({"layers": []}, ArgumentError, "no list of layer numbers"),
    ({"figure_format": "jpg"}, UnknownNameError, "figure format"),
    ({"cmap": "virids"}, UnknownNameError, "Did you mean 'viridis'"),
    ({"cmap": "virids", "visualization_types": []}, UnknownNameError, "viridis"),
    ({"dpi": 0}, ArgumentError, "dpi"),
    ({"figsize": 3}, ArgumentError, "figsize"),
    ({"controls": -1}, ArgumentError, "controls"),
    ({"controls": True}, ArgumentError, "controls"),
    ({"controls": 2, "control_words": ["one"]}, ArgumentError, "at least two"),
    ({"prompt_pairs": []}, ArgumentError, "empty"),
    ({"prompt_pairs": [("x", " ")]}, ArgumentError, "empty"),
    ({"prompt_pairs": PAIR}, ArgumentError, "two prompts"),
    ({"tokenizer": None}, ArgumentError, "tokenizer"),
    ({"prompt_pairs": [("a" * 500, "b")], "model": tiny_model("gpt2")}, DataError, "128 positions"),
    ({"prompt_pairs": [("a" * 10**5, "b")], "model": tiny_model("llama")}, DataError, "8192 are"),
    ({"prompt_pairs": [("a" * 10**5, "b")], "model": tiny_model("bloom")}, DataError, "8192 are"),
    ({"tokenizer": "wide"}, DataError, "does not match the model"),
    (
        {"model": tiny_model("gpt2"), "components": ["gate_proj"]},
        ArgumentError,
        "No layer has gate",
    ),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), WRONG)
def test_wrong_arguments_are_refused_before_anything_runs(
    model: Any, tmp_path: Path, wrong: dict[str, Any], kind: type[Exception], message: str
) -> None:
    given = {
        **QUICK,
        "prompt_pairs": [PAIR],
        "tokenizer": byte_tokenizer(),
        "model": model,
        **wrong,
    }
    if given["tokenizer"] == "wide":
        given["tokenizer"] = byte_tokenizer()
        given["tokenizer"].add_tokens([f"tall{i}" for i in range(50)] + [" man"])
    folder = tmp_path / "out"
    with never_running(given["model"]), pytest.raises(kind, match=message) as caught:
        visualize_bias(**{"output_dir": str(folder), **given})
    assert isinstance(caught.value, ValueError)
    assert list(tmp_path.iterdir()) == []


SINGLE_WRONG: list[tuple[int, dict[str, Any], str]] = [
    (0, {"layer_type": "mlp"}, "Unknown component 'mlp'"),
    (0, {"layers": [9]}, "layers 0 to 3"),
    (1, {"layer_key": "up_proj"}, "is no layer key"),
    (1, {"layer_key": "up_proj_layer_4"}, "layers 0 to 3"),
    (2, {"layer_key": "upproj_layer_1"}, "Did you mean 'up_proj'"),
    *((i, {"pair_index": -1}, "pair_index") for i in range(3)),
    *((i, {"components": ["mlp_output"]}, "components") for i in range(3)),
    *((i, {"titel": "x"}, "Did you mean 'title'") for i in range(3)),
    *((i, {"figure_format": "gif"}, "figure format") for i in range(3)),
    *((i, {"prompt_pair": "one text"}, "prompt_pair is one str") for i in range(3)),
    *((i, {"prompt_pair": [PAIR]}, "prompt_pair is 1 element. A pair is two") for i in range(3)),
    *((i, {"prompt_pair": ("a", " ")}, "prompt_pair: prompt2 is empty") for i in range(3)),
    (2, {"highlight_dif": True}, "Did you mean 'highlight_diff'"),
]


@pytest.mark.parametrize(("place", "wrong", "message"), SINGLE_WRONG)
def test_single_figures_refuse_wrong_arguments(
    model: Any, tmp_path: Path, place: int, wrong: dict[str, Any], message: str
) -> None:
    function, needs, _ = SINGLE[place]
    given = {"prompt_pair": PAIR, **needs, **wrong, "output_dir": tmp_path / "out"}
    with never_running(model), pytest.raises(ArgumentError, match=message):
        function(model, byte_tokenizer(), **given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("function", "needs", "_name"), SINGLE)
def test_a_component_that_is_not_there_is_refused(
    tmp_path: Path, function: Function, needs: dict[str, Any], _name: str
) -> None:
    lacking = tiny_model("qwen3_moe")  # some of its layers are dense
    with never_running(lacking), pytest.raises(ArgumentError, match="experts of its own"):
        function(lacking, byte_tokenizer(), PAIR, output_dir=tmp_path / "out", **needs)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        with never_running(model), pytest.raises(OutputError, match="cannot be written"):
            run(model, [PAIR], output_dir=folder)
    monkeypatch.setattr("tempfile._os.mkdir", _denied)
    with never_running(model), pytest.raises(OutputError, match=r"Permission denied.*Choose"):
        run(model, [PAIR], output_dir=tmp_path / "new")
    monkeypatch.undo()
    monkeypatch.setattr(Path, "write_text", _denied)
    with pytest.raises(OutputError, match="cannot be written"):
        run(model, [PAIR], output_dir=tmp_path, visualization_types=[])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _denied(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_an_error_of_the_model_leaves_everything_as_it_was(
    tmp_path: Path,
    unchanged: Callable[[Any], AbstractContextManager[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken: Any = tiny_model("llama").train()
    monkeypatch.setattr(broken.model.layers[3].mlp, "forward", _out_of_memory)
    with unchanged(broken), pytest.raises(torch.OutOfMemoryError) as caught:
        run(broken, [PAIR], output_dir=tmp_path / "out")
    assert "fewer controls" in str(caught.value.__notes__)
    assert list(tmp_path.iterdir()) == []


def _out_of_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("no room")


ODD = [
    ("The $x_1$ man \\alpha", "The $x^2 woman { \\frac"),
    ("a\tb\nc man", "a\tb\nd man"),
    ("very " * 90 + "tall", "very " * 85 + "tiny " * 6 + "x" * 40),
    ("x", "y"),
]


@pytest.mark.parametrize("pair", ODD)
def test_odd_prompts_are_drawn(
    model: Any,
    tmp_path: Path,
    pair: tuple[str, str],
    unchanged: Callable[[Any], AbstractContextManager[None]],
) -> None:
    with unchanged(model):
        found = run(
            model, [pair], output_dir=tmp_path, layers=[1, 2], controls=2, components=["up_proj"]
        )
    assert len(list(tmp_path.glob("*.png"))) == 3
    assert (found["pair_1"]["prompt1"], found["pair_1"]["prompt2"]) == pair
    assert json.loads((tmp_path / "bias_metrics.json").read_text("utf-8")) == found
    VALIDATOR.validate(found)


class Slow:
    """A tokenizer that does not say where its tokens lie."""

    is_fast = False

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        assert not options.get("return_offsets_mapping")
        return byte_tokenizer()(text, return_special_tokens_mask=True)  # type: ignore[no-any-return]


def test_a_tokenizer_without_offsets_aligns_by_ids_alone(model: Any, tmp_path: Path) -> None:
    pair = ("A dog ran", "A cat ran")
    slow: Any = Slow()
    _, found = visualize_bias(model, slow, [pair], output_dir=str(tmp_path), layers=[1], **QUICK)
    coverage = found["pair_1"]["coverage"]
    # Of nine characters the first is left out, and three differ: pooled, as they are no words here.
    assert (coverage["aligned"], coverage["pooled1"], coverage["pooled2"]) == (5, 3, 3)
    assert len(list(tmp_path.glob("*.png"))) == 5
    VALIDATOR.validate(found)


def test_a_pair_of_equal_prompts_is_drawn_and_said_to_be_one(model: Any, tmp_path: Path) -> None:
    same = ("The same man", "The same man")
    found = run(model, [same], output_dir=tmp_path, layers=[1, 3], controls=2)
    assert found["summary"]["notes"] == ["pair_1: both prompts are the same, so nothing can differ"]
    assert found["pair_1"]["metrics"]["overall_metrics"]["max"] == 0
    assert len(list(tmp_path.glob("*.png"))) == 5
    VALIDATOR.validate(found)


def test_figures_are_displayed_in_a_notebook_only(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[bytes] = []
    shells = iter([types.SimpleNamespace(kernel=1)] * 2 + [types.SimpleNamespace(), None] * 2)
    display = types.ModuleType("IPython.display")
    display.Image = lambda data: data  # type: ignore[attr-defined]
    display.display = shown.append  # type: ignore[attr-defined]
    notebook = types.ModuleType("IPython")
    notebook.get_ipython = lambda: next(shells)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    for _ in range(3):
        run(model, [PAIR], visualization_types=["heatmap"], layers=[0])  # two figures each
    assert len(shown) == 2 and all(data.startswith(b"\x89PNG") for data in shown)


def test_a_script_that_the_font_lacks_is_named_once(model: Any, tmp_path: Path) -> None:
    pair = ("Ünï — 中文 man", "Ünï — 中國 man")
    with pytest.warns(PruningWarning) as caught:
        run(model, [pair], output_dir=tmp_path, layers=[1], control_words=["a", "b", "c"])
    said = [str(each.message) for each in caught]
    assert len(said) == 1
    assert "DejaVu Sans lacks" in said[0]
    assert (
        "(Chinese), which is drawn as a box. Install a font that has it, such as 'Noto" in said[0]
    )
    assert list(tmp_path.glob("*.png"))


def test_a_notebook_shows_the_first_figures_and_says_where_the_others_are(
    model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown: list[bytes] = []
    display: Any = types.ModuleType("IPython.display")
    display.Image, display.display = (lambda data: data), shown.append
    notebook: Any = types.ModuleType("IPython")
    notebook.get_ipython = lambda: types.SimpleNamespace(kernel=1)
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    with pytest.warns(PruningWarning, match=f"first 6 of .* figures .*; all are in {tmp_path}"):
        run(model, [PAIR] * 4, output_dir=tmp_path, layers=[1])
    assert len(shown) == 6 < len(list(tmp_path.glob("*.png")))
