"""`optipfair prune` without a method: data choose, and weights alone where data cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from optipfair import PruningPlan
from optipfair.files.written_files import FILES
from optipfair.testing import byte_tokenizer, tiny_model

Run = Callable[..., tuple[int, str, str]]
Refuses = Callable[..., None]

AGAIN = ("prune", "--output-path")
LITTLE = ("--calibration-samples", 8, "--calibration-length", 32)
TEXT = "The quick brown fox jumps over the lazy dog. " * 200
WEIGHTS = "Calibration text cannot be used, so weights alone choose: "
KINDS: dict[str, tuple[tuple[object, ...], dict[str, Any]]] = {
    "MLP_GLU": (
        ("--pruning-percentage", 50),
        {"neuron_selection_method": "AUTO", "compensate": True, "nearest_multiple": 32},
    ),
    "ATTENTION": (
        ("--pruning-percentage", 50),
        {"neuron_selection_method": "AUTO", "compensate": True},
    ),
    "DEPTH": (
        ("--num-layers-to-remove", 1),
        {"layer_selection_method": "auto", "compensate": True},
    ),
    "BOTH": (
        ("--pruning-percentage", 50, "--num-layers-to-remove", 1),
        {"layer_selection_method": "auto", "neuron_selection_method": "AUTO"},
    ),
}


@pytest.fixture
def prune(run_as_given: Run, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Prune a folder into `out` with little text; return the JSON."""

    def call(model: Path, *arguments: object, output: str = "out") -> dict[str, Any]:
        paths = ("--model-path", model, "--output-path", tmp_path / output)
        code, out, err = run_as_given("prune", *paths, "--json", *arguments)
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    return call


def recipe(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "recipe.yaml").read_text())
    return found


def saved(folder: Path, family: str = "llama", *, tokenizer: bool = True, **fields: Any) -> Path:
    tiny_model(family, **fields).save_pretrained(folder)
    if tokenizer:
        byte_tokenizer().save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, bytes]:
    """All files but the card, which names the command, and the list of files, which hashes it."""
    files = [path for path in folder.iterdir() if path.name not in ("README.md", FILES)]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", KINDS)
def test_data_choose_by_default_and_the_recipe_does_it_again(
    llama_folder: Path, tmp_path: Path, prune: Callable[..., dict[str, Any]], run: Run, kind: str
) -> None:
    amount, expected = KINDS[kind]
    found = prune(llama_folder, "--pruning-type", kind, *amount, *LITTLE)
    request = found["plan"]["request"]
    assert request.items() >= expected.items()
    assert request["calibration"].items() >= {"source": "builtin", "samples": 8}.items()
    assert found["cost"]["perplexity_ratio"] > 0
    assert found["warnings"] == []
    out, again = tmp_path / "out", tmp_path / "again"
    assert recipe(out)["calibration"] == "builtin"
    assert "by least squares" in (out / "README.md").read_text()
    assert run("prune", "--recipe", out / "recipe.yaml", "--output-path", again)[0] == 0
    assert weights(out) == weights(again)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--method", "AUTO"),
        ("--preset", "quality"),
        ("--calibration", "builtin"),
        ("--preset", "quality", "--calibration", "builtin", "--nearest-multiple", 32),
    ],
    ids=str,
)
def test_saying_a_part_of_it_says_the_same(
    llama_folder: Path,
    tmp_path: Path,
    prune: Callable[..., dict[str, Any]],
    arguments: tuple[object, ...],
) -> None:
    prune(llama_folder, *LITTLE)
    prune(llama_folder, *LITTLE, *arguments, output="other")
    assert weights(tmp_path / "out") == weights(tmp_path / "other")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--calibration", "none"),
        ("--method", "MAW"),
        ("--method", "PPM", "--calibration", "none"),
        ("--method", "VOW"),
        ("--pruning-type", "DEPTH", "--num-layers-to-remove", 1, "--calibration", "none"),
        ("--pruning-type", "DEPTH", "--layer-indices", 1, "--no-compensate"),
    ],
    ids=str,
)
def test_weights_alone_choose_where_they_are_asked_to(
    llama_folder: Path,
    tmp_path: Path,
    prune: Callable[..., dict[str, Any]],
    run: Run,
    arguments: tuple[object, ...],
) -> None:
    found = prune(llama_folder, *arguments)
    assert "calibration" not in found["plan"]["request"]
    assert found["cost"] is None
    assert found["warnings"] == []
    again = tmp_path / "again"
    assert (
        run("prune", "--recipe", tmp_path / "out" / "recipe.yaml", "--output-path", again)[0] == 0
    )
    assert weights(tmp_path / "out") == weights(again)


def test_a_text_without_a_method_is_what_data_choose_on(
    llama_folder: Path, tmp_path: Path, prune: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "mine.txt").write_text(TEXT)
    text = ("--calibration", tmp_path / "mine.txt", *LITTLE)
    request = prune(llama_folder, *text)["plan"]["request"]
    assert (request["neuron_selection_method"], request["compensate"]) == ("AUTO", True)
    request = prune(llama_folder, *text, "--method", "PPM", output="hybrid")["plan"]["request"]
    assert (request["neuron_selection_method"], request["compensate"]) == ("PPM", False)
    assert request["data_driven"] and "nearest_multiple" not in request


@pytest.mark.parametrize(
    ("width", "arguments", "kept"),
    [
        (128, (), 96),  # 88 stay, as near to 96 as to 64
        (120, (), 84),
        (128, ("--nearest-multiple", 1), 90),
        (128, ("--expansion-divisor", 64), 64),
        (128, ("--method", "MAW"), 90),
        (128, ("--calibration", "none"), 90),
    ],
    ids=str,
)
def test_kept_widths_are_the_nearest_multiple_of_32_where_the_width_is_one(
    tmp_path: Path,
    prune: Callable[..., dict[str, Any]],
    width: int,
    arguments: tuple[object, ...],
    kept: int,
) -> None:
    model = saved(tmp_path / "model", intermediate_size=width)
    text = () if {"MAW", "none"} & set(arguments) else LITTLE
    found = prune(model, "--pruning-percentage", 30, *text, *arguments)
    assert found["plan"]["widths"] == {"mlp": [kept]}


def without_tokenizer(folder: Path) -> None:
    saved(folder, tokenizer=False)


def of_few_ids(folder: Path) -> None:
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    saved(folder, vocab_size=100, **special)


def of_a_broken_tokenizer(folder: Path) -> None:
    saved(folder)
    (folder / "tokenizer.json").write_text("{}")


def of_other_words(folder: Path) -> None:
    """Its tokenizer knows two words, and none of the text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"ba": 0, "bu": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    saved(folder, tokenizer=False)
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)


UNUSABLE: list[tuple[Callable[[Path], None], str]] = [
    (without_tokenizer, "The model has no tokenizer"),
    (of_few_ids, "The calibration data hold token id"),
    (of_a_broken_tokenizer, "The tokenizer cannot be read"),
    (of_other_words, "The tokenizer makes token id 2 of 100 % of the bundled text"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("make", "why"), UNUSABLE, ids=lambda value: getattr(value, "__name__", "")
)
def test_where_the_text_cannot_be_used_weights_choose_and_a_warning_names_why(
    tmp_path: Path,
    prune: Callable[..., dict[str, Any]],
    run: Run,
    make: Callable[[Path], None],
    why: str,
    kind: str,
) -> None:
    make(tmp_path / "model")
    amount, _ = KINDS[kind]
    found = prune(tmp_path / "model", "--pruning-type", kind, *amount)
    assert found["warnings"][-1].startswith(WEIGHTS + why)
    assert not [each for each in found["warnings"] if "makes up" in each]
    assert "calibration" not in found["plan"]["request"]
    assert found["plan"]["request"].get("layer_selection_method", "last") == "last"
    card = (tmp_path / "out" / "README.md").read_text()
    assert WEIGHTS in card.replace("\n", " ")
    asked = ("--pruning-type", kind, *amount, "--calibration", "none")
    again, same = tmp_path / "again", prune(tmp_path / "model", *asked, output="asked")
    assert same["plan"]["digest"] == found["plan"]["digest"]
    assert weights(tmp_path / "asked") == weights(tmp_path / "out")
    assert (
        run("prune", "--recipe", tmp_path / "out" / "recipe.yaml", "--output-path", again)[0] == 0
    )
    assert weights(tmp_path / "out") == weights(again)


@pytest.mark.parametrize(
    "asked",
    [("--method", "AUTO"), ("--preset", "quality"), ("--calibration", "builtin")],
    ids=str,
)
def test_what_was_asked_for_is_refused_where_it_cannot_be_done(
    tmp_path: Path,
    run_as_given: Run,
    untouched: Callable[..., Any],
    asked: tuple[str, ...],
) -> None:
    model = saved(tmp_path / "model", tokenizer=False)
    paths = ("--model-path", model, "--output-path", tmp_path / "out")
    with untouched(tmp_path):
        code, out, err = run_as_given("prune", *paths, *asked)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("Error: The model has no tokenizer")
    assert "(--calibration none" in err


@pytest.mark.parametrize("file", ["none", "unknown"])
def test_a_gguf_file_without_a_usable_tokenizer_is_pruned_by_its_weights(
    tmp_path: Path,
    prune: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
) -> None:
    gguf_files = pytest.importorskip("support.gguf_files")

    def add(writer: Any, size: int) -> None:
        if file == "unknown":
            writer.add_tokenizer_model("of another kind")
            writer.add_token_list(["x"] * size)

    monkeypatch.setattr(gguf_files, "_add_tokenizer", add)
    gguf_files.gguf_toy(tmp_path / "toy.gguf", "llama")
    found = prune(tmp_path / "toy.gguf")
    first, second = found["warnings"]
    assert first.startswith("No tokenizer is written, since that of the file cannot be read: ")
    assert second.startswith(WEIGHTS + "The model has no tokenizer")
    assert not found["has_tokenizer"]


def test_layers_that_nothing_can_make_up_for_are_chosen_by_data_and_only_removed(
    tmp_path: Path, prune: Callable[..., dict[str, Any]], run: Run
) -> None:
    depth = ("--pruning-type", "DEPTH", "--num-layers-to-remove", 1, *LITTLE)
    found = prune(saved(tmp_path / "model", "mamba"), *depth)
    (warning,) = found["warnings"]
    assert warning.startswith("Nothing makes up for the layers that go: Layer ")
    assert found["plan"]["request"]["layer_selection_method"] == "auto"
    assert "replaced_blocks" not in found["plan"]["request"]
    assert recipe(tmp_path / "out")["compensate"] is False
    assert run(*AGAIN, tmp_path / "again", "--recipe", tmp_path / "out" / "recipe.yaml")[0] == 0
    assert weights(tmp_path / "out") == weights(tmp_path / "again")


def test_where_neurons_go_too_it_is_said_that_weights_choose_them(
    tmp_path: Path, prune: Callable[..., dict[str, Any]]
) -> None:
    model = saved(tmp_path / "model", tokenizer=False)
    both = ("--pruning-type", "BOTH", "--layer-indices", 1, "--pruning-percentage", 50)
    assert prune(model, *both)["warnings"][-1].startswith(WEIGHTS)


def test_layers_that_are_named_need_no_text_where_nothing_can_make_up_for_them(
    tmp_path: Path, prune: Callable[..., dict[str, Any]]
) -> None:
    model = saved(tmp_path / "model", "gemma2")
    found = prune(model, "--pruning-type", "DEPTH", "--layer-indices", "1,2", *LITTLE)
    assert found["warnings"][0].startswith("Nothing makes up for the layers that go: Layer 0 of")
    assert found["plan"]["layers_removed"] == [1, 2]


def test_a_recipe_that_says_how_to_choose_does_what_it_did(
    llama_folder: Path, tmp_path: Path, prune: Callable[..., dict[str, Any]], run_as_given: Run
) -> None:
    mine = tmp_path / "mine.yaml"
    told = ("prune", "--recipe", mine, "--output-path")
    (tmp_path / "mine.txt").write_text(TEXT)
    head = f"model_path: {llama_folder}\npruning_percentage: 50\n"
    mine.write_text(head + "neuron_selection_method: MAW\n")
    assert run_as_given(*told, tmp_path / "static")[0] == 0
    assert "calibration" not in recipe(tmp_path / "static")
    drawn = f"calibration: {tmp_path / 'mine.txt'}\ncalibration_length: 32\n"
    for name, old in (("hybrid", "MAW"), ("preset", "AUTO")):
        mine.write_text(head + drawn + ("preset: quality\n" if name == "preset" else ""))
        assert run_as_given(*told, tmp_path / name)[0] == 0
        assert recipe(tmp_path / name)["neuron_selection_method"] == old
        assert "nearest_multiple" not in recipe(tmp_path / name)


def test_a_recipe_that_does_not_say_how_is_as_the_command_line(
    llama_folder: Path, tmp_path: Path, prune: Callable[..., dict[str, Any]], run_as_given: Run
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"model_path: {llama_folder}\npruning_percentage: 50\n")
    command = ("prune", "--recipe", mine, "--output-path", tmp_path / "recipe", *LITTLE)
    assert run_as_given(*command)[0] == 0
    found = prune(llama_folder, "--pruning-percentage", 50, *LITTLE)
    plan = PruningPlan.load(tmp_path / "recipe" / "pruning_plan.json")
    assert plan.digest == found["plan"]["digest"]


def test_a_plan_says_all(llama_folder: Path, tmp_path: Path, run_as_given: Run) -> None:
    plan = tmp_path / "plan.json"
    command = ("prune", "--model-path", llama_folder)
    code, out, _ = run_as_given(*command, *LITTLE, "--save-plan", plan)
    assert code == 0
    assert "Neurons were chosen by AUTO" in out
    code, out, err = run_as_given(*command, "--plan", plan, "--output-path", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "easured: " not in out
    assert PruningPlan.load(tmp_path / "out" / "pruning_plan.json").digest == (
        PruningPlan.load(plan).digest
    )


def test_a_model_that_cannot_be_pruned_is_refused_in_its_own_words(
    tmp_path: Path, run_as_given: Run
) -> None:
    paths = ("--model-path", saved(tmp_path / "m", "bloom"), "--output-path", tmp_path / "out")
    code, _, err = run_as_given("prune", *paths)
    assert code == 2
    assert err.splitlines()[-1].startswith("Error: Cannot prune the MLP width of 'bloom'")
    assert "Calibration text" not in err


def test_the_help_says_what_the_default_does_and_how_to_leave_it(run_as_given: Run) -> None:
    shown = " ".join(run_as_given("prune", "--help")[1].split())
    assert "text that ships with OptiPFair runs through the model and decides what goes" in shown
    assert "How long that will take is said before it begins" in shown
    assert "Weights alone choose with --calibration none" in shown


@pytest.mark.parametrize("kind", ["DEPTH", "BOTH"])
def test_a_model_larger_than_memory_has_its_layers_chosen_one_at_a_time(
    kind: str,
    llama_folder: Path,
    tmp_path: Path,
    prune: Callable[..., dict[str, Any]],
    refuses: Refuses,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("optipfair.pipeline.run.free_bytes", lambda _device: 1000)
    options, wanted = KINDS[kind]
    asked = ("--pruning-type", kind, *options, *LITTLE)
    found = prune(llama_folder, *asked)
    assert found["streamed"]
    (said,) = [each for each in found["warnings"] if "one at a time" in each]
    assert said.startswith("Layers are chosen by 'block_influence', one at a time: The model takes")
    made = recipe(tmp_path / "out")
    assert made["layer_selection_method"] == "block_influence"
    assert made.get("compensate") == wanted.get("compensate")
    paths = ("--model-path", llama_folder, "--output-path", tmp_path / "refused")
    refuses(
        r"The model takes .* GB are free, and it would have to be loaded whole, since layers are "
        r"chosen by 'auto'\. Choose layers by 'block_influence'",
        *("prune", *paths, *asked, "--layer-selection-method", "auto", "--calibration", "builtin"),
    )
