"""What is written of two models follows the published schema, and nothing else does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from optipfair import prune_model
from optipfair.bias import COMPONENTS
from optipfair.bias.prompts.pairs import DEFAULT_PROMPT_PAIRS, check_prompt_pairs
from optipfair.bias.settings import BiasFolder, BiasOptions, Settings
from optipfair.bias.study import Study
from optipfair.bias.study_by_name import run_bias
from optipfair.bias.study_comparison import compare_studies
from optipfair.bias.visualize import study_bias
from optipfair.testing import byte_tokenizer, tiny_model

SCHEMA = json.loads(
    files("optipfair.bias").joinpath("bias_comparison.schema.json").read_text("utf-8")
)
VALIDATOR = Draft202012Validator(SCHEMA)
PAIRS = [("A tall nurse", "A short nurse"), ("The red house stood", "The blue house stood")]
SIX = [*PAIRS, *DEFAULT_PROMPT_PAIRS[2:6]]  # enough for intervals


def study(model: Any, pairs: Any = PAIRS, controls: int = 2) -> Study:
    settings = Settings(components=("mlp_output", "gate_proj"), controls=controls)
    folder = BiasFolder(None, "png", {})
    return study_bias(
        model, byte_tokenizer(), check_prompt_pairs(pairs), [], "all", folder, settings
    ).study


def pruned() -> Any:
    return prune_model(tiny_model("llama"), pruning_percentage=30, show_progress=False)


def as_written(found: Any) -> Any:
    return json.loads(json.dumps(found, allow_nan=False))


def compared(first: Study, second: Study) -> Any:
    found = as_written(compare_studies(first, second))
    VALIDATOR.validate(found)
    return found


@pytest.fixture(scope="module")
def document() -> Any:
    return compared(study(tiny_model("llama"), SIX), study(pruned(), SIX))


def test_what_is_written_of_two_models_follows_the_schema(tmp_path: Path) -> None:
    for name, model in (("one", tiny_model("llama")), ("two", pruned())):
        model.save_pretrained(tmp_path / name)
        byte_tokenizer().save_pretrained(tmp_path / name)
    run = run_bias(
        tmp_path / "one",
        BiasOptions(
            components=list(COMPONENTS),
            controls=2,
            visualization_types=[],
            output_dir=tmp_path / "out",
            compare_with=tmp_path / "two",
        ),
    )
    written = json.loads((tmp_path / "out" / "bias_comparison.json").read_text("utf-8"))
    assert written == run.comparison
    assert set(written["components"]) == set(COMPONENTS)
    VALIDATOR.validate(written)


@pytest.mark.parametrize(
    ("pairs", "controls", "expected"),
    [
        (PAIRS, 0, {"compared": 0, "swaps": 0, "without_controls": 2, "in_one_only": 0}),
        (PAIRS[:1], 2, {"compared": 1, "swaps": 1, "without_controls": 0, "in_one_only": 1}),
        (
            [("Other", "Another")],
            2,
            {"compared": 0, "swaps": 0, "without_controls": 0, "in_one_only": 3},
        ),
    ],
)
def test_where_little_can_be_compared_it_follows_too(
    pairs: Any, controls: int, expected: dict[str, int]
) -> None:
    found = compared(study(tiny_model("llama")), study(pruned(), pairs, controls))
    assert found["pairs"] == expected
    rows = [found["overall"], *found["components"].values()]
    assert {row["paired"] is None for row in rows} == {not expected["compared"]}
    if expected["compared"]:
        assert found["overall"]["paired"]["interval"] is None  # of a single pair
        assert "too few" in found["overall"]["paired"]["undefined"]["p_value"]


def test_components_of_one_model_alone_follow_too() -> None:
    found = compared(study(tiny_model("llama")), study(tiny_model("gpt2")))
    assert found["in_one_only"] == ["gate_proj"]


def test_the_schema_is_one_and_names_every_component() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["components"]["propertyNames"]["enum"] == list(COMPONENTS)


def dicts(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        yield path
        for key, inner in value.items():
            yield from dicts(inner, (*path, key))


def changed(document: Any, path: tuple[str, ...], change: Callable[[Any], object]) -> Any:
    copied = target = copy.deepcopy(document)
    for key in path:
        target = target[key]
    change(target)
    return copied


def test_no_key_may_be_missing_or_added(document: Any) -> None:
    """But for components, which are those that both models have."""
    bad = [changed(document, path, lambda each: each.update(more=1)) for path in dicts(document)]
    for path in dicts(document):
        if path != ("components",):
            keys = list(_at(document, path))
            bad += [changed(document, path, lambda each, k=key: each.pop(k)) for key in keys]
    assert len(bad) > 50
    assert not [each for each in bad if VALIDATOR.is_valid(each)]


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


WRONG: list[tuple[tuple[str, ...], Any]] = [
    (("version",), 2),
    (("level",), 0.9),
    (("metric",), "l2"),
    (("models", "a", "layers"), 0),
    (("models", "b", "name"), None),
    (("pairs", "compared"), -1),
    (("pairs", "compared"), 1.5),
    (("overall", "paired"), None),
    (("overall", "a"), None),
    (("overall", "a", "difference"), -0.1),
    (("overall", "a", "excess"), "0.1"),
    (("overall", "paired", "p_holm"), 0.5),
    (("overall", "paired", "p_value"), 1.5),
    (("overall", "paired", "interval"), [0.1]),
    (("overall", "paired", "interval"), [0.1, 0.2, 0.3]),
    (("components", "mlp_output", "paired", "p_holm"), "0.1"),
    (("overall", "paired", "undefined"), {}),
    (("pairs", "swaps"), -1),
    (("components", "mlp_outputs"), None),
    (("in_one_only",), ["mlp_outputs"]),
    (("in_one_only",), ["gate_proj", "gate_proj"]),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=str)
def test_wrong_values_are_refused(document: Any, path: tuple[str, ...], value: Any) -> None:
    bad = changed(document, path[:-1], lambda each: each.update({path[-1]: value}))
    assert bad != document and not VALIDATOR.is_valid(bad)
