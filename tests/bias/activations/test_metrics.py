"""Every figure against what numpy says, and nothing in the results that JSON cannot hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optipfair import calculate_bias_metrics
from optipfair.bias.activations.capture import Groups
from optipfair.bias.activations.differences import Differences
from optipfair.bias.activations.layer_keys import LayerKey, layer_numbers, read_key
from optipfair.bias.activations.metrics import EMPTY, METRICS, NO_SIZE, Metric, Sums, four_groups
from optipfair.errors import ArgumentError, DataError, UnknownNameError

SCALE_FREE = ("relative_difference", "cosine_distance")
Array = np.ndarray[Any, Any]


def brute(one: Array, two: Array) -> dict[str, float]:
    """The eight figures of two arrays of one shape, as they are defined."""
    a, b = (np.asarray(x, np.float64).ravel() for x in (one, two))
    difference = np.abs(a - b)
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    return {
        "mean": difference.mean(),
        "max": difference.max(),
        "min": difference.min(),
        "std": difference.std(),
        "l1": difference.sum(),
        "l2": np.linalg.norm(a - b),
        "relative_difference": np.linalg.norm(a - b) / np.mean(lengths),
        "cosine_distance": 1 - a @ b / (lengths[0] * lengths[1]),
    }


def figures(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: found[name] for name in METRICS}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def strict(found: object) -> Any:
    return json.loads(json.dumps(found, allow_nan=False))


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1e-6, 1, 1e6]))
def test_figures_are_those_of_numpy(seed: int, tokens: int, units: int, scale: float) -> None:
    one, two = scale * drawn(seed, tokens, units), drawn(seed + 100, tokens, units)
    key = "up_proj_layer_2"
    found = strict(calculate_bias_metrics({key: one}, {key: two}))
    expected = brute(one.numpy(), two.numpy())
    assert set(expected) == set(METRICS)
    assert figures(found["layer_metrics"][key]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.integers(0, 99), st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_captured_sums_give_the_figures_of_numpy(seed: int, sizes: list[int]) -> None:
    one, two = drawn(seed, sum(sizes), 7), drawn(seed + 1, sum(sizes), 7)
    key = LayerKey("up_proj", 0)
    reducer = Differences([key], len(sizes))
    half = len(sizes) // 2  # two batches
    split = sum(sizes[:half])
    for start, some, rows in (
        (0, sizes[:half], slice(0, split)),
        (half, sizes[half:], slice(split, None)),
    ):
        if some:
            reducer.add(key, one[rows], two[rows], Groups(start, tuple(some)))
    measured = reducer.measured()
    for number, (a, b) in enumerate(zip(one.split(sizes), two.split(sizes), strict=True)):
        found = strict(measured.groups(number))["layer_metrics"]["up_proj_layer_0"]
        if len(a):
            assert figures(found) == pytest.approx(brute(a.numpy(), b.numpy()), rel=1e-4, abs=1e-6)
        else:
            assert figures(found) == dict.fromkeys(METRICS)
            assert found["undefined"] == dict.fromkeys(METRICS, EMPTY)


@given(st.integers(0, 99), st.sampled_from([1e-20, 1e-3, 1, 1e15]), st.booleans())
def test_identical_activations_differ_by_exactly_nothing(
    seed: int, scale: float, as_captured: bool
) -> None:
    values = {f"mlp_output_layer_{i}": scale * drawn(seed + i, 5, 6) for i in range(3)}
    if as_captured:
        rows = [Sums.of(each, each, [5]) for each in values.values()]
        found = four_groups([read_key(k) for k in values], Sums.joined(rows))
    else:
        found = calculate_bias_metrics(values, {k: v.clone() for k, v in values.items()})
    for group in (*found["layer_metrics"].values(), *found["component_metrics"].values()):
        assert figures(group) == dict.fromkeys(METRICS, 0.0)
    for trend in SCALE_FREE:
        assert found["progression_metrics"]["mlp_output"][trend]["slope"] == 0


def test_equal_differences_have_no_spread() -> None:
    one = drawn(0, 400, 300)
    sums = Sums.of(torch.zeros(400, 300), torch.full((400, 300), 0.1), [400])
    assert float(METRICS["std"].function(sums)) < 1e-7
    assert float(METRICS["std"].function(Sums.of(one, one + 1000, [400]))) < 1e-4


def test_figures_of_several_layers_are_those_of_all_their_elements() -> None:
    keys = ["up_proj_layer_4", "mlp_output_layer_0", "up_proj_layer_1", "up_proj_layer_9"]
    widths = (5, 3, 5, 5)
    act1 = {k: drawn(i, 4, w).numpy() for i, (k, w) in enumerate(zip(keys, widths, strict=True))}
    act2 = {k: v + drawn(len(k), *v.shape).numpy() for k, v in act1.items()}
    found = strict(calculate_bias_metrics(act1, act2))  # type: ignore[arg-type]

    def together(names: list[str]) -> dict[str, float]:
        joined = [np.concatenate([act[n].ravel() for n in names]) for act in (act1, act2)]
        single = [brute(act1[n], act2[n]) for n in names]
        means = {name: float(np.mean([each[name] for each in single])) for name in SCALE_FREE}
        return brute(*joined) | means

    ups = [name for name in keys if name.startswith("up_proj")]
    component = found["component_metrics"]
    assert figures(component["up_proj"]) == pytest.approx(together(ups))
    assert figures(component["mlp_output"]) == pytest.approx(together(keys[1:2]))
    assert figures(found["overall_metrics"]) == pytest.approx(together(keys))
    assert (component["up_proj"]["layers"], found["overall_metrics"]["layers"]) == (3, 4)

    trend = found["progression_metrics"]["up_proj"]
    assert trend["layers"] == [1, 4, 9]
    for name in ("mean", *SCALE_FREE):
        values = [
            brute(act1[f"up_proj_layer_{i}"], act2[f"up_proj_layer_{i}"])[name] for i in (1, 4, 9)
        ]
        assert trend[name]["values"] == pytest.approx(values)
        assert trend[name]["slope"] == pytest.approx(np.polyfit([1, 4, 9], values, 1)[0])
        assert (trend[name]["first"], trend[name]["last"]) == pytest.approx((values[0], values[2]))
        assert trend[name]["peak_layer"] == [1, 4, 9][int(np.argmax(values))]
    alone = found["progression_metrics"]["mlp_output"]["mean"]
    assert alone["slope"] is None and set(alone["undefined"]) == {"slope"}


def test_what_is_not_defined_is_null_with_the_reason() -> None:
    keys = [f"up_proj_layer_{i}" for i in range(3)]
    act1 = {key: torch.zeros(2, 3) for key in keys}
    act2 = {keys[0]: torch.zeros(2, 3), keys[1]: torch.ones(2, 3), keys[2]: torch.zeros(2, 3)}
    found = strict(calculate_bias_metrics(act1, act2))
    both, one = found["layer_metrics"][keys[0]], found["layer_metrics"][keys[1]]
    assert (both["mean"], both["l2"]) == (0, 0)
    assert both["undefined"] == dict.fromkeys(SCALE_FREE, NO_SIZE)
    assert one["relative_difference"] == 2 and one["undefined"] == {"cosine_distance": NO_SIZE}
    trend = found["progression_metrics"]["up_proj"]
    assert trend["relative_difference"]["values"] == [None, 2, None]
    assert trend["relative_difference"]["peak_layer"] == 1
    assert set(trend["relative_difference"]["undefined"]) == {"first", "last", "slope"}
    assert trend["cosine_distance"]["peak_layer"] is None
    assert found["overall_metrics"]["relative_difference"] == 2
    _has_reasons(found)


def _has_reasons(found: object) -> None:
    """Every null has its reason beside it, and only nulls have one."""
    if isinstance(found, dict):
        nulls = {name for name, value in found.items() if value is None}
        assert nulls == set(found.get("undefined", {}))
        for value in found.values():
            _has_reasons(value)


@given(st.integers(1, 12), st.integers(1, 12))
def test_unequal_lengths_are_compared_from_both_ends(first: int, second: int) -> None:
    key, shorter = "mlp_output_layer_0", min(first, second)
    one, two = drawn(1, first, 4).numpy(), drawn(2, second, 4).numpy()
    left, right = shorter // 2, math.ceil(shorter / 2)
    kept = [np.concatenate([x[:left], x[len(x) - right :]]) for x in (one, two)]
    found = calculate_bias_metrics({key: one}, {key: two})  # type: ignore[dict-item]
    assert figures(found["layer_metrics"][key]) == pytest.approx(brute(*kept))
    assert found["left_out"] == {key: [first - shorter, second - shorter]}


FORMS = [
    lambda x: x[None],
    lambda x: x.double(),
    lambda x: x.requires_grad_(),
    lambda x: x.numpy(),
    lambda x: np.flip(x.numpy()[::-1, ::-1]),
    lambda x: np.broadcast_to(x.numpy(), x.shape),  # read-only
    lambda x: x.tolist(),
]


@pytest.mark.parametrize("form", FORMS)
def test_activations_of_any_form_are_taken(form: Any) -> None:
    key, one, two = "mlp_output_layer_0", drawn(1, 5, 4), drawn(2, 5, 4)
    expected = calculate_bias_metrics({key: one}, {key: two})
    assert calculate_bias_metrics({key: form(one.clone())}, {key: two}) == expected


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.int8, torch.int64, torch.bool]
)
def test_other_dtypes_are_computed_exactly(dtype: torch.dtype) -> None:
    key, one, two = (
        "mlp_output_layer_0",
        (3 * drawn(1, 5, 4)).to(dtype),
        (3 * drawn(2, 5, 4)).to(dtype),
    )
    found = calculate_bias_metrics({key: one}, {key: two})["layer_metrics"][key]
    assert figures(found) == pytest.approx(brute(one.double().numpy(), two.double().numpy()))


def test_one_axis_is_one_token() -> None:
    key, one, two = "mlp_output_layer_0", drawn(1, 4), drawn(2, 4)
    found = calculate_bias_metrics({key: one}, {key: two})
    assert found == calculate_bias_metrics({key: one[None]}, {key: two[None, None]})


GOOD = {"mlp_output_layer_0": torch.ones(2, 3)}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({}, "act2 holds no activations"),
        (torch.ones(2, 3), "act2 holds no activations"),
        ({"mlp_output_layer_1": torch.ones(2, 3)}, "no key in common"),
        ({"mlp_output_layer_0": torch.ones(2, 4)}, "3 units in act1 and 4 in act2"),
        ({"mlp_output_layer_0": torch.ones(2, 2, 3)}, r"shape \(2, 2, 3\)"),
        ({"mlp_output_layer_0": torch.tensor(1.0)}, r"shape \(\)"),
        ({"mlp_output_layer_0": torch.ones(0, 3)}, r"shape \(0, 3\)"),
        ({"mlp_output_layer_0": torch.full((2, 3), torch.nan)}, "NaN or Inf"),
        ({"mlp_output_layer_0": torch.full((2, 3), torch.inf)}, "NaN or Inf"),
        ({"mlp_output_layer_0": torch.ones(2, 3, dtype=torch.complex64)}, "complex"),
        ({"mlp_output_layer_0": "text"}, "is no tensor"),
        ({"mlp_output_layer_0": np.array([{}, {}])}, "is no tensor"),
    ],
)
def test_what_cannot_be_compared_is_refused(other: Any, message: str) -> None:
    for pair in ((GOOD, other), (other, GOOD)) if "units" not in message else ((GOOD, other),):
        with pytest.raises(DataError, match=message.replace("act2 holds", "act. holds")):
            calculate_bias_metrics(*pair)


def test_keys_are_checked_and_those_of_one_side_are_named() -> None:
    more = {**GOOD, "up_proj_layer_10": torch.ones(1, 1)}
    assert calculate_bias_metrics(more, GOOD)["in_one_only"] == ["up_proj_layer_10"]
    for key, kind in (
        ("mlp_output", ArgumentError),
        ("mlp_output_layer_03", ArgumentError),
        ("mlp_outputs_layer_3", UnknownNameError),
    ):
        with pytest.raises(kind, match="mlp_output"):
            calculate_bias_metrics({key: torch.ones(1, 1)}, {key: torch.ones(1, 1)})


def test_a_metric_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Metric("Root mean square.", lambda sums: (sums.squared / sums.number).sqrt())
    monkeypatch.setitem(METRICS, "root_mean_square", metric)
    found = calculate_bias_metrics(GOOD, {"mlp_output_layer_0": 4 * torch.ones(2, 3)})
    assert found["layer_metrics"]["mlp_output_layer_0"]["root_mean_square"] == 3
    assert found["overall_metrics"]["root_mean_square"] == 3


def test_layers_are_chosen_by_word_or_number() -> None:
    for given_layers in ([3, 1, 3], (1, 3), range(1, 4, 2), np.array([1, 3]), torch.tensor([3, 1])):
        assert layer_numbers(given_layers, 4) == [1, 3]
    assert layer_numbers("all", 3) == [0, 1, 2]
    assert layer_numbers("first_middle_last", 1) == [0]
    for wrong in ([], [True], [1.0], ["1"], 2, None, np.array(2), np.array([[1]]), {1: 2}):
        with pytest.raises(ArgumentError, match="no list of layer numbers"):
            layer_numbers(wrong, 4)
    for outside in (4, -1):
        with pytest.raises(ArgumentError, match="layers 0 to 3"):
            layer_numbers([0, outside], 4)
    with pytest.raises(UnknownNameError, match="Did you mean 'first_middle_last'"):
        layer_numbers("first_middle", 4)


def test_figures_answer_to_the_names_of_the_published_package_too() -> None:
    keys = [f"mlp_output_layer_{layer}" for layer in range(3)]
    zero = {key: torch.zeros(2, 4) for key in keys}
    rising = {
        key: torch.full((2, 4), value) for key, value in zip(keys, (1.0, 4.0, 2.0), strict=True)
    }
    found = calculate_bias_metrics(zero, rising)
    layer, whole = found["layer_metrics"][keys[1]], found["overall_metrics"]
    names = ("mean", "max", "min", "std")
    assert [layer[f"{name}_difference"] for name in names] == [layer[name] for name in names]
    assert (layer["l1_norm"], layer.get("l2_norm")) == (32, layer["l2"])
    assert "mean_difference" in layer and "num_layers" not in layer
    assert whole["num_layers"] == whole["total_layers"] == whole["layers"] == 3
    assert layer.get("nothing", 7) == 7
    with pytest.raises(KeyError, match="nothing"):
        layer["nothing"]
    depth = found["progression_metrics"]["mlp_output"]
    assert depth["mean_diffs_by_layer"] == [1, 4, 2]
    assert (depth["layer_with_max_diff"], depth["is_increasing"]) == (1, True)
    assert (depth["first_to_last_ratio"], depth["max_to_first_ratio"]) == (0.5, 4)
    assert "mean_difference" not in strict(layer)


def test_ratios_of_differences_that_are_not_there_are_none() -> None:
    key = "mlp_output_layer_0"
    found = calculate_bias_metrics({key: torch.ones(2, 4)}, {key: torch.ones(2, 4)})
    depth = found["progression_metrics"]["mlp_output"]
    assert (depth["first_to_last_ratio"], depth["max_to_first_ratio"]) == (None, None)
    assert depth["is_increasing"] is False
