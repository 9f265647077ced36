"""What a study gives follows the published schema, and nothing else does."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from optipfair import visualize_bias
from optipfair.bias import COMPONENTS
from optipfair.bias.activations.metrics import METRICS
from optipfair.testing import byte_tokenizer, tiny_model

PAIR = ("The tall man slept.", "The small woman slept.")
TWO = [PAIR, ("A dog ran", "A dog ran")]
SCHEMA = json.loads(files("optipfair.bias").joinpath("bias_metrics.schema.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def run(model: Any, pairs: Any, **keywords: Any) -> Any:
    _, found = visualize_bias(model, byte_tokenizer(), pairs, [], show_progress=False, **keywords)
    return found


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "opt", "qwen3_moe", "bloom"])
@pytest.mark.parametrize("controls", [0, 2])
def test_the_output_follows_the_schema(family: str, controls: int) -> None:
    found = run(
        *(tiny_model(family), [*TWO, ("x", "y")]),
        components=list(COMPONENTS),
        controls=controls,
    )
    VALIDATOR.validate(json.loads(json.dumps(found, allow_nan=False)))


def test_undefined_values_follow_the_schema() -> None:
    silent: Any = tiny_model("llama")
    silent.model.layers[2].mlp.down_proj.weight.data.zero_()
    found = run(silent, [PAIR], components=["down_proj"], controls=2)
    assert (
        found["pair_1"]["metrics"]["layer_metrics"]["down_proj_layer_2"]["cosine_distance"] is None
    )
    assert found["summary"]["keys"]["down_proj_layer_2"]["p_holm"] is None
    assert found["summary"]["overall"]["excess"] is not None
    VALIDATOR.validate(json.loads(json.dumps(found, allow_nan=False)))


def test_the_schema_is_one_and_names_every_metric_and_component() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    parts = SCHEMA["$defs"]
    for part, more in (("LayerFigures", set()), ("Figures", {"layers"})):
        assert set(parts[part]["patternProperties"]) == {f"^{name}$" for name in METRICS}
        assert set(parts[part]["required"]) == {*METRICS, *more}
        for own in parts[part]["patternProperties"].values():
            assert own["description"]
    by_component = parts["PairMetrics"]["properties"]["component_metrics"]
    assert by_component["propertyNames"]["enum"] == list(COMPONENTS)
    trends = {name for name in METRICS if METRICS[name].scale_free} | {"mean", "layers"}
    assert set(parts["Progression"]["required"]) == trends


def dicts(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where the dicts are whose keys the schema fixes."""
    if isinstance(value, dict) and not {"reasons", "undefined"} & set(path):
        yield path
        for key, inner in value.items():
            yield from dicts(inner, (*path, key))


def spoiled(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The document with a key too many, or with all of a dict's keys gone."""
    for path in dicts(found):
        for empty in (False, True):
            copied = copy.deepcopy(found)
            target = at(copied, path)
            if not empty:
                target["surprise"] = 1
            elif target:
                target.clear()
            if path[-1:] != ("categories",) and target != at(found, path):
                yield copied


def at(document: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


WRONG_VALUES: list[tuple[tuple[str, ...], Any]] = [
    (("version",), 2),
    (("version",), "1"),
    (("pair_1", "coverage", "units"), -1),
    (("pair_1", "coverage", "units"), 1.5),
    (("pair_1", "prompt1"), None),
    (("pair_1", "controls"), [["only one"]]),
    (("pair_1", "metrics", "overall_metrics", "mean"), "0.1"),
    (("pair_1", "metrics", "overall_metrics", "std"), -0.1),
    (("pair_1", "metrics", "overall_metrics", "cosine_distance"), 2.5),
    (("summary", "overall", "p_value"), 1.5),
    (("summary", "overall", "interval"), [0.1]),
    (("summary", "overall", "interval"), [0.1, 0.2, 0.3]),
    (("summary", "missing"), {"mlp_outputs": {"1": "why"}}),
    (("summary", "missing"), {"mlp_output": {"one": "why"}}),
    (("summary", "keys", "up_proj_layer_01"), None),
]


def test_spoiled_documents_are_refused() -> None:
    pairs = [PAIR, ("A big red house", "A big blue house")]
    found = run(tiny_model("llama"), pairs, components=["up_proj"], controls=2)
    VALIDATOR.validate(found)
    documents = list(spoiled(found))
    assert len(documents) > 30
    assert not [bad for bad in documents if VALIDATOR.is_valid(bad)]
    for path, value in WRONG_VALUES:
        bad = copy.deepcopy(found)
        at(bad, path[:-1])[path[-1]] = value
        assert not VALIDATOR.is_valid(bad), path


def test_a_loop_over_the_result_meets_pairs_alone() -> None:
    pairs = [("The white man", "The Black man"), ("A tall man", "A short man")]
    found = run(tiny_model("llama"), pairs, controls=1)
    assert [name for name, _ in found.items()] == list(found.pairs) == ["pair_1", "pair_2"]
    assert [pair["prompt1"] for _, pair in found.items()] == [one for one, _ in pairs]
    assert len(found.values()) == 2
    assert found["summary"] == found.summary and found.version == found["version"] == 1
    assert found.model == found["model"] and "optipfair" in found


def test_json_and_copies_hold_all_of_it() -> None:
    found = run(tiny_model("llama"), [("The white man", "The Black man")], controls=1)
    whole = found.to_dict()
    assert {"version", "optipfair", "model", "summary", "pair_1"} == set(whole)
    for written in (json.dumps(found), json.dumps(found, indent=1), json.dumps({"a": found})):
        assert json.loads(written) in (whole, {"a": whole})
    for copied in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert copied == found and copied.to_dict() == whole
        assert copied["pair_1"]["metrics"]["overall_metrics"]["mean_difference"] > 0
