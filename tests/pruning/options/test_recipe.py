"""Recipes: written, read again, and refused with the line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from optipfair import ArgumentError
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.pruning.options.recipe import read_recipe, recipe_text

ASKED = [
    PruneOptions(),
    PruneOptions("DEPTH", layer_indices=(2, 5), compensate=True, calibration="some text: #1.txt"),
    PruneOptions(pruning_percentage=12.5, target_size="2GB", sequential=False, verify=False),
    PruneOptions(calibration="yes", dtype="bfloat16", seed=2**64 - 1, max_shard_size=10**9),
]


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("options", ASKED, ids=str)
def test_a_recipe_is_read_as_it_was_written(tmp_path: Path, options: PruneOptions) -> None:
    values = read_recipe(write(tmp_path, recipe_text("org/name", options)))
    assert values.pop("model_path") == "org/name"
    indices = values.pop("layer_indices", None)
    assert indices == (None if options.layer_indices is None else list(options.layer_indices))
    expected = options.not_default()
    expected.pop("layer_indices", None)
    assert values.items() >= expected.items()
    assert PruneOptions(**values, layer_indices=options.layer_indices) == options


def test_numbers_of_arrays_are_written_as_numbers(tmp_path: Path) -> None:
    options = PruneOptions(layer_indices=np.array([1, 3]), num_layers_to_remove=np.int64(2))  # type: ignore[arg-type]
    values = read_recipe(write(tmp_path, recipe_text("demo", options)))
    assert (values["layer_indices"], values["num_layers_to_remove"]) == ([1, 3], 2)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("seed: 1\npruning_percentag: 20", r"line 2: .*Did you mean 'pruning_percentage'"),
        ("seed: 1\n\nseed: 2", "line 3: 'seed' stands twice"),
        ("seed: {a: 1}", "line 1: seed is no text, number"),
        ("layer_indices: [[1], {a: 2}]", "line 1: layer_indices is no text"),
        ("seed: 2026-01-01", "line 1: seed is no text, number"),
        ("seed: !!python/object:os.system x", "line 1: seed cannot be read"),
        ("[1, 2]", "holds no names with values"),
        ("", "holds no names with values"),
        ("seed: [1", "cannot be read"),
        ("? {a: b}\n: 1", "line 1: Unknown name"),
        ("[" * 5000, "cannot be read"),
        ("a" * (10**6 + 1), "bytes, more than"),
        ("given_in_python: [dataloader]", "made in Python with dataloader, which no file can hold"),
    ],
    ids=lambda text: str(text)[:20],
)
def test_bad_recipes_are_refused(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        read_recipe(write(tmp_path, text))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / "bytes"):
        with pytest.raises(ArgumentError, match="cannot be read"):
            read_recipe(path)


def test_aliases_do_not_grow(tmp_path: Path) -> None:
    bomb = "a: &a [1,1]\n" + "\n".join(
        f"{b}: &{b} [*{a},*{a}]" for a, b in zip("abcdef", "bcdefg", strict=True)
    )
    with pytest.raises(ArgumentError, match="line 1: Unknown name"):
        read_recipe(write(tmp_path, bomb))
