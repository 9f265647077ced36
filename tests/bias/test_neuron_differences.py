"""What each neuron differs between two prompts, against activations compared by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from optipfair import analyze_neuron_bias, get_activation_pairs
from optipfair.errors import ArgumentError, UnknownNameError
from optipfair.testing import byte_tokenizer, tiny_model

# One letter for one letter, so that tokens are compared one to one, the edited word as a whole.
PAIRS = [("A big dog", "A bad dog"), ("The x man", "The y man")]
TOKENIZER = byte_tokenizer()


def by_hand(model: Any, key: str, pair: tuple[str, str], at: int, size: int) -> Any:
    """|a - b| of each compared unit of tokens but the first token, the edited ones as one."""
    one, two = get_activation_pairs(model, TOKENIZER, *pair)
    first, second = one[key][0], two[key][0]
    edited = slice(at, at + size)
    rows = [i for i in range(1, len(first)) if not at <= i < at + size]
    pooled = first[edited].mean(dim=0) - second[edited].mean(dim=0)
    return torch.cat([first[rows] - second[rows], pooled[None]]).abs()


@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_pairs_and_tokens_become_one_number(
    aggregation: str, unchanged: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with unchanged(model):
        found = analyze_neuron_bias(
            model, TOKENIZER, PAIRS, aggregation=aggregation, show_progress=False
        )
    assert list(found) == [f"{n}_proj_layer_{i}" for n in ("gate", "up") for i in range(4)]
    for key, values in found.items():
        apart = [by_hand(model, key, PAIRS[0], 2, 3), by_hand(model, key, PAIRS[1], 4, 1)]
        wanted = (
            torch.stack([rows.mean(dim=0) for rows in apart]).mean(dim=0)
            if aggregation == "mean"
            else torch.cat(apart).amax(dim=0)
        )
        torch.testing.assert_close(values, wanted)


@pytest.mark.parametrize(
    ("targets", "keys"),
    [
        (["attention"], [f"attention_output_layer_{i}" for i in range(4)]),
        (["down_proj_input", 1], ["neuron_output_layer_1"]),
        ([0], ["gate_proj_layer_0", "up_proj_layer_0"]),
        (["up_proj_layer_3", "down_proj_layer_0"], ["down_proj_layer_0", "up_proj_layer_3"]),
    ],
    ids=str,
)
def test_targets_are_components_layers_or_keys(targets: Any, keys: list[str]) -> None:
    found = analyze_neuron_bias(tiny_model("llama"), TOKENIZER, PAIRS, targets, show_progress=False)
    assert list(found) == keys


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"aggregation": "sum"}, UnknownNameError, "aggregation 'sum'"),
        ({"target_layers": "gate_proj"}, ArgumentError, "no list of targets"),
        ({"target_layers": []}, ArgumentError, "no list of targets"),
        ({"target_layers": ["gate"]}, UnknownNameError, "'gate'"),
        ({"target_layers": [4]}, ArgumentError, "0 to 3"),
        ({"target_layers": ["up_proj_layer_4"]}, ArgumentError, "0 to 3"),
        ({"prompt_pairs": []}, ArgumentError, "prompt_pairs is empty"),
    ],
    ids=str,
)
def test_what_cannot_be_analyzed_is_refused(
    given: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        analyze_neuron_bias(tiny_model("llama"), TOKENIZER, **{"prompt_pairs": PAIRS, **given})
