"""`optipfair prune --recipe`: what was done, done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from optipfair import PruningPlan
from optipfair.files.written_files import FILES

Run = Callable[..., tuple[int, str, str]]
Refuses = Callable[..., None]

TEXT = "The quick brown fox jumps over the lazy dog. " * 200
WAYS = [
    ("--pruning-percentage", 50),
    ("--pruning-type", "DEPTH", "--layer-indices", "0,2", "--dtype", "bfloat16"),
    ("--preset", "quality", "--calibration", "text", "--calibration-length", 32, "--seed", 7),
    ("--method", "RANDOM", "--seed", 3, "--max-shard-size", "10KB"),
]


def weights(folder: Path) -> dict[str, bytes]:
    """All files but the card, which names the command, and the list of files, which hashes it."""
    files = [path for path in folder.iterdir() if path.name not in ("README.md", FILES)]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_recipe_gives_the_same_bits_again(
    llama_folder: Path, tmp_path: Path, run: Run, way: tuple[object, ...]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    given = [text if each == "text" else each for each in way]
    first, again = tmp_path / "first", tmp_path / "again"
    assert run("prune", "--model-path", llama_folder, "--output-path", first, *given)[0] == 0
    assert run("prune", "--recipe", first / "recipe.yaml", "--output-path", again)[0] == 0
    assert weights(first) == weights(again)


def test_the_batch_size_of_calibration_changes_no_choice(
    llama_folder: Path, tmp_path: Path, run: Run
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    draw = ("--preset", "quality", "--calibration", text, "--calibration-length", 32)
    for size in (1, 64):
        command = ("prune", "--model-path", llama_folder, "--output-path", tmp_path / f"{size}")
        assert run(*command, *draw, "--calibration-batch-size", size)[0] == 0
    one, other = (PruningPlan.load(tmp_path / n / "pruning_plan.json") for n in ("1", "64"))
    assert one.width_cuts == other.width_cuts
    assert one.request["calibration"] == other.request["calibration"]


def test_options_beside_a_recipe_replace_its_values(
    llama_folder: Path, tmp_path: Path, run: Run
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"model_path: {llama_folder}\npruning_percentage: 50\nseed: 1\n")
    code, _, _ = run(
        *("prune", "--recipe", recipe, "--output-path", tmp_path / "out"),
        *("--pruning-percentage", 25, "--method", "VOW"),
    )
    assert code == 0
    written = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert (written["pruning_percentage"], written["seed"]) == (25.0, 1)
    assert written["neuron_selection_method"] == "VOW"


def test_wrong_recipes_are_refused(llama_copy: Path, tmp_path: Path, refuses: Refuses) -> None:
    recipe, command = tmp_path / "mine.yaml", ("prune", "--output-path", tmp_path / "out")
    refuses("The recipe .*mine.yaml cannot be read", *command, "--recipe", recipe)
    recipe.write_text(f"model_path: {llama_copy}\npruning_percentag: 50\n")
    refuses("line 2: Unknown name 'pruning_percentag'. Did", *command, "--recipe", recipe)
    recipe.write_text("pruning_percentage: 50\n")
    refuses("Missing option '--model-path'. A recipe may", *command, "--recipe", recipe)
    recipe.write_text(f"model_path: {llama_copy}\npreset: quality\n")
    without = ("--calibration", "none")
    refuses("method='AUTO' needs calibration", *command, "--recipe", recipe, *without)
    recipe.write_text(f"model_path: {llama_copy}\npruning_percentage: much\n")
    refuses("pruning_percentage='much' is no finite number", *command, "--recipe", recipe)
    recipe.write_text(f"model_path: {llama_copy}\npreset: qualty\n")
    refuses("Unknown preset 'qualty'. Did you mean 'quality'", *command, "--recipe", recipe)
    recipe.write_text(f"model_path: {llama_copy}\ntrust_remote_code: 'false'\n")
    refuses("trust_remote_code='false' is neither True nor False", *command, "--recipe", recipe)
